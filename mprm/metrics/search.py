"""A search beside best-of-N and votes at equal tokens.

Candidates are taken as many as cost what the search costs, in the mean over the questions: n = the search's tokens / a
candidate's tokens. Between two whole numbers a share of the questions has one more, so that the means are equal; what
n of a question's M candidates reach is the mean over subsets, as in best-of-N.

Shape suffixes: Q questions, N numbers of candidates 1..n_max.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mprm.data.questions import CandidateSet
from mprm.metrics.best_of_n import POLICY, check_aggregate, curves_of
from mprm.metrics.estimate import DIFFERENCE, SHARE, Floats, mean
from mprm.metrics.predictions import StepScores
from mprm.metrics.search_results import SearchResults, Way

MODEL = "model"


def equal_tokens(records: Sequence[Mapping[str, Any]], sets: Sequence[CandidateSet]) -> tuple[float, float]:
    """How many candidates cost as many tokens as the searches, at least 1, and the mean tokens of one.

    Raises ValueError if a candidate does not tell its tokens, or all of them cost less than the searches.
    """
    if any(one.n_tokens is None for question in sets for one in question.candidates):
        raise ValueError("input=: candidates lack n_tokens, which a search is compared by; make them by task=sample")
    own = float(np.mean([np.mean([one.n_tokens for one in question.candidates]) for question in sets]))
    searched = float(np.mean([record["tokens"] for record in records]))
    n, n_max = max(1.0, searched / max(own, 1.0)), min(len(question.candidates) for question in sets)
    if n > n_max:
        raise ValueError(
            f"input=: {n_max} candidates of {own:.1f} tokens cost less than the search, {searched:.1f} tokens a "
            f"question; sample solutions={int(np.ceil(n))} of each: what was searched is kept"
        )
    return n, own


def at(values_QN: Floats, n: float) -> Floats:
    """The column of n candidates, (Q,); between two columns their mean, weighted by how near they are."""
    low, share = int(n), n - int(n)
    return np.asarray((1 - share) * values_QN[:, low - 1] + share * values_QN[:, min(low, values_QN.shape[1] - 1)])


def measure_search(
    records: Sequence[Mapping[str, Any]],
    sets: Sequence[CandidateSet],
    scores: Sequence[Sequence[StepScores | None]],
    aggregate: str,
    seed: int,
    label: str,
) -> tuple[SearchResults, dict[str, Floats]]:
    """records: of the searches, in the order of the candidates' questions; scores: of their candidates; label: of the
    search.

    Returns the results, and the accuracy of every way on every question, (Q,). Raises ValueError as equal_tokens(), and
    for an unknown `aggregate`.
    """
    check_aggregate(aggregate)
    n, own = equal_tokens(records, sets)
    n_max = min(len(question.candidates) for question in sets)
    each = [curves_of(one, {MODEL: scores[row]}, n_max, [seed, row]) for row, one in enumerate(sets)]
    beside = {"majority": (POLICY, "majority"), "best_of_n": (MODEL, aggregate)}
    beside["weighted_majority"] = (MODEL, "weighted_majority")
    curves = {name: np.stack([question[key] for question in each]) for name, key in beside.items()}
    read = float(np.mean([np.mean([len(one.steps) for one in question.candidates]) for question in sets]))
    found = {"search": np.array([float(record["correct"]) for record in records])}
    found["pass@1"] = np.stack([question[POLICY, "pass@1"] for question in each])[:, 0]
    found |= {name: at(values_QN, n) for name, values_QN in curves.items()}
    tokens, steps = (float(np.mean([record[name] for record in records])) for name in ("tokens", "steps"))
    costs = {"search": (tokens, steps), "pass@1": (own, 0.0), "majority": (n * own, 0.0)}
    ways = {}
    for name, values_Q in found.items():
        minus = None if name == "search" else mean(found["search"] - values_Q, DIFFERENCE)
        spent, by_model = costs.get(name, (n * own, n * read))
        ways[name] = Way(accuracy=mean(values_Q, SHARE), search_minus=minus, tokens=spent, steps=by_model)
    against = {"best_of_n": f"best-of-{n:.1f} ({aggregate})", "majority": f"the majority vote of {n:.1f} candidates"}
    source_Q = np.array([record["source"] for record in records])
    results = SearchResults(
        label=label,
        verdicts=tuple(verdict(ways, label, name, beside) for name, beside in against.items()),
        aggregate=aggregate,
        questions=len(records),
        seed=seed,
        candidates=n,
        n_max=n_max,
        ways=ways,
        sources={name: mean(found["search"][source_Q == name], SHARE) for name in sorted(set(source_Q.tolist()))},
        ends=dict(Counter(record["end"] for record in records)),
        unanswered=sum(not record["finished"] for record in records),
        lost=dict(sum((Counter(record["lost"]) for record in records), Counter[str]())),
    )
    return results, found


def verdict(ways: Mapping[str, Way], label: str, name: str, beside: str) -> str:
    """What can be said of the search beside another way, in a sentence."""
    search, other = ways["search"], ways[name]
    assert other.search_minus is not None, "it is another way"
    tokens = "equal tokens" if other.tokens <= 1.001 * search.tokens else "fewer tokens than one candidate has"
    return (
        f"{label[0].upper()}{label[1:]}, is {other.search_minus.relation()} {beside} at {tokens}: "
        f"{other.search_minus.signed_points()} points ({search.accuracy.points()} and {other.accuracy.points()} %)."
    )
