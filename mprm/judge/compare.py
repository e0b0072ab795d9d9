"""Which of two answers is better, by the votes of a judge's responses in both orders of the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mprm.data.questions import Pair
from mprm.judge.judge import Judge, PresentedPair, present


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


def voting(judge: Judge, votes: int) -> tuple[int, float]:
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
