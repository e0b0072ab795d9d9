"""The Python API of judges: which of two answers is better, and how good each of several is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from omegaconf import OmegaConf
from PIL import Image

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.batching.examples import on_white
from mprm.config import bind, judge_of
from mprm.inference.rewards import Pictures
from mprm.judge.compare import Comparison, comparisons, shares_of_wins, voting
from mprm.judge.judge import JudgeSettings, sampler_of
from mprm.runs.artifacts import last_trained
from mprm.runs.hub import local
from mprm.scorer import load_trained
from mprm.training.checkpoint import load_weights


class Judge:
    """Compares answers: it reasons about two of them, and ends in a verdict.

    judge = Judge.from_pretrained("exported_judge")
    found = judge.compare("chart.png", "What is blue plus purple?", "It is 10.", "It is 7.", votes=8)
    found.winner, found.share, found.reasoning
    """

    def __init__(
        self,
        settings: JudgeSettings,
        processor: ChatProcessor,
        model: ChatModel,
        max_length: int,
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        self.settings = settings
        self.processor = processor
        self.model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self.max_length = max_length  # tokens of a prompt and its response
        self.seed = seed

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | None = None, dtype: str | None = None, seed: int = 0
    ) -> Judge:
        """The judge of a folder that task=export wrote, on this disk or on the hub (ORG/NAME), or of a run, runs/NAME.

        device, dtype: as StepScorer.from_pretrained(); seed: of what is drawn.
        Raises ValueError if the folder is neither, or its weights are missing, and as mprm.runs.hub.explained().
        """
        folder = Path(local("path", str(path)))
        settings = judge_of(folder)
        if settings is None:
            raise ValueError(f"{folder} is no judge; give a folder that task=export wrote of one, or its run")
        backbone, processor, model = load_trained(folder, dtype, device)
        model.train_generation()
        if (folder / "config.yaml").is_file():
            load_weights(model, last_trained(folder))
        bound = bind(OmegaConf.create({"judge": settings})["judge"])
        return cls(bound, processor, model, backbone.max_length, device, seed)

    def compare(
        self, image: Pictures, prompt: str, a: str, b: str, votes: int = 1, both_orders: bool = True
    ) -> Comparison:
        """Which of two answers to a prompt about images is better.

        image: a path or a picture, or several, or None. votes: responses in each order of the answers; one is written
        at settings.evaluation_temperature, several are drawn at settings.vote_temperature: the same of the same prompt
        and answers, whatever was asked before. both_orders: the judge is shown b first, too.
        Raises ValueError if an image cannot be read, a text is empty, the answers are the same, or all is too long.
        """
        ((_, _, found),) = self._compared(image, prompt, [a, b], votes, both_orders)
        return found

    def scores(
        self, image: Pictures, prompt: str, answers: Sequence[str], votes: int = 1, both_orders: bool = True
    ) -> list[float]:
        """How good each of several answers is, in [0, 1]: its share of wins against every other, a tie being half a
        win. Of n answers n (n - 1) / 2 pairs are compared; raises as compare(), and if there are fewer than two."""
        if isinstance(answers, str) or len(answers) < 2:
            raise ValueError(f"answers={answers!r} leave nothing to compare; give a list of two texts or more")
        return shares_of_wins(len(answers), self._compared(image, prompt, answers, votes, both_orders))

    def _compared(
        self, image: Pictures, prompt: str, answers: Sequence[str], votes: int, both_orders: bool
    ) -> list[tuple[int, int, Comparison]]:
        if not isinstance(votes, int) or votes < 1:
            raise ValueError(f"votes={votes} is no positive whole number; give 1, or more for a vote")
        for text in (prompt, *answers):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{text!r} is no prompt and no answer; give a text")
        for a, b in combinations(answers, 2):
            if a == b:
                raise ValueError(f"both answers are {a!r}; give two that differ")
        temperature = voting(self.settings, votes)[1]
        sampler = sampler_of(self.settings, self.processor, self.model, self.max_length, temperature, self.seed)
        with TemporaryDirectory() as folder:
            paths = tuple(_paths(image, Path(folder)))
            found = comparisons(self.settings, sampler, paths, prompt, answers, votes, both_orders)
        if found is None:
            raise ValueError(
                f"the prompt with two answers and a response of {self.settings.max_new_tokens} tokens has more than "
                f"max_length={self.max_length}; shorten the texts, or show fewer images"
            )
        return found


def _paths(image: Pictures, folder: Path) -> Iterator[Path]:
    """The files of images; pictures become some in the folder."""
    shown = [image] if isinstance(image, str | Path | Image.Image) else list(image or ())
    for number, one in enumerate(shown):
        if isinstance(one, Image.Image):
            on_white(one).save(folder / f"{number}.png")
            one = folder / f"{number}.png"
        yield Path(one)
