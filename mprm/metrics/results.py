"""Results as they lie in results.json. With an interval: {"value", "low", "high"}, an Estimate; undefined: null."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, overload

from mprm.metrics.best_of_n_results import BestOfNResults as BestOfNResults
from mprm.metrics.estimate import Estimate as Estimate
from mprm.metrics.first_errors import FirstErrors
from mprm.metrics.search_results import SearchResults
from mprm.runs.artifacts import reading, write_json

VERSION = 3  # of the layout of results.json


@dataclass(frozen=True, kw_only=True)
class SourceResults:
    """One source of the benchmark at one threshold."""

    macro_f1: Estimate
    f1_positive: float
    f1_negative: float
    counts: dict[str, int]  # tp_pos, fp_pos, fn_pos, and the same numbers seen from the wrong steps: tp_neg, ...
    n: int  # labelled steps


@dataclass(frozen=True, kw_only=True)
class ThresholdResults:
    """All steps of the benchmark at one threshold."""

    threshold: float
    threshold_from: str  # where the threshold comes from, in words
    auc: Estimate | None  # the same at every threshold; None when all labels are alike
    overall_step_weighted_macro_f1: Estimate  # called overall micro-F1 in arXiv 2602.04145
    pooled_macro_f1: Estimate
    pooled_f1_positive: float
    pooled_f1_negative: float
    classical_micro_f1: float  # which is the step accuracy
    first_error_accuracy: Estimate
    first_error_f1: float | None  # None when all solutions have a wrong step, or none has
    first_errors: FirstErrors | None = None  # where solutions are judged up to their first wrong step
    confusion: dict[str, int]  # tp: right steps accepted, fp: wrong ones accepted, fn: right ones rejected, tn
    total_steps: int
    per_source: dict[str, SourceResults]

    def auc_words(self) -> str:
        """The AUC with its interval, or '-' and why there is none: a ranking needs right and wrong steps."""
        if self.auc:
            return self.auc.fraction()
        kind = "correct" if self.confusion["tp"] + self.confusion["fn"] else "incorrect"
        return f"- (all {self.total_steps:,} labelled steps are {kind})"


@dataclass(frozen=True, kw_only=True)
class StepResults:
    """A step scorer on a benchmark."""

    kind: Literal["steps"] = "steps"
    n_solutions: int
    n_steps: int  # labelled
    n_neutral_steps: int
    auc: Estimate | None  # None when all labels are alike, as of average_precision
    average_precision: Estimate | None  # of the wrong steps, lowest score first; their share is what chance has
    ece: float | None  # None when a score is outside [0, 1], and so no probability
    ece_bins: int
    brier: float | None
    resamples: int  # of the solutions, and of the held-out ones: intervals are of 95 %
    error_rate: float | None  # share of wrong steps that the benchmark declares
    # fitted: to held-out solutions, if any; fixed: in advance, by default 0.5; optimistic: searched on the benchmark
    thresholds: dict[str, ThresholdResults]
    baselines: dict[str, ThresholdResults]  # majority and position_only, neither of which reads a step
    skipped: dict[str, int] = field(default_factory=dict)  # benchmark solutions without scores, by reason
    skipped_held_out: dict[str, int] = field(default_factory=dict)
    benchmark_hash: str | None = None  # of the solutions as they were read

    @property
    def main(self) -> ThresholdResults:
        """At the fitted threshold, without held-out solutions at the fixed one, or else at the only one."""
        return next(self.thresholds[name] for name in ("fitted", "fixed", "optimistic") if name in self.thresholds)

    @property
    def f1(self) -> Estimate | None:
        """The headline beside the AUC: overall macro-F1 at the fitted threshold."""
        return self.thresholds["fitted"].overall_step_weighted_macro_f1 if "fitted" in self.thresholds else None


@dataclass(frozen=True, kw_only=True)
class EntropyBin:
    """Pairs of neighbouring entropy (nats)."""

    lowest: float
    highest: float
    entropy: float  # mean
    pairs: int
    accuracy: Estimate  # agreement with the labels
    flipped: Estimate | None = None  # share of wrong labels, where it is known


@dataclass(frozen=True, kw_only=True)
class PairSource:
    pairs: int
    accuracy: Estimate
    items: int = 0  # that several pairs belong to
    acc_plus: Estimate | None = None  # items all of whose pairs are judged right; None where pairs stand alone


@dataclass(frozen=True, kw_only=True)
class PairAccuracy(PairSource):
    """How often a judge is right over all sources; intervals are over pairs."""

    macro_accuracy: float  # mean over sources
    sources: dict[str, PairSource]
    left_out: int = 0  # pairs, for want of a verdict


@dataclass(frozen=True, kw_only=True)
class PublishedAccuracy(PairAccuracy):
    """By the rule of the benchmark's own scripts."""

    votes: int  # responses per pair, the majority of which counts


@dataclass(frozen=True, kw_only=True)
class JudgeAccuracy(PairAccuracy):
    """A judge on the reward benchmark, every pair judged in both orders; no verdict counts as wrong."""

    votes: tuple[Estimate, ...] = ()  # of K = 1, 2, .. further responses; K = 1: of a single one
    consistent: Estimate  # pairs of which the same answer wins in both orders
    first: Estimate | None  # verdicts for the answer that is shown first, 0.5 without position bias; None: no verdict
    without_verdict: float
    in_format: float  # verdicts in the words that judge.verdict wants, which is all that reinforcement learning rewards
    accuracy_in_format: float
    entropy: float | None  # mean of a response, nats; None where a server does not tell, as are tokens and tells
    tokens: float | None  # mean of a response
    bins: tuple[EntropyBin, ...]
    tells: float | None  # P(wrong response has the higher entropy than a right one); None where all are alike
    published: tuple[PublishedAccuracy, ...] = ()  # by number of votes; () where the benchmark has no rule of its own


@dataclass(frozen=True, kw_only=True)
class WrongLabels:
    """Share of wrong labels among the kept pairs, and in random subsets with as many pairs of every source."""

    kept: float
    random: float
    difference: Estimate  # kept - random; the interval holds 95 % of the random subsets


@dataclass(frozen=True, kw_only=True)
class Curation:
    """The pairs that were kept for reinforcement learning."""

    eligible: int
    kept: int
    selector: str  # class name
    label: str  # what the selector calls itself
    baseline: bool
    settings: dict[str, Any]  # the selector's fields
    dropped: dict[str, int]  # pairs that could not be kept, by reason
    entropy: dict[str, float | None]  # mean of the kept, and of the left_out
    bins: tuple[EntropyBin, ...]
    flipped: WrongLabels | None  # None where the wrong labels are not known
    # P(a signal is higher where the label is wrong than where it is right), by its name.
    told: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeTraining:
    """What one of the two trainings learned from, and what it cost."""

    examples: int  # traces of SFT, pairs of RL
    optimizer_steps: int
    seconds: float
    left_out: dict[str, int]  # by reason
    order: str | None = None  # of RL: class name


@dataclass(frozen=True, kw_only=True)
class JudgeResults:
    """A judge after each of its stages: untrained, sft, rl."""

    kind: Literal["judge"] = "judge"
    preferences: str | None
    reward_benchmark: str | None
    reward_benchmark_hash: str
    unusable: dict[str, int]  # records of the benchmark, by reason
    judges: dict[str, JudgeAccuracy]  # by stage
    differences: dict[str, Estimate]  # of accuracies, paired: "sft - untrained", "rl - sft"
    vote_differences: dict[str, tuple[Estimate, ...]] = field(default_factory=dict)  # the same of votes of K = 1, 2, ..
    temperature: float = 0.0  # of the responses behind `accuracy`
    vote_temperature: float = 1.0  # and of those behind `votes`
    rule: str = ""  # of the benchmark's own scripts, in words
    training: dict[str, JudgeTraining]  # by stage, those that were run
    curation: Curation | None


Results = StepResults | JudgeResults | BestOfNResults | SearchResults
Some = TypeVar("Some")
KINDS: dict[str, type[Results]] = {kind.kind: kind for kind in get_args(Results)}
AGAIN = "run the command that wrote it again, with overwrite=true"


@overload
def read_results(path: str | Path) -> Results: ...
@overload
def read_results(path: str | Path, kind: type[Some]) -> Some: ...
def read_results(path: str | Path, kind: type[Any] | None = None) -> Any:
    """The results in a file, of one kind where it is given. Raises ValueError if there is no such file, or it is an
    earlier version's, of another kind, or damaged."""
    with reading(path, AGAIN):
        content = json.loads(Path(path).read_bytes())
        found = KINDS.get(str(content.get("kind"))) if isinstance(content, dict) else None
        if found is None or content.get("version") != VERSION:
            raise ValueError(f"it holds no results in layout {VERSION}, the one that this version of mprm writes")
        if kind is not None and found is not kind:
            raise ValueError(f"its results are of kind {found.kind}, not {kind.kind}")
        return _checked(content, found)


def read_part(path: str | Path, kind: type[Some]) -> Some:
    """A part of results that lies in a file of its own. Raises ValueError as read_results."""
    with reading(path, AGAIN):
        return cast(Some, _checked(json.loads(Path(path).read_bytes()), kind))


def _checked(content: Any, kind: Any) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # takes longer than all else that this room imports

    return TypeAdapter(kind)


def write_results(path: str | Path, results: Results) -> None:
    """Write results as JSON, atomically; read_results gives the same results back."""
    write_json(path, {"version": VERSION} | asdict(results))
