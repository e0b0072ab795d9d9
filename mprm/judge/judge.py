"""How a judge is asked, what it must answer, and its responses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.batching.collate import Example
from mprm.batching.examples import image_size
from mprm.data.questions import Pair
from mprm.inference.local import Sampler
from mprm.inference.policy import Completion, Prompt, Writes, drawn, key_hash
from mprm.metrics.pairwise import VOTES
from mprm.runs.journal import Journal


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
class PresentedPair:
    """A pair as a judge sees it."""

    pair: Pair
    images: tuple[Path, ...]
    text: str  # the question and both answers
    better: str  # A or B, as the label says
    swapped: bool  # the record's answer_b is presented as A

    @property
    def key(self) -> str:
        """Names the pair in this order: its randomness and its result."""
        return f"{self.pair.id}\0{'swapped' if self.swapped else 'as it stands'}"

    def prompt(self, n: int) -> Prompt:
        """As a policy is asked it, for n responses."""
        return Prompt(self.key, self.images, self.text, (), n)


def present(pair: Pair, images: tuple[Path, ...], swapped: bool) -> PresentedPair:
    """The pair in the order of the record, or the other one."""
    first, second = (pair.answer_b, pair.answer_a) if swapped else (pair.answer_a, pair.answer_b)
    text = f"{pair.prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}"
    return PresentedPair(pair, images, text, "B" if (pair.label == "b") != swapped else "A", swapped)


def in_seeded_order(one: PresentedPair, *seed: int) -> PresentedPair:
    """The pair with its answers in an order that the seed and the pair alone decide."""
    key = "\0".join([*map(str, seed), one.pair.id])
    return present(one.pair, one.images, swapped=key_hash(key) % 2 == 1)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Component `judge`."""

    # Stands below the question and both answers.
    instruction: str = ""
    # How a response must end; `{}` stands for A or B.
    verdict: str = "The better answer is {}."
    # Of the responses that give a pair its entropy.
    temperature: float = 1.0
    # Responses whose mean entropy is that of a pair.
    samples: int = 1
    # Of the one response per order whose verdict is measured.
    evaluation_temperature: float = 0.0
    # Further responses per order, whose verdicts are measured one by one and in votes; 0: none.
    votes: int = 0
    # Of these further responses.
    vote_temperature: float = 1.0
    # Who writes the responses: local, this machine, or server, that of policy=server.
    engine: str = "local"
    # A response that does not end within them has no verdict.
    max_new_tokens: int = 1024
    # Held at once while responses are written.
    max_tokens: int = 65_536

    def __post_init__(self) -> None:
        if self.verdict.count("{}") != 1 or not self.verdict.replace("{}", "").strip():
            raise ValueError(f"judge.verdict={self.verdict} has no single {{}}; try 'The better answer is {{}}.'")
        if self.engine not in ("local", "server"):
            raise ValueError(f"judge.engine={self.engine} is unknown; choose local, or server with policy=server")
        for name in ("temperature", "evaluation_temperature", "vote_temperature"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"judge.{name}={getattr(self, name)} is not 0 or more; 0 takes the most likely token")
        for name in ("samples", "max_new_tokens", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"judge.{name}={getattr(self, name)} is not positive")
        if self.votes < 0:
            raise ValueError(f"judge.votes={self.votes} is negative; 0 measures the one response per order alone")

    def layout(self, one: PresentedPair, processor: ChatProcessor) -> Example:
        """The prompt that asks for a verdict, without its pixels."""
        return processor.ask([image_size(path) for path in one.images], one.text, self.instruction)

    @cached_property
    def _ending(self) -> re.Pattern[str]:
        before, after = map(re.escape, self.verdict.strip().split("{}"))
        return re.compile(f"{before}(A|B){after}")

    def verdict_of(self, response: str) -> str | None:
        """A or B; None unless the response is reasoning that ends in its only verdict, word for word: the format that
        reinforcement learning rewards."""
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


def sampler_of(
    judge: JudgeSettings, processor: ChatProcessor, model: ChatModel, max_length: float, temperature: float, seed: int
) -> Sampler:
    """Draws the responses of a model that is asked to judge."""
    return Sampler(
        processor=processor,
        model=model,
        instruction=judge.instruction,
        temperature=temperature,
        max_new_tokens=judge.max_new_tokens,
        max_tokens=judge.max_tokens,
        max_length=max_length,
        seed=seed,
    )


def respond(
    draws: Mapping[str, tuple[Writes, int]],
    judge: JudgeSettings,
    pairs: Sequence[PresentedPair],
    kept: Journal,
    advance: Callable[[int], None],
    batch: int = 64,
) -> None:
    """Fill the journal: key of the pair -> {"id", "swapped", "better", NAME: [{"text", "verdict", "in_format",
    "entropy", "n_tokens"}]}, a NAME for every one of `draws`: who draws, and how many responses.

    verdict: A, B or null, as it is meant; in_format: it stands as judge.verdict wants it. entropy: nats, of the judge's
    own next-token distribution, whatever the temperature: the mean over the tokens; null of a server, which may give no
    n_tokens either, and no responses to what is too long.
    batch: pairs that are asked together and kept together; advance: told how many more are done.
    """
    waiting = (one for one in pairs if one.key not in kept.done)
    while chosen := list(islice(waiting, batch)):
        records: dict[str, Any] = {
            one.key: {"id": one.pair.id, "swapped": one.swapped, "better": one.better} for one in chosen
        }
        for name, (writer, n) in draws.items():
            prompts = [one.prompt(n) for one in chosen]
            if name == VOTES:  # at one temperature they would repeat the other responses
                prompts = [replace(prompt, key=f"{name}\0{prompt.key}") for prompt in prompts]
            for one, completions in zip(chosen, drawn(writer, prompts, kept), strict=True):
                records[one.key][name] = [response_of(judge, completion) for completion in completions]
        kept.add(records)
        advance(len(chosen))


def response_of(judge: JudgeSettings, completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "verdict": judge.meant(completion.text) if completion.finished else None,
        "in_format": completion.finished and judge.verdict_of(completion.text) is not None,
        "entropy": completion.entropy,
        "n_tokens": completion.n_tokens,
    }
