"""Which of two answers is better, by the votes of a judge's responses in both orders of the answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from mprm.data.questions import Pair
from mprm.inference.policy import Writes, looked_at
from mprm.inference.scoring import Scored, ScoreRequest, asked
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
    """How good each of several answers is: its share of wins against all others, a tie being half a win; .5 of the
    only one. found: number of a, number of b, and their comparison, of every two answers that differ."""
    wins = [0.0] * n_answers
    for a, b, comparison in found:
        won = {"a": 1.0, "b": 0.0, None: 0.5}[comparison.winner]
        wins[a] += won
        wins[b] += 1 - won
    return [won / (n_answers - 1) if n_answers > 1 else 0.5 for won in wins]


def comparisons(
    judge: JudgeSettings,
    writer: Writes,
    images: tuple[Path, ...],
    prompt: str,
    answers: Sequence[str],
    votes: int = 1,
    both: bool = True,
) -> list[tuple[int, int, Comparison]] | None:
    """Number of a, number of b, and what the writer says of them, of every two answers to a prompt about images; None
    where a prompt is too long."""
    pairs = list(combinations(range(len(answers)), 2))
    texts = [(prompt, answers[a], answers[b]) for a, b in pairs]
    shown = [orders(Pair("\0".join(three), "", (), *three, ""), images, both) for three in texts]
    said = writer.complete([one.prompt(votes) for of_pair in shown for one in of_pair])
    kept = iter([[response_of(judge, one) for one in completions] for completions in said])
    found = [compared([(one, next(kept)) for one in of_pair]) for of_pair in shown]
    return [(a, b, one) for (a, b), one in zip(pairs, found, strict=True)] if all(said) else None


def tournament(
    judge: JudgeSettings, writer: Writes, image_path: Callable[[str], Path], solutions: Sequence[ScoreRequest]
) -> Scored:
    """The share of wins of every solution among the others of its question, by id as they come: for best-of-N, as
    P(yes) of one step, in [1e-6, 1 - 1e-6]. Solutions of the same text are one."""
    for (question, *_), members in groupby(sorted(solutions, key=asked), key=asked):
        of_question = list(members)
        texts = {one.id: "\n\n".join(one.steps) for one in of_question}
        answers = list(dict.fromkeys(filter(str.strip, texts.values())))
        looked, unusable = looked_at(of_question[:1], image_path, writer)
        found = comparisons(judge, writer, looked[0][1], question, answers) if looked else None
        if found is None:
            reason = next(iter(unusable.values()), "too_long")
            yield from ((name, NotScored(reason, f"{reason}: candidates of {question!r}")) for name in texts)
            continue
        shares = dict(zip(answers, shares_of_wins(len(answers), found), strict=True))
        for name, text in texts.items():
            share = min(max(shares.get(text, 0.0), SURE), 1 - SURE)
            yield name, StepScores((math.log(share / (1 - share)),))
