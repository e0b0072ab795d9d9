"""The Python API: a trained process reward model that scores the steps of solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mprm.backbones.auto import family_of
from mprm.backbones.base import Backbone, Processor, StepModel
from mprm.backbones.loading import PROMPT
from mprm.batching.examples import on_white, open_images
from mprm.config import config_of_run, judge_of
from mprm.inference.rewards import Messages, Picture, Pictures, StepRewards, read_completions
from mprm.inference.scoring import SEPARATOR, OpenImages, Scored, ScoreRequest, Scoring
from mprm.metrics.best_of_n import AGGREGATORS, check_aggregate
from mprm.metrics.predictions import NotScored, StepScores
from mprm.runs.artifacts import REWARD_FILE, read_json
from mprm.runs.hub import local
from mprm.tasks import REWARD_MODEL
from mprm.training.checkpoint import load_weights

MAX_TOKENS = 16_384  # of one forward pass


def load_trained(folder: Path, dtype: str | None, device: str | None) -> tuple[Backbone, Any, Any]:
    """Backbone, processor and model of a folder that task=export wrote; of a run without what it has learnt.

    Raises ValueError if the folder is neither, or torch cannot use the device, where they will go."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the second: torch without CUDA
        raise ValueError(f"device={device} cannot be used ({str(error).splitlines()[0]}); try cpu or cuda") from None
    if (folder / "config.yaml").is_file():
        backbone: Backbone = config_of_run(folder).backbone
    elif (folder / PROMPT).is_file():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} is of a backbone of your own; give backbone=NAME backbone.path={folder} instead of run="
            )
        options = read_json(folder / PROMPT)
        backbone = family_of(folder, options.get("exact", True))(path=str(folder), dtype="stored", **options)
    else:
        raise ValueError(f"{folder} is no trained model; give a folder that task=export wrote, or a run, runs/NAME")
    return (backbone, *(backbone if dtype is None else replace(backbone, dtype=dtype)).load())


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
        num_workers: int = 0,
    ) -> None:
        self.processor = processor
        self.model = model
        self.max_length = max_length
        self.max_tokens = max_tokens
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.num_workers = num_workers

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | None = None,
        dtype: str | None = None,
        max_tokens: int = MAX_TOKENS,
        num_workers: int = 0,
    ) -> StepScorer:
        """The model of a folder that task=export wrote, on this disk or on the hub (ORG/NAME), or of a run, runs/NAME.

        device: as torch names it, by default CUDA where there is one; dtype: of the weights, float32 or bfloat16, by
        default as they are stored, or as the run's backbone.dtype says; num_workers: processes that decode images
        ahead, worth it for hundreds of solutions on a GPU.
        Raises ValueError if the folder is neither, or its weights are missing, and as mprm.runs.hub.explained().
        """
        folder = Path(local("path", str(path)))
        if judge_of(folder) is not None:
            raise ValueError(f"{path} is a judge, which compares answers; give it to mprm.Judge or to task=compare")
        is_run = (folder / "config.yaml").is_file()
        if (folder / REWARD_FILE).is_file() or (is_run and config_of_run(folder).task == REWARD_MODEL):
            raise ValueError(
                f"{path} is a reward model, which scores answers and no steps; task=export writes how to use it into "
                "its README.md"
            )
        backbone, processor, model = load_trained(folder, dtype, device)
        if is_run:
            load_weights(model, folder / "weights.safetensors")
        return cls(processor, model, backbone.max_length, max_tokens, device, num_workers)

    def score(self, image: Pictures, question: str, steps: Sequence[str]) -> np.ndarray:
        """Scores of the steps of one solution, (n_steps,).

        image: a path or a picture, or several, or None. Raises ValueError if one cannot be read, or the solution is too
        long.
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
        results = []
        for number, found in enumerate(self._found(solutions)):
            if isinstance(found, NotScored):
                raise ValueError(f"solution {number} cannot be scored: {found.message}")
            results.append(found)
        return results

    def reward(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        images: Sequence[Pictures] | None = None,
        question: Sequence[str] | None = None,
        aggregate: str = "mean",
        separator: str = SEPARATOR,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,  # TRL hands over every column of the data set, and its own state: a signature must take them
    ) -> list[float | None]:
        """What every completion is worth: a reward function for TRL's GRPOTrainer. Larger is better. None, from which
        TRL learns nothing, where the completion is empty or too long or an image cannot be read.

        prompts, completions: texts, or chats. A prompt's question is the text of its one user message, a completion
        is one message. Completions of one prompt share its images and question in a forward pass.
        images: of every prompt, a picture, several or None, by default `image` of the columns, or those in its chat.
        question: in place of the prompts' texts, which may hold instructions to the policy.
        aggregate: of the step scores: mean, min, last (in [0, 1]), product (its log) or sum_logits.
        separator: of the steps in a completion. log_metric: is told the share that has no reward, as "not_scored".
        Raises ValueError for an unknown aggregate, or prompts or completions of another form.
        """
        check_aggregate(aggregate)
        for name, values in columns.items():  # a column is a list: a text is an option that was misspelt
            if isinstance(values, str):
                raise ValueError(f"{name}={values!r} is no option of reward(); there are aggregate and separator")
        shown = columns.get("image") if images is None else images
        found = self.step_rewards(prompts, completions, shown, question, separator)
        worth_of = AGGREGATORS[aggregate]
        worth = [None if isinstance(one, NotScored) else worth_of(np.array(one.log_odds)) for one in found]
        if log_metric is not None and worth:
            log_metric("not_scored", worth.count(None) / len(worth))
        return worth

    def step_rewards(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        images: Sequence[Pictures] | None = None,
        question: Sequence[str] | None = None,
        separator: str = SEPARATOR,
    ) -> list[StepRewards | NotScored]:
        """The scores of every completion's steps with their places in its text, or why it has none; as reward()."""
        asked = read_completions(prompts, completions, images, question, separator)
        scored = iter(self._found([(one.images, one.question, one.steps) for one in asked if one.spans]))
        results: list[StepRewards | NotScored] = []
        for one in asked:
            found = next(scored) if one.spans else NotScored("no_steps", "the completion is empty")
            if isinstance(found, StepScores):
                found = StepRewards(found.log_odds, found.kappa, tuple(one.spans))
            results.append(found)
        return results

    def _found(self, solutions: Sequence[tuple[Pictures, str, Sequence[str]]]) -> list[StepScores | NotScored]:
        """What is found of every solution, or why it is not scored."""
        pictures: dict[str, Picture] = {}
        requests = []
        for number, (image, question, steps) in enumerate(solutions):
            shown = [image] if isinstance(image, str | Path | Image.Image) else list(image or ())
            # one name for one picture, so that its solutions share it
            names = [f"picture {id(one)}" if isinstance(one, Image.Image) else str(one) for one in shown]
            pictures |= zip(names, shown, strict=True)
            if isinstance(steps, str) or not steps:
                raise ValueError(f"steps of solution {number} are {steps!r}; give a list of at least one text")
            requests.append(ScoreRequest(str(number), names, question, steps))

        def opened(picture: Picture) -> Image.Image:
            return on_white(picture) if isinstance(picture, Image.Image) else open_images([Path(picture)])[0]

        found = dict(self.scored(requests, lambda names: [opened(pictures[name]) for name in names]))
        return [found[str(number)] for number in range(len(solutions))]

    def scored(self, solutions: Sequence[ScoreRequest], open_images: OpenImages) -> Scored:
        """Scores of solutions by id as they come, or why there are none: for many, of which some may be unusable."""
        machine = self.max_tokens, self.device, self.num_workers
        scoring = Scoring(self.model, self.processor, self.max_length, *machine)
        return scoring.scores(solutions, open_images)
