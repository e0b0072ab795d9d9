"""Charts as files, the tiny policies that solve them, and a policy whose words are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mprm.chartworld.world import draw, question_text, sample_problems, true_items
from mprm.data.questions import Question
from mprm.inference.local import LocalPolicy
from mprm.inference.policy import Completion, Keep, Prompt

WEIGHTS = Path(__file__).parents[2] / "mprm" / "chartworld" / "weights"


def policy(family: str, **options: Any) -> LocalPolicy:
    """The tiny policy of a family."""
    defaults = {"max_tiles": 1, "dtype": "float32", "separator": "\n", "max_new_tokens": 96}
    return LocalPolicy(path=str(WEIGHTS / family), **{**defaults, **options})


@pytest.fixture(scope="session")
def tiny_policy() -> Callable[..., LocalPolicy]:
    return policy


@pytest.fixture(scope="session")
def charts(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Questions about 64 charts; their images are absolute paths."""
    folder = tmp_path_factory.mktemp("charts")
    problems = sample_problems(np.random.default_rng(7), 64)
    answers = true_items(problems)[np.arange(64), 2 * problems.n_operands_P - 1]
    for number, pixels in enumerate(draw(problems)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [
        Question(f"q{n}", "charts", (str(folder / f"{n}.png"),), question_text(problems, n), str(answers[n]))
        for n in range(64)
    ]


@dataclass
class Scripted:
    """A policy that goes on from `steps` with script[steps], its n completions taken in turn; it notes its prompts.

    refused: image files that it cannot look at; fails_at: the call of complete() that is interrupted; long: steps
    that are too long for it; paid: it hands over its completions one by one, and is interrupted at the prompt of this
    number.
    """

    script: Mapping[tuple[str, ...], Sequence[Completion]]
    refused: tuple[str, ...] = ()
    fails_at: int | None = None
    long: tuple[tuple[str, ...], ...] = ()
    paid: int | None = None
    separator: str = "\n"
    calls: list[list[Prompt]] = field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        return {}

    def refusal(self, images: Sequence[Path]) -> str | None:
        return "unreadable_image" if {path.name for path in images} & set(self.refused) else None

    def complete(self, prompts: Sequence[Prompt], keep: Keep | None = None) -> list[list[Completion]]:
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append([])
        found = []
        for p in prompts:
            if sum(map(len, self.calls)) == self.paid:
                raise KeyboardInterrupt
            self.calls[-1].append(p)
            script = self.script[p.steps]
            found.append([] if p.steps in self.long else [script[n % len(script)] for n in range(p.n)])
            if self.paid is not None and keep is not None:
                keep(p, found[-1])
        return found


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted
