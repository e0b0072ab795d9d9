"""manifest.json of a subset: what was selected of what, and by whom."""

from dataclasses import asdict, dataclass, field
from math import floor
from pathlib import Path
from typing import Any

from mprm import __version__
from mprm.runs.artifacts import read_json, redo_remedy, write_json

VERSION = 3

EASIER = 0.95  # of the corpus' mean: a subset whose mean is below it is called easier


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Table 1 of arXiv 2602.04145."""

    rollouts: int
    steps: int
    steps_per_rollout: float
    words_per_step: float
    error_step_share: float  # scored steps with score 0
    mean_mc: float  # over the scored steps
    mixed_share: float  # rollouts with a positive and a negative step
    unsampled_share: float  # steps of 0 of 0 continuations
    unsampled_negative_share: float  # those of them that were taken for negatives


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """Under strict cleaning records = dropped + eligible; under published cleaning a rollout may be ranked and
    dropped."""

    records: int  # lines that are not blank
    dropped: int
    eligible: int  # ranked
    kept: int
    realised_ratio: float  # kept / eligible


@dataclass(frozen=True, kw_only=True)
class Part:
    """Of a mixture."""

    asked: float | None  # share of the kept rollouts by its weight; None: the mixture has no weights
    eligible: int
    kept: int
    share: float  # of the kept rollouts
    steps: int  # of its kept rollouts
    step_share: float


@dataclass(frozen=True, kw_only=True)
class AllPositive:
    """Rollouts without a negative step. Their labels are all the same: a selector that scores them tells easy questions
    from hard ones."""

    rollouts: int
    steps: float  # of a rollout, on average
    steps_deviation: float  # standard deviation
    question_words: float  # blanks and line breaks + 1, on average
    question_words_deviation: float
    unsampled_share: float  # steps of 0 of 0 continuations
    # Of the kept: with how many ranked rollouts of the same scope one shares its score, itself counted; the median.
    tie_size: float | None = None
    sources: dict[str, int]  # rollouts of each


@dataclass(frozen=True, kw_only=True)
class Totals:
    eligible: Statistics
    kept: Statistics
    eligible_all_positive: AllPositive | None = None  # None: there are none
    kept_all_positive: AllPositive | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A component, and what it said of itself."""

    name: str  # of its class
    label: str
    baseline: bool = False
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    version: int = VERSION
    mprm: str = __version__
    seed: int
    data_hash: str  # of the annotations
    dataset: Chosen
    selector: Chosen
    sources: dict[str, SourceCounts]
    dropped: dict[str, int]  # by reason
    totals: Totals
    signals: str  # file of the signals table
    no_entropy: dict[str, int] = field(default_factory=dict)  # kept rollouts without an entropy, by reason
    parts: dict[str, Part] = field(default_factory=dict)  # of a mixture

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    def parts_words(self) -> list[str]:
        """What is kept of the parts of a mixture, and which of them have too little for their weight; empty without."""
        told = [
            f"{name} {one.kept:,} of {one.eligible:,} rollouts ({one.share:.1%}), {one.steps:,} steps "
            f"({one.step_share:.1%})"
            for name, one in self.parts.items()
        ]
        lines = [f"parts: {'; '.join(told)}"] if told else []
        kept, eligible = (sum(getattr(one, key) for one in self.parts.values()) for key in ("kept", "eligible"))
        asked = {name: one.asked * kept for name, one in self.parts.items() if one.asked is not None}
        all_kept = [name for name, one in self.parts.items() if one.kept == one.eligible]
        if scarce := [name for name in all_kept if name in asked and self.parts[name].kept + 1 < asked[name]]:
            most = min(self.parts[name].eligible / number for name, number in asked.items()) * kept / eligible
            remedy = f"; selector.ratio={floor(1000 * most) / 1000} or less keeps the weights" if most >= 0.001 else ""
            lines.append(
                f"{' and '.join(scarce)}: all is kept, less than the weights ask for; the other parts have the "
                f"rest{remedy}"
            )
        return lines

    def unsampled_words(self) -> str:
        """What share of the eligible steps had no continuation and what they were taken for; empty if none."""
        negative, share = self.totals.eligible.unsampled_negative_share, self.totals.eligible.unsampled_share
        if not share:
            return ""
        settings, rest, setting = self.dataset.settings, "for no evidence", ""
        if settings.get("cleaning") == "published":
            rest, setting = "for what their score says", " (dataset.cleaning=published)"
        elif "unsampled" in settings:
            setting = f" (dataset.unsampled={settings['unsampled']})"
        return (
            f"{share:.2%} of the steps have 0 of 0 continuations: {negative:.2%} are taken for negatives, "
            f"{share - negative:.2%} {rest}{setting}"
        )

    def easier_words(self) -> str:
        """A sentence, if the kept all-positive rollouts are easier than the corpus'; empty if they are not.

        Easier: fewer steps or shorter questions, by more than 5 % and three standard errors of the kept ones' mean.
        """
        corpus, kept = self.totals.eligible_all_positive, self.totals.kept_all_positive
        if corpus is None or kept is None:
            return ""
        found = []
        for name, words in (
            ("steps", "{:.1f} steps instead of {:.1f}"),
            ("question_words", "{:.1f} words in the question instead of {:.1f}"),
        ):
            mean, whole, deviation = getattr(kept, name), getattr(corpus, name), getattr(corpus, f"{name}_deviation")
            if mean < EASIER * whole and whole - mean > 3 * deviation / kept.rollouts**0.5:
                found.append(words.format(mean, whole))
        if not found:
            return ""
        share = kept.rollouts / self.totals.kept.rollouts
        remedy = "; selector.fill=random draws them" if self.selector.settings.get("fill") == "score" else ""
        return (
            f"The subset is easier than its corpus: its rollouts without a wrong step ({share:.0%} of it) have on "
            f"average {' and '.join(found)}{remedy}."
        )


def read_manifest(path: Path) -> Manifest:
    """Raises ValueError if the file cannot be read, or an earlier version wrote it."""
    content = read_json(path, redo_remedy("select"))
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"{path} was written by another version; {redo_remedy('select')}")
    content |= {name: Chosen(**content[name]) for name in ("dataset", "selector")}
    content["sources"] = {name: SourceCounts(**part) for name, part in content["sources"].items()}
    content["parts"] = {name: Part(**part) for name, part in content.get("parts", {}).items()}
    totals = content["totals"]
    for name, part in totals.items():
        kind = AllPositive if name.endswith("all_positive") else Statistics
        totals[name] = part and kind(**part)
    content["totals"] = Totals(**totals)
    return Manifest(**content)
