"""What Weights & Biases shows: of an evaluated run its numbers, tables and map; of a sweep a workspace made in code."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.metrics.results import StepResults
from mprm.reporting.run_record import RunRecord, read_run
from mprm.reporting.selection import COMPOSITION, map_figure
from mprm.reporting.style import styled
from mprm.reporting.tracking import NO_LOGIN
from mprm.runs.artifacts import STAGES, read_json, write_text

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

THRESHOLDS = ("fixed", "calibrated")  # the oracle, searched on the benchmark itself, is left to the report


def store_results(run: Any, folder: Path) -> None:
    """Store what an evaluated run's folder holds into the wandb run. A piece that is not there is left out.

    Raises ValueError when a file in the folder cannot be read, and whatever W&B raises.
    """
    import wandb
    from PIL import Image

    record = read_run(folder)
    run.summary.update(numbers(record, read_json(folder / STAGES)["stages"]))
    shown: dict[str, Any] = {}
    if record.results:
        shown["results/sources"] = wandb.Table(**sources(record.results))
    if record.manifest:
        totals = record.manifest.totals
        both = [asdict(totals.eligible), asdict(totals.kept)]
        rows = [[label, *(scale * float(of[key]) for of in both)] for key, (label, _, scale) in COMPOSITION.items()]
        shown["subset/table"] = wandb.Table(columns=["statistic", "eligible", "kept"], data=rows)
    if drawn := map_figure(record):
        buffer = io.BytesIO()
        with styled():
            drawn.drawing.savefig(buffer, format="png", dpi=150)
        shown["subset/map"] = wandb.Image(Image.open(buffer))
    # Said here, because a continued W&B run would take step 0 for a line without one.
    run.log(shown | {"step": record.metrics[-1]["step"] if record.metrics else 0})
    if record.manifest:
        manifest = wandb.Artifact(f"subset-{run.id}", "subset-manifest")
        manifest.add_file(str(folder / "subset" / "manifest.json"), policy="immutable")  # no copy in the home folder
        run.log_artifact(manifest)


def numbers(record: RunRecord, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The run's summary: auc and overall_THRESHOLD (fractions) with _low and _high, rollouts, seconds of the stages."""
    found: dict[str, Any] = {}
    if results := record.results:
        at = {name: results.thresholds[name] for name in THRESHOLDS if name in results.thresholds}
        found |= {f"threshold_{name}": part.threshold for name, part in at.items()}
        measured = {f"overall_{name}": part.overall_step_weighted_macro_f1 for name, part in at.items()}
        for name, number in (measured | ({"auc": results.auc} if results.auc else {})).items():
            found |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
    if record.manifest:
        totals = record.manifest.totals
        found |= {"rollouts_kept": totals.kept.rollouts, "rollouts_eligible": totals.eligible.rollouts}
    found |= {f"seconds_{name}": summary["seconds"] for name, summary in stages.items() if "seconds" in summary}
    shared = stages.get("train", {}).get("shared_with")
    return found | ({"training_shared_with": shared} if shared else {})


def sources(results: StepResults) -> dict[str, Any]:
    """Columns and data: macro-F1 per source of the benchmark, as fractions with intervals, at both thresholds."""
    at = {name: results.thresholds[name].per_source for name in THRESHOLDS if name in results.thresholds}
    columns = ["source", "labelled steps", *(f"macro-F1 {name}{end}" for name in at for end in ("", " low", " high"))]
    data = []
    for source, part in results.thresholds[THRESHOLDS[0]].per_source.items():
        f1 = [of_threshold[source].macro_f1 for of_threshold in at.values()]
        data.append([source, part.n, *(end for number in f1 for end in (number.value, number.low, number.high))])
    return {"columns": columns, "data": data}


# ---- the workspace of a sweep

# Of the run table: what sets a run apart, then what came out. A nested config key has its .value behind the first part.
COLUMNS = [
    *("run:displayName", "run:jobType", "config:selector.value.alpha", "config:selector.value.ratio"),
    *("config:seed.value", "summary:auc", "summary:auc_low", "summary:auc_high", "summary:overall_fixed"),
    *("summary:overall_calibrated", "summary:rollouts_kept", "summary:seconds_select", "summary:seconds_train"),
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
    auc, ratio, alpha = wr.SummaryMetric("auc"), wr.Config("selector.ratio"), wr.Config("selector.alpha")
    columns = {"alpha": alpha, "ratio": ratio, "rollouts": wr.SummaryMetric("rollouts_kept"), "AUC": auc}
    axes = [wr.ParallelCoordinatesPlotColumn(metric=key, display_name=name) for name, key in columns.items()]
    bars: dict[str, Any] = {"metrics": ["auc"], "title_x": "AUC: mean, lowest and highest run"}
    bars |= {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax", "max_bars_to_show": MOST_RUNS}
    results = [
        wr.ScatterPlot(title="AUC against share of the rollouts", x=ratio, y=auc),
        wr.BarPlot(title="AUC by selector", groupby=wr.Metric("JobType"), **bars),
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
            groupby=[ws.Metric("JobType"), ws.Config("selector.ratio"), ws.Config("selector.alpha")],
            order=[ws.Ordering(ws.Summary("auc"), ascending=False)],
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
