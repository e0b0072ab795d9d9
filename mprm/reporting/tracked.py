"""What of an evaluated run's folder goes to Weights & Biases: numbers, tables, figures, and the subset's manifest."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mprm.reporting.run_record import RunRecord, read_run
from mprm.reporting.selection import COMPOSITION, drawings
from mprm.reporting.style import styled
from mprm.runs.artifacts import read_json

THRESHOLDS = ("fixed", "calibrated")  # the oracle, searched on the benchmark itself, is left to the report


def store_results(run: Any, folder: Path) -> None:
    """Store what `folder` holds into the wandb run. A piece that is not there is left out.

    Raises ValueError when a file in the folder can not be read, and whatever W&B raises.
    """
    import wandb

    record = read_run(folder)
    run.summary.update(numbers(record, read_json(folder / "stages.json")["stages"]))
    shown: dict[str, Any] = {
        name: wandb.Table(columns=list(columns), data=rows)
        for name, (columns, rows) in {"results/sources": sources(record), "subset/table": composition(record)}.items()
        if rows
    }
    shown |= {f"subset/{name}": picture(figure) for name, figure in drawings(record).items()}
    # Said here, because a continued W&B run would take step 0 for a line without one.
    run.log(shown | {"step": record.metrics[-1]["step"] if record.metrics else 0})
    if record.manifest is not None:
        manifest = wandb.Artifact(f"subset-{run.id}", "subset-manifest")
        manifest.add_file(str(folder / "subset" / "manifest.json"), policy="immutable")  # no copy in the home folder
        run.log_artifact(manifest)


def numbers(record: RunRecord, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The run's summary: auc and overall_THRESHOLD (fractions) with _low and _high, rollouts, seconds of the stages."""
    found: dict[str, Any] = {}
    if results := record.results:
        shown = {name: results.thresholds[name] for name in THRESHOLDS if name in results.thresholds}
        estimates = {"auc": results.auc}
        estimates |= {f"overall_{name}": part.overall_step_weighted_macro_f1 for name, part in shown.items()}
        for name, number in estimates.items():
            if number is not None:
                found |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
        found |= {f"threshold_{name}": part.threshold for name, part in shown.items()}
    if record.manifest is not None:
        totals = record.manifest.totals
        found |= {"rollouts_kept": totals.kept.rollouts, "rollouts_eligible": totals.eligible.rollouts}
    found |= {f"seconds_{name}": summary["seconds"] for name, summary in stages.items() if "seconds" in summary}
    if "shared_with" in stages.get("train", {}):
        found["training_shared_with"] = stages["train"]["shared_with"]
    return found


def sources(record: RunRecord) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of macro-F1 per source of the benchmark, as fractions with intervals, at both thresholds."""
    at = [name for name in THRESHOLDS if record.results and name in record.results.thresholds]
    columns = ["source", "labelled steps"]
    columns += [f"macro-F1 {name}{end}" for name in at for end in ("", " low", " high")]
    if not record.results or not at:
        return columns, []
    parts = [record.results.thresholds[name].per_source for name in at]
    rows: list[list[Any]] = []
    for source, first in parts[0].items():
        numbers = [part[source].macro_f1 for part in parts]
        rows.append([source, first.n, *(end for one in numbers for end in (one.value, one.low, one.high))])
    return columns, rows


def composition(record: RunRecord) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the statistics of eligible and kept rollouts, as in Table 1 of arXiv 2602.04145."""
    columns = ["statistic", "eligible", "kept"]
    if record.manifest is None:
        return columns, []
    groups = (record.manifest.totals.eligible, record.manifest.totals.kept)
    return columns, [
        [label, *(float(getattr(group, key) * scale) for group in groups)]
        for key, (label, _, scale) in COMPOSITION.items()
    ]


def picture(figure: Figure) -> Any:
    """The figure as a wandb.Image in the project's looks."""
    import wandb
    from PIL import Image

    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=150)
    return wandb.Image(Image.open(buffer))
