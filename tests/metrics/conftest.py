"""Questions whose numbers can be worked out by hand."""

import math
from collections.abc import Callable

import pytest

from mprm.data.questions import Candidate, CandidateSet
from mprm.metrics.predictions import StepScores

MakeSet = Callable[..., CandidateSet]


@pytest.fixture
def make_set() -> MakeSet:
    """make_set("q", "10 10 9 -", source="s", n_tokens=...): a question with the answer 10; - is no answer."""

    def make(name: str, answers: str, source: str = "s", n_tokens: int | None = 5) -> CandidateSet:
        given = [None if answer == "-" else answer for answer in answers.split()]
        solutions = tuple(Candidate(("a step",), answer, answer == "10", n_tokens) for answer in given)
        return CandidateSet(name, source, ("0.png",), "How?", "10", solutions)

    return make


@pytest.fixture
def scored() -> Callable[..., list[StepScores | None]]:
    """scored(.5, None, .9): candidates of one step with these P(yes), None for one that could not be scored."""

    def make(*probabilities: float | None, kappa: float | None = None) -> list[StepScores | None]:
        return [
            None if p is None else StepScores((math.log(p / (1 - p)),), None if kappa is None else (kappa,))
            for p in probabilities
        ]

    return make
