"""What Weights & Biases shows: of an evaluated run its numbers, tables and map; of a sweep a workspace made in code."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.metrics.predictions import Prediction, read_predictions
from mprm.metrics.results import StepResults, read_results
from mprm.reporting.run_record import RunRecord, read_run, read_solutions
from mprm.reporting.selection import COMPOSITION, map_figure
from mprm.reporting.style import styled
from mprm.reporting.tracking import NO_LOGIN
from mprm.runs.artifacts import STAGES, last_trained, read_json, write_text

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

PICTURE = (384, 384)  # pixels of a picture in a table, at most
LABELS = {1: "right", -1: "WRONG", 0: "-"}
SHOWN = ["solution", "source", "picture", "question", "steps", "first error", "first found", "largest mistake"]


def store_results(run: Any, folder: Path, predictions: int) -> None:
    """Store what the folder of an evaluated step scorer holds into the wandb run, with a table of so many predictions;
    a judge's numbers are in its summary. A piece that is not there is left out.

    Raises ValueError when a file in the folder cannot be read, and whatever W&B raises.
    """
    import wandb
    from PIL import Image

    if not isinstance(read_results(folder / "results.json"), StepResults):
        return
    record = read_run(folder)
    stages = read_json(folder / STAGES)["stages"] if (folder / STAGES).exists() else {}
    run.summary.update(numbers(record, stages))
    shown: dict[str, Any] = {}
    if record.results:
        shown["benchmark/sources"] = wandb.Table(**sources(record.results))
        if predictions and (folder / "solutions.jsonl").exists():
            shown["benchmark/predictions"] = wandb.Table(**predicted(folder, record.results, predictions))
    if record.manifest:
        totals = record.manifest.totals
        both = [asdict(totals.eligible), asdict(totals.kept)]
        rows = [[label, *(scale * float(of[key]) for of in both)] for key, (label, _, scale) in COMPOSITION.items()]
        shown["subset/composition"] = wandb.Table(columns=["statistic", "eligible", "kept"], data=rows)
    if drawn := map_figure(record):
        buffer = io.BytesIO()
        with styled():
            drawn.drawing.savefig(buffer, format="png", dpi=150)
        shown["subset/map"] = wandb.Image(Image.open(buffer))
    # Said here, because a continued W&B run would take step 0 for a line without one.
    run.log(shown | {"step": record.metrics[-1]["step"] if record.metrics else 0})


def store_files(run: Any, folder: Path, log_model: bool) -> None:
    """Store manifest and report, and the weights if asked for, as artifacts of the wandb run. A file that is not there
    is left out."""
    import wandb

    model = [str(last_trained(folder).relative_to(folder)), "config.yaml"]  # as run=DIR finds it
    kinds = {"subset-manifest": ["subset/manifest.json", "curated/manifest.json"], "report": ["report.html"]}
    for kind, names in (kinds | ({"model": model} if log_model else {})).items():
        artifact = wandb.Artifact(f"{kind.partition('-')[0]}-{run.id}", kind)
        paths = [folder / name for name in names if (folder / name).is_file()]
        for path in paths:
            artifact.add_file(str(path), policy="immutable")  # no copy in the home folder
        if paths:
            run.log_artifact(artifact)


def numbers(record: RunRecord, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The run's summary: numbers of benchmark and baselines, as fractions, with _low and _high; what the subset holds;
    seconds of the stages."""
    found: dict[str, Any] = {}
    if results := record.results:
        measured = {"benchmark/auc": results.auc, "benchmark/average_precision": results.average_precision}
        measured["benchmark/first_error_accuracy"] = results.main.first_error_accuracy
        for name, part in results.thresholds.items():
            behind = "" if name == "fitted" else f"_{name}"
            found[f"benchmark/threshold{behind}"] = part.threshold
            measured[f"benchmark/f1{behind}"] = part.overall_step_weighted_macro_f1
            if part.first_errors:
                measured[f"benchmark/first_error_f1{behind}"] = part.first_errors.f1
        for name, part in results.baselines.items():
            measured |= {f"baseline/{name}_f1": part.overall_step_weighted_macro_f1, f"baseline/{name}_auc": part.auc}
        for name, number in measured.items():
            if number is not None:
                found |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
        found |= {"benchmark/ece": results.ece, "benchmark/brier": results.brier}
    if record.manifest:
        totals = record.manifest.totals
        found |= {"subset/rollouts_kept": totals.kept.rollouts, "subset/rollouts_eligible": totals.eligible.rollouts}
    found |= {f"seconds/{name}": summary["seconds"] for name, summary in stages.items() if "seconds" in summary}
    found["train/shared_with"] = stages.get("train", {}).get("shared_with")
    return {name: number for name, number in found.items() if number is not None}


def predicted(folder: Path, results: StepResults, rows: int) -> dict[str, Any]:
    """Columns and data: benchmark solutions with picture and scores. Half of them are the worst mistakes, the others
    lie evenly between the worst and the best."""
    solutions, predictions = read_solutions(folder), read_predictions(folder / "predictions.jsonl")
    threshold = results.main.threshold

    def mistake(one: Prediction) -> float:
        """The largest difference of a score to the label, 1 or 0."""
        of_steps = zip(one.scores, one.labels, strict=True)
        return max((abs(score - (label == 1)) for score, label in of_steps if label), default=0.0)

    def first(wrong: Iterable[bool]) -> int | None:
        return next((number for number, one in enumerate(wrong, start=1) if one), None)

    ranked = sorted(predictions, key=mistake, reverse=True)
    worst, others = ranked[: rows // 2], ranked[rows // 2 :]
    apart = max(1, math.ceil(len(others) / (rows - len(worst))))
    data = []
    for one in [*worst, *others[::apart]]:
        solution = solutions[one.id]
        steps = zip(solution["steps"], one.labels, one.scores, strict=True)
        text = "\n".join(f"{LABELS[label]} {score:.3f} {step}" for step, label, score in steps)
        found = first(label != 0 and score < threshold for label, score in zip(one.labels, one.scores, strict=True))
        true = first(label == -1 for label in one.labels)
        shown = picture(solution["images"][0]) if solution["images"] else None
        data.append([one.id, one.source, shown, solution["question"], text, true, found, mistake(one)])
    return {"columns": SHOWN, "data": data}


def picture(path: str) -> Any:
    """A small copy; None where the file is gone."""
    import wandb
    from PIL import Image

    with suppress(OSError), Image.open(path) as opened:
        opened.thumbnail(PICTURE)
        return wandb.Image(opened.convert("RGB"))
    return None


def sources(results: StepResults) -> dict[str, Any]:
    """Columns and data: macro-F1 per source of the benchmark, as fractions with intervals, at every threshold."""
    at = {name: part.per_source for name, part in results.thresholds.items()}
    columns = ["source", "labelled steps", *(f"macro-F1 {name}{end}" for name in at for end in ("", " low", " high"))]
    data = []
    for source, part in results.main.per_source.items():
        f1 = [of_threshold[source].macro_f1 for of_threshold in at.values()]
        data.append([source, part.n, *(end for number in f1 for end in (number.value, number.low, number.high))])
    return {"columns": columns, "data": data}


# ---- the workspace of a sweep

# Of the run table: what sets a run apart, then what came out. A nested config key has its .value behind the first part.
COLUMNS = [
    *("run:displayName", "config:selector.value.label", "config:selector.value.ratio", "config:seed.value"),
    *("summary:benchmark/auc", "summary:benchmark/auc_low", "summary:benchmark/auc_high", "summary:benchmark/f1"),
    *("summary:benchmark/f1_fixed", "summary:benchmark/f1_optimistic", "summary:benchmark/average_precision"),
    *("summary:subset/rollouts_kept", "summary:seconds/select", "summary:seconds/train"),
]
CURVES = {
    "val/auc": "Validation AUC",
    "val/loss": "Validation loss (nats per step)",
    "train/loss": "Training loss (nats per step)",
}
AXES = {"step": "optimizer steps", "rollouts": "rollouts seen"}
MOST_RUNS = 100  # lines or bars in one panel


def workspace(entity: str, project: str, group: str | None) -> ws.Workspace:
    """The view: runs of `group` (None: of the whole project) by selector, ratio and alpha; a line is a mean over seeds.
    Nothing is sent."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    curves = [
        wr.LinePlot(title=f"{title} by {words}", x=x, y=[key], title_x=words, title_y=title, max_runs_to_show=MOST_RUNS)
        for key, title in CURVES.items()
        for x, words in AXES.items()
    ]
    layout = ws.SectionLayoutSettings(columns=len(AXES), rows=len(CURVES))
    kept = wr.MediaBrowser(title="What was kept", media_keys=["subset/map"])
    auc, ratio, alpha = wr.SummaryMetric("benchmark/auc"), wr.Config("selector.ratio"), wr.Config("selector.alpha")
    columns = {"alpha": alpha, "ratio": ratio, "rollouts": wr.SummaryMetric("subset/rollouts_kept"), "AUC": auc}
    axes = [wr.ParallelCoordinatesPlotColumn(metric=key, display_name=name) for name, key in columns.items()]
    bars: dict[str, Any] = {"metrics": ["benchmark/auc"], "title_x": "AUC: mean, lowest and highest run"}
    bars |= {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax", "max_bars_to_show": MOST_RUNS}
    results = [
        wr.ScatterPlot(title="AUC against share of the rollouts", x=ratio, y=auc),
        wr.BarPlot(title="AUC by selector", groupby=wr.Config("selector.label"), **bars),
        wr.BarPlot(title="AUC by alpha", groupby=alpha, **bars),
        wr.ParallelCoordinatesPlot(title="alpha, ratio and AUC", columns=axes),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Comparison of {group or project}",
        sections=[
            ws.Section(name="Results", panels=results, is_open=True, pinned=True),
            ws.Section(name="Learning curves", panels=curves, is_open=True, layout_settings=layout),
            ws.Section(name="Subsets", panels=[kept], is_open=True),
        ],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=f'Metric("Group") == {group!r}' if group else "",
            groupby=[ws.Config("selector.label"), ws.Config("selector.ratio"), ws.Config("selector.alpha")],
            order=[ws.Ordering(ws.Summary("benchmark/auc"), ascending=False)],
            pinned_columns=list(COLUMNS),
        ),
    )


def publish(entity: str | None, project: str, group: str | None, runs: Path) -> str:
    """Save the view of the runs below `runs`, over the one that an earlier call saved for them; returns its address.

    entity: None for the login's own. The address is kept in runs/wandb_dashboard.txt.
    Raises ValueError without the package or a login, and whatever W&B raises.
    """
    import wandb

    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ValueError("wandb-workspaces is not installed; pip install 'mprm[sweeps]'") from error
    if not wandb.login(prompt=False, verify=False):
        raise ValueError(NO_LOGIN)
    owner = entity or wandb.Api().default_entity
    if owner is None:
        raise ValueError("the login has no entity of its own; set logger.entity")
    view = workspace(owner, project, group)
    kept = runs / "wandb_dashboard.txt"
    if kept.exists():
        with suppress(Exception):  # removed on the server meanwhile: a new one is saved
            saved = ws.Workspace.from_url(kept.read_text(encoding="utf-8").strip())
            saved.sections, saved.settings, saved.runset_settings = view.sections, view.settings, view.runset_settings
            view = saved
    view.save()
    write_text(kept, f"{view.url}\n")
    return str(view.url)
