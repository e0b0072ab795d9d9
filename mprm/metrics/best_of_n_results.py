"""Results of choosing among candidates, as they lie in results.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mprm.metrics.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way of choosing among the candidates."""

    accuracy: tuple[Estimate, ...]  # with n = 1..n_max candidates
    minus: dict[str, Estimate]  # with n_max candidates, minus the policy's "pass@1" and "majority", paired


@dataclass(frozen=True, kw_only=True)
class Between:
    a: str  # model
    b: str  # another one
    difference: Estimate  # a - b, paired, both choosing by the aggregate with n_max candidates


@dataclass(frozen=True, kw_only=True)
class BestOfNBenchmark:
    """One source of questions, or all of them."""

    questions: int
    policy: dict[str, Method]  # pass@1 (a candidate at random), majority, pass@N
    models: dict[str, dict[str, Method]]  # by model: every aggregator, and weighted_majority
    ties: dict[str, int]  # by model: questions whose best score is shared by several of all their candidates
    between: tuple[Between, ...]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Choosing from a number of drawn candidates: means over questions and orders."""

    accuracy: Estimate
    candidates: Estimate
    tokens: Estimate | None  # None unless every candidate tells its n_tokens


@dataclass(frozen=True, kw_only=True)
class AdaptiveResults:
    """Drawing until the best candidate is sure, beside fixed numbers of candidates."""

    orders: int  # random ones, of the candidates of a question
    limit: int  # candidates at most
    adaptive: Draws
    all: Draws  # by the same score as adaptive
    all_mean: Draws  # by the mean of P(yes)
    saved: dict[str, Estimate]  # share of "candidates", and of "tokens" where known, that `all` would have drawn
    minus_all: Estimate  # adaptive's accuracy minus that of `all`, paired
    minus_all_mean: Estimate
    fixed: dict[int, Draws]  # by number of candidates: those of 4, 8, 12, 16 that every question has


@dataclass(frozen=True, kw_only=True)
class BestOfNResults:
    """Choices of reward models among candidates; intervals are over questions."""

    kind: Literal["best_of_n"] = "best_of_n"
    aggregate: str  # by which models are compared with each other
    n_max: int  # the least number of candidates that a question has
    questions: int
    seed: int
    benchmarks: dict[str, BestOfNBenchmark]  # by source, and "all"
    candidates_file: str = ""
    candidates_hash: str = ""  # of its content
    runs: dict[str, str | None] = field(default_factory=dict)  # by model: the folder of the run that made it
    unusable: dict[str, int] = field(default_factory=dict)  # questions by reason
    unscored: dict[str, dict[str, int]] = field(default_factory=dict)  # by model: candidates by reason
    adaptive: dict[str, AdaptiveResults] = field(default_factory=dict)  # by model, those that say how sure they are
