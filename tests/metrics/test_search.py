"""A search beside candidates that cost as many tokens, by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mprm.data.questions import CandidateSet
from mprm.metrics.estimate import DIFFERENCE, Estimate, mean
from mprm.metrics.predictions import StepScores
from mprm.metrics.results import read_results, write_results
from mprm.metrics.search import at, equal_tokens, measure_search, verdict
from mprm.metrics.search_results import SearchResults, Way

LABEL = "beam search (2 beams), 2 expansions, score last"


@pytest.fixture
def sets(make_set: Callable[..., CandidateSet]) -> list[CandidateSet]:
    """Three candidates each of 5, 10 and 15 tokens, and of 20; 10 is right. A candidate costs 15 in the mean."""
    made = [make_set("a", "10 9 9"), make_set("b", "10 10 8", source="t")]
    tokens = [(5, 10, 15), (20, 20, 20)]
    return [
        replace(one, candidates=tuple(replace(c, n_tokens=n) for c, n in zip(one.candidates, of_one, strict=True)))
        for one, of_one in zip(made, tokens, strict=True)
    ]


def record(name: str, tokens: int, *finished: tuple[str, float], source: str = "s", **lost: int) -> dict[str, Any]:
    """finished: answers with the one score of their steps, the best first."""
    found = [
        {"final_answer": answer, "correct": answer == "10", "score": score, "step_scores": [score]}
        for answer, score in finished
    ]
    correct, end = bool(found) and found[0]["correct"], "finished" if found else "tokens"
    costs = {"tokens": tokens, "steps": 2 * tokens, "lost": lost, "end": end}
    return {"id": name, "source": source, "correct": correct, "finished": found} | costs


RECORDS = [record("a", 40, ("10", 0.5), ("9", 0.4), ("9", 0.3), cut_off=2), record("b", 35, source="t", cut_off=1)]


def test_as_many_candidates_as_cost_what_the_search_costs(sets: list[CandidateSet]) -> None:
    assert equal_tokens(RECORDS, sets) == (37.5 / 15, 15)
    cheap = [one | {"tokens": 3} for one in RECORDS]
    assert equal_tokens(cheap, sets) == (1, 15)  # there is no less than one


def test_too_few_candidates_are_one_line_with_how_many_are_wanted(sets: list[CandidateSet]) -> None:
    dear = [one | {"tokens": 61} for one in RECORDS]
    with pytest.raises(ValueError, match=r"\Ainput=: 3 candidates of 15.0 tokens cost less .* solutions=5 .*\Z"):
        equal_tokens(dear, sets)
    silent = [replace(sets[0], candidates=tuple(replace(one, n_tokens=None) for one in sets[0].candidates)), sets[1]]
    with pytest.raises(ValueError, match=r"\Ainput=: candidates lack n_tokens.*\Z"):
        equal_tokens(RECORDS, silent)


@pytest.mark.parametrize(("n", "value"), [(1, 0.1), (1.25, 0.2), (2, 0.5), (2.5, 0.7), (3, 0.9)])
def test_between_whole_numbers_is_their_mean(n: float, value: float) -> None:
    assert at(np.array([[0.1, 0.5, 0.9]]), n) == pytest.approx([value])


def test_ways_at_equal_tokens_by_hand(sets: list[CandidateSet], scored: Callable[..., Any], tmp_path: Path) -> None:
    scores: list[list[StepScores | None]] = [scored(0.2, 0.6, 0.5), scored(0.9, 0.8, 0.3)]
    results, reached = measure_search(RECORDS, sets, scores, "mean", 0, LABEL)
    # Best of two or three: of a never, 10 being worst, of b always. Votes, of two: a (1/2 + 1/2 + 0) / 3, b
    # (1 + 1/2 + 1/2) / 3; of three: 0 and 1.
    assert reached["best_of_n"] == pytest.approx([0, 1])
    assert reached["majority"] == pytest.approx([1 / 6, 5 / 6], abs=0.02)  # over random orders
    assert reached["pass@1"] == pytest.approx([1 / 3, 2 / 3])
    assert reached["search"].tolist() == [1, 0]
    ways = results.ways
    assert ways["search"].search_minus is None
    assert ways["best_of_n"].search_minus == mean(np.array([1.0, -1.0]), DIFFERENCE)
    spent = {name: (way.tokens, way.steps) for name, way in ways.items()}
    one_step = 2.5 * np.mean([len(c.steps) for one in sets for c in one.candidates])
    assert spent == {
        "search": (37.5, 75),
        "pass@1": (15, 0),
        "majority": (37.5, 0),
        "best_of_n": (37.5, one_step),
        "weighted_majority": (37.5, one_step),
    }
    assert (results.candidates, results.n_max, results.unanswered) == (2.5, 3, 1)
    assert {name: one.value for name, one in results.sources.items()} == {"s": 1, "t": 0}
    assert (results.ends, results.lost) == ({"finished": 1, "tokens": 1}, {"cut_off": 3})
    said, difference = results.verdicts[0], ways["best_of_n"].search_minus.signed_points()
    assert said.startswith(
        "Beam search (2 beams), 2 expansions, score last, is not distinguishable from best-of-2.5 (mean)"
    )
    assert f"at equal tokens: {difference} points" in said
    assert "the majority vote of 2.5 candidates" in results.verdicts[1]
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json", SearchResults) == results


@pytest.mark.parametrize(
    ("low", "high", "own", "said"),
    [
        (0.01, 0.05, 40, "is better than X at equal tokens: +3.0 [1.0, 5.0] points"),
        (-0.05, -0.01, 40, "is worse than X at equal tokens: -3.0 [-5.0, -1.0] points"),
        (-0.05, -0.01, 90, "is worse than X at fewer tokens than one candidate has"),
    ],
)
def test_a_verdict_says_what_the_interval_allows(low: float, high: float, own: float, said: str) -> None:
    search = Way(accuracy=Estimate(0.5), search_minus=None, tokens=40, steps=1)
    other = Way(accuracy=Estimate(0.5), search_minus=Estimate((low + high) / 2, low, high), tokens=own, steps=1)
    assert said in verdict({"search": search, "other": other}, "greedy", "other", "X")
