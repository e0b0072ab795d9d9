"""Results of a search, and of choosing among as many tokens of whole solutions, as they lie in results.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mprm.metrics.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of answering the questions, at what it costs."""

    accuracy: Estimate
    search_minus: Estimate | None  # the search's accuracy minus this one, paired; None of the search itself
    tokens: float  # of the policy, mean of a question
    steps: float  # that the reward model read, mean of a question; a step counts in every solution that holds it


@dataclass(frozen=True, kw_only=True)
class SearchResults:
    """A search beside candidates of the same policy that cost as many tokens; intervals are over questions."""

    kind: Literal["search"] = "search"
    label: str  # what the search calls itself
    aggregate: str  # by which best-of-N chooses
    questions: int
    seed: int  # of the orders in which candidates vote
    candidates: float  # that cost as many tokens as the search; 6.3: six, and in three of ten cases seven
    n_max: int  # the least number of candidates that a question has
    ways: dict[str, Way]  # search, pass@1; with as many candidates best_of_n, weighted_majority, majority
    sources: dict[str, Estimate]  # accuracy of the search, by source of questions
    ends: dict[str, int]  # searches by what ended them: finished, tokens, max_steps, nothing_left
    unanswered: int  # searches without a finished solution: they count as wrong
    lost: dict[str, int]  # drawn steps that were not scored, by reason
    verdicts: tuple[str, ...]  # in words: against best_of_n, and against majority
    search: dict[str, Any] = field(default_factory=dict)  # its settings
    input: str = ""  # file of the candidates
    content: str = ""  # hash of the questions and of what the policy and the candidates are
    unusable: dict[str, int] = field(default_factory=dict)  # questions by reason
    unscored: dict[str, int] = field(default_factory=dict)  # candidates by reason
