"""manifest.json of a subset: what was selected of what, and by whom."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mprm import __version__
from mprm.runs.artifacts import read_json, redo_remedy, write_json

VERSION = 2


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
class Totals:
    eligible: Statistics
    kept: Statistics


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

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

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


def read_manifest(path: Path) -> Manifest:
    """Raises ValueError if the file cannot be read, or an earlier version wrote it."""
    content = read_json(path, redo_remedy("select"))
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"{path} was written by another version; {redo_remedy('select')}")
    content |= {name: Chosen(**content[name]) for name in ("dataset", "selector")}
    content["sources"] = {name: SourceCounts(**part) for name, part in content["sources"].items()}
    content["totals"] = Totals(**{name: Statistics(**part) for name, part in content["totals"].items()})
    return Manifest(**content)
