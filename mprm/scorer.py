"""The Python API: a trained process reward model that scores the steps of solutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mprm.backbones.auto import family_of
from mprm.backbones.base import Backbone, Processor, StepModel
from mprm.backbones.loading import PROMPT
from mprm.batching.examples import on_white, open_images
from mprm.config import config_of_run
from mprm.inference.scoring import OpenImages, Scored, ScoreRequest, Scoring
from mprm.metrics.predictions import NotScored, StepScores
from mprm.runs.artifacts import read_json
from mprm.training.checkpoint import load_weights

Picture = str | Path | Image.Image
Pictures = Picture | Sequence[Picture]  # of one question

MAX_TOKENS = 16_384  # of one forward pass


class StepScorer:
    """Scores steps: P(this step is correct) in [0, 1].

    Solutions of one question share its images and prompt, which are computed once per forward pass of at most
    `max_tokens` tokens. Neither that nor the company of a solution changes its scores (1e-5 in float32).

        scorer = StepScorer.from_pretrained("exported")
        scorer.score("chart.png", "What is blue plus purple?", ["blue is 3.", "purple is 7.", "The answer is 10."])
    """

    def __init__(
        self,
        processor: Processor,
        model: StepModel,
        max_length: int,
        max_tokens: int = MAX_TOKENS,
        device: str | None = None,
    ) -> None:
        self.processor = processor
        self.model = model
        self.max_length = max_length
        self.max_tokens = max_tokens
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | None = None, dtype: str | None = None, max_tokens: int = MAX_TOKENS
    ) -> StepScorer:
        """The model of a folder that task=export wrote, or of a run, runs/NAME.

        device: as torch names it, by default CUDA where there is one; dtype: of the weights, float32 or bfloat16, by
        default as they are stored, or as the run's backbone.dtype says.
        Raises ValueError if the folder is neither, or its weights are missing.
        """
        folder = Path(path)
        if (folder / "config.yaml").is_file():
            backbone: Backbone = config_of_run(folder).backbone
        elif (folder / PROMPT).is_file():
            if not (folder / "config.json").is_file():
                raise ValueError(
                    f"{path} is of a backbone of your own; give backbone=NAME backbone.path={path} instead of run="
                )
            options = read_json(folder / PROMPT)
            backbone = family_of(folder)(path=str(folder), dtype="stored", **options)
        else:
            raise ValueError(f"{path} is no trained model; give a folder that task=export wrote, or a run, runs/NAME")
        processor, model = (backbone if dtype is None else replace(backbone, dtype=dtype)).load()
        if (folder / "config.yaml").is_file():
            load_weights(model, folder / "weights.safetensors")
        return cls(processor, model, backbone.max_length, max_tokens, device)

    def score(self, image: Pictures, question: str, steps: Sequence[str]) -> np.ndarray:
        """Scores of the steps of one solution, (n_steps,).

        image: a path or a picture, or several. Raises ValueError if one cannot be read, or the solution is too long.
        """
        return self.score_batch([(image, question, steps)])[0]

    def score_candidates(self, image: Pictures, question: str, candidates: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Scores of the steps of many solutions of one question, (n_steps,) each; raises as score()."""
        return self.score_batch([(image, question, steps) for steps in candidates])

    def score_batch(self, solutions: Sequence[tuple[Pictures, str, Sequence[str]]]) -> list[np.ndarray]:
        """Scores of the steps of any solutions (image, question, steps), (n_steps,) each; raises as score()."""
        return [np.array(found.scores) for found in self.step_scores(solutions)]

    def step_scores(self, solutions: Sequence[tuple[Pictures, str, Sequence[str]]]) -> list[StepScores]:
        """All that the model says of the steps: log odds, and how sure it is; raises as score()."""
        pictures: dict[str, Picture] = {}
        requests = []
        for number, (image, question, steps) in enumerate(solutions):
            shown = [image] if isinstance(image, str | Path | Image.Image) else list(image)
            # one name for one picture, so that its solutions share it
            names = [f"picture {id(one)}" if isinstance(one, Image.Image) else str(one) for one in shown]
            pictures |= zip(names, shown, strict=True)
            if isinstance(steps, str) or not steps:
                raise ValueError(f"steps of solution {number} are {steps!r}; give a list of at least one text")
            requests.append(ScoreRequest(str(number), names, question, steps))

        def opened(picture: Picture) -> Image.Image:
            return on_white(picture) if isinstance(picture, Image.Image) else open_images([Path(picture)])[0]

        found = dict(self.scored(requests, lambda names: [opened(pictures[name]) for name in names]))
        results = []
        for number in range(len(solutions)):
            scored = found[str(number)]
            if isinstance(scored, NotScored):
                raise ValueError(f"solution {number} cannot be scored: {scored.message}")
            results.append(scored)
        return results

    def scored(self, solutions: Sequence[ScoreRequest], open_images: OpenImages) -> Scored:
        """Scores of solutions by id as they come, or why there are none: for many, of which some may be unusable."""
        scoring = Scoring(self.model, self.processor, self.max_length, self.max_tokens, self.device)
        return scoring.scores(solutions, open_images)
