"""How a judge is asked, and what it must answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mprm.data.preferences import Pair

NAMES = ("A", "B")


def letter(following: str = r"\Z") -> str:
    """The pattern of a letter that is a verdict: "A", "(b)", "Answer A"; not "a matter of taste", "A or B", "AB"."""
    return (
        r"\W{0,8}(?:\b(?:answer|response|option|choice)\W{1,5})?(?-i:(?P<upper>[AB])(?![\w'])|(?P<lower>[ab])"
        rf"(?=\s{{0,3}}(?:[.,;:!)\]}}\n]|because\b|since\b)|{following}))(?!\W{{1,5}}(?:or|and)\b)"
    )


BETTER = r"\W{1,5}is\s(?:the\s)?(?:clearly\s)?(?:better|best|preferred|preferable)\b"
IN_OTHER_WORDS = (
    r"\b(?:verdict|decision|preference|(?:final|better|best|preferred)\s(?:answer|one)|answer)\s{0,3}(?::|is\b:?)"
    + letter(),
    r"(?:\[\[|\\boxed\{(?:\\text\{)?)" + letter(),
    r"\bI\s(?:prefer|choose|pick)\b" + letter(),
    rf"(?:^|[\n.]){letter(BETTER)}{BETTER}",
    rf"(?:^|\n){letter()}\W{{0,8}}\Z",
)
EMPHASIS = re.compile(r"[*_`\"]+")


@dataclass(frozen=True)
class Shown:
    """A pair as a judge sees it. text: the question and both answers; better: the name that the label gives the better
    one, A or B; swapped: the record's answer_b is shown as A."""

    pair: Pair
    images: tuple[Path, ...]
    text: str
    better: str
    swapped: bool


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Component `judge`.

    instruction: stands below the question and both answers; verdict: how a response must end, `{}` stands for A or B;
    temperature, samples: of the responses whose mean entropy is that of a pair, temperature also of those that
    reinforcement learning draws; evaluation_temperature: of the one response per order whose verdict is measured;
    max_new_tokens: a response that does not end within them has no verdict; max_tokens: held at once while responses
    are written.
    """

    instruction: str = ""
    verdict: str = "The better answer is {}."
    temperature: float = 1.0
    samples: int = 1
    evaluation_temperature: float = 0.0
    max_new_tokens: int = 1024
    max_tokens: int = 65_536

    def __post_init__(self) -> None:
        if self.verdict.count("{}") != 1 or not self.verdict.replace("{}", "").strip():
            raise ValueError(f"judge.verdict={self.verdict} has no single {{}}; try 'The better answer is {{}}.'")
        for name in ("temperature", "evaluation_temperature"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"judge.{name}={getattr(self, name)} is negative; 0 takes the most likely token")
        for name in ("samples", "max_new_tokens", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"judge.{name}={getattr(self, name)} is not positive")

    @cached_property
    def _ending(self) -> re.Pattern[str]:
        before, after = map(re.escape, self.verdict.strip().split("{}"))
        return re.compile(f"{before}({'|'.join(NAMES)}){after}")

    def verdict_of(self, response: str) -> str | None:
        """A or B; None unless the response is reasoning that ends in the one verdict in it, word for word: what
        reinforcement learning rewards as the format."""
        found = list(self._ending.finditer(response))
        text = response.strip()
        if len(found) != 1 or not text.endswith(found[0][0]) or text == found[0][0]:
            return None
        return found[0][1]

    @cached_property
    def _readings(self) -> list[re.Pattern[str]]:
        before, after = (re.findall(r"[^\W_]+", part) for part in self.verdict.split("{}"))
        own = r"\b" + r"\W{1,5}".join(before) if before else re.escape(self.verdict.strip().split("{}")[0])
        following = "".join(rf"\W{{1,5}}{word}\b" for word in after)
        words = own + letter(following or r"\Z") + following
        return [re.compile(reading, re.IGNORECASE) for reading in (words, *IN_OTHER_WORDS)]

    def meant(self, response: str) -> str | None:
        """A or B, for measuring: the last verdict in a response, also in bold, lower case, parentheses or other words,
        without a full stop, or without reasoning; None where there is none."""
        if verdict := self.verdict_of(response):
            return verdict
        text = EMPHASIS.sub(" ", response).strip()
        found = [match for reading in self._readings for match in reading.finditer(text)]
        if not found:
            return None
        last = max(found, key=lambda match: max(match.start("upper"), match.start("lower")))
        return (last["upper"] or last["lower"]).upper()


def shown(pair: Pair, images: tuple[Path, ...], swapped: bool) -> Shown:
    """The pair in the order of the record, or the other one."""
    first, second = (pair.answer_b, pair.answer_a) if swapped else (pair.answer_a, pair.answer_b)
    text = f"{pair.prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}"
    return Shown(pair, images, text, NAMES[(pair.label == "b") != swapped], swapped)
