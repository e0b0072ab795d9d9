"""Which of two answers is better, by the votes of a judge's responses in both orders of the answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from mprm.batching.examples import image_fault, on_white
from mprm.data.questions import Pair
from mprm.inference.policy import Writes
from mprm.inference.scoring import OpenImages, Scored, ScoreRequest, asked
from mprm.judge.judge import JudgeSettings, PresentedPair, present, response_of
from mprm.metrics.predictions import NotScored, StepScores

SURE = 1e-6  # for the log odds of a share of 0 or 1


@dataclass(frozen=True, slots=True)
class Response:
    """What a judge wrote about two answers a and b."""

    verdict: str | None  # a or b; None where there is none
    swapped: bool  # b was shown first: what the text calls Answer A is b
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two answers a and b.

    winner: a or b, which more verdicts are for; None where they are equally many, or none: nobody guesses.
    share: of the verdicts those for the winner, .5 of a tie; None where no response has a verdict.
    reasoning: the first response for the winner, rather one that was shown a first, where Answer A is a; None without
    a winner.
    """

    winner: str | None
    share: float | None
    reasoning: str | None
    responses: tuple[Response, ...]

    def record(self, name: str) -> dict[str, Any]:
        """What is written of the pair of that id; verdicts: those on answer a shown first, then those on b first."""
        said = {"winner": self.winner, "share": self.share, "verdicts": [one.verdict for one in self.responses]}
        return {"id": name, **said, "reasoning": self.reasoning}


def orders(pair: Pair, images: tuple[Path, ...], both: bool = True) -> list[PresentedPair]:
    """The pair as it stands, and with its answers swapped."""
    return [present(pair, images, swapped) for swapped in ((False, True) if both else (False,))]


def voting(judge: JudgeSettings, votes: int) -> tuple[int, float]:
    """How many responses are written in each order, and at which temperature: one as it is measured, or several that
    vote."""
    return (votes, judge.vote_temperature) if votes > 1 else (1, judge.evaluation_temperature)


def compared(said: Iterable[tuple[PresentedPair, Sequence[dict[str, Any]]]]) -> Comparison:
    """What the responses to one pair say, in one order or in both: as respond() keeps them."""
    found: list[Response] = []
    for presented, kept in said:
        of_pair = {"A": "b", "B": "a"} if presented.swapped else {"A": "a", "B": "b"}
        found += [Response(of_pair.get(one["verdict"]), presented.swapped, one["text"]) for one in kept]
    responses = tuple(found)
    votes = Counter(one.verdict for one in responses if one.verdict is not None)
    if not votes:
        return Comparison(None, None, None, responses)
    first, most = votes.most_common(1)[0]
    winner = None if 2 * most == votes.total() else first
    reasoning = next((one.text for one in responses if one.verdict == winner), None) if winner else None
    return Comparison(winner, most / votes.total(), reasoning, responses)


def shares_of_wins(n_answers: int, found: Iterable[tuple[int, int, Comparison]]) -> list[float]:
    """How good each of several answers is: its share of wins against all others, a tie being half a win. found: number
    of a, number of b, and their comparison, of every two answers that differ; the others of an answer are as good."""
    wins = [0.0] * n_answers
    for a, b, comparison in found:
        won = {"a": 1.0, "b": 0.0, None: 0.5}[comparison.winner]
        wins[a] += won
        wins[b] += 1 - won
    return [won / max(1, n_answers - 1) for won in wins]


def comparisons(
    judge: JudgeSettings,
    writer: Writes,
    images: tuple[Path, ...],
    prompt: str,
    answers: Sequence[tuple[str, str]],
    votes: int = 1,
    both: bool = True,
) -> list[Comparison] | None:
    """Of every two answers to a prompt about images, by what the writer says; None if it is too long for the writer."""
    shown = [orders(Pair("\0".join((prompt, a, b)), "", (), prompt, a, b, ""), images, both) for a, b in answers]
    said = writer.complete([one.prompt(votes) for of_pair in shown for one in of_pair])
    if not all(said):
        return None
    found = iter(said)
    return [compared([(one, [response_of(judge, text) for text in next(found)]) for one in two]) for two in shown]


def image_files(images: Sequence[str | Path | Image.Image], folder: Path) -> tuple[Path, ...]:
    """Where images lie; pictures are written into the folder."""
    paths = []
    for number, one in enumerate(images):
        if isinstance(one, Image.Image):
            on_white(one).save(folder / f"{number}.png")
            one = folder / f"{number}.png"
        paths.append(Path(one))
    return tuple(paths)


def tournament(
    judge: JudgeSettings, writer: Writes, solutions: Sequence[ScoreRequest], open_images: OpenImages
) -> Scored:
    """The share of wins of every solution among the others of its question, by id as they come: for best-of-N, as
    P(yes) of one step, in [1e-6, 1 - 1e-6]. Solutions of the same text are one."""
    for (question, *names), members in groupby(sorted(solutions, key=asked), key=asked):
        texts = {one.id: "\n\n".join(one.steps) for one in members}
        answers = list(dict.fromkeys(filter(str.strip, texts.values())))
        shares = _shares(judge, writer, partial(open_images, names), question, answers)
        for name, text in texts.items():
            if isinstance(shares, NotScored):
                yield name, shares
                continue
            share = min(max(shares.get(text, 0.0), SURE), 1 - SURE)
            yield name, StepScores((math.log(share / (1 - share)),))


def _shares(
    judge: JudgeSettings, writer: Writes, look: Callable[[], list[Image.Image]], question: str, answers: list[str]
) -> dict[str, float] | NotScored:
    """shares_of_wins() of the answers; or why not all of them can be compared."""
    pairs = list(combinations(range(len(answers)), 2))
    with TemporaryDirectory() as folder:
        try:
            paths = image_files(look(), Path(folder))
        except ValueError as error:
            return NotScored(image_fault(error), str(error))
        if (refusal := writer.refusal(paths)) is not None:
            return NotScored(refusal, f"the judge does not take the shape of an image of {question!r}")
        found = comparisons(judge, writer, paths, question, [(answers[a], answers[b]) for a, b in pairs])
    if found is None:
        return NotScored("too_long", f"two candidates of {question!r} are longer than the judge reads")
    wins = shares_of_wins(len(answers), [(*pair, one) for pair, one in zip(pairs, found, strict=True)])
    return dict(zip(answers, wins, strict=True))
