"""What of an evaluated run's folder goes to Weights & Biases: numbers, tables, figures, and the subset's manifest."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mprm.reporting import plots, tables
from mprm.reporting.collect import RunRecord, read_run
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
    shown |= {f"subset/{name}": picture(figure) for name, figure in figures(record).items()}
    # Said here, because a continued W&B run would take step 0 for a line without one.
    run.log(shown | {"step": record.metrics[-1]["step"] if record.metrics else 0})
    if record.manifest is not None:
        manifest = wandb.Artifact(f"subset-{run.id}", "subset-manifest")
        manifest.add_file(str(folder / "subset" / "manifest.json"), policy="immutable")  # no copy in the home folder
        run.log_artifact(manifest)


def numbers(record: RunRecord, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The run's summary: auc and overall_THRESHOLD (fractions) with _low and _high, rollouts, seconds of the stages."""
    found: dict[str, Any] = {}
    if record.results is not None:
        estimates = {"auc": tables.auc(record.results)}
        estimates |= {f"overall_{name}": tables.overall(record.results, name) for name in THRESHOLDS}
        for name, number in estimates.items():
            if number is not None:
                found |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
        for name in THRESHOLDS:
            if part := record.results["thresholds"].get(name):
                found[f"threshold_{name}"] = part["threshold"]
    if record.manifest is not None:
        totals = record.manifest["totals"]
        found |= {f"rollouts_{group}": totals[group]["rollouts"] for group in ("kept", "eligible")}
    found |= {f"seconds_{name}": summary["seconds"] for name, summary in stages.items() if "seconds" in summary}
    if "shared_with" in stages.get("train", {}):
        found["training_shared_with"] = stages["train"]["shared_with"]
    return found


def sources(record: RunRecord) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of macro-F1 per source of the benchmark, as fractions with intervals, at both thresholds."""
    at = [name for name in THRESHOLDS if record.results and record.results["thresholds"].get(name)]
    columns = ["source", "labelled steps"]
    columns += [f"macro-F1 {name}{end}" for name in at for end in ("", " low", " high")]
    if not record.results or not at:
        return columns, []
    steps = record.results["thresholds"][at[0]]["per_source"]
    f1 = [tables.per_source(record.results, name) for name in at]
    return columns, [
        [source, part["n"], *(value for by in f1 for value in (by[source].value, by[source].low, by[source].high))]
        for source, part in steps.items()
    ]


def composition(record: RunRecord) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the statistics of eligible and kept rollouts, as in Table 1 of arXiv 2602.04145."""
    columns = ["statistic", "eligible", "kept"]
    if record.manifest is None:
        return columns, []
    groups = [record.manifest["totals"][name] for name in ("eligible", "kept")]
    return columns, [
        [label, *(None if group.get(key) is None else float(group[key] * scale) for group in groups)]
        for key, (label, _, scale) in tables.COMPOSITION.items()
    ]


def figures(record: RunRecord) -> dict[str, Figure]:
    """The p_pos x R map and the MC histogram; empty where the signals table is no longer in its cache."""
    if record.signals is None or record.kept is None:
        return {}
    candidates, kept = plots.eligible(record.signals), record.kept
    alpha = ((record.config or {}).get("selector") or {}).get("alpha")
    return {"map": plots.bis_map(candidates, kept, alpha), "mc_histogram": plots.mc_histogram(candidates, kept)}


def picture(figure: Figure) -> Any:
    """The figure as a wandb.Image in the project's looks."""
    import wandb
    from PIL import Image

    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=150)
    return wandb.Image(Image.open(buffer))
