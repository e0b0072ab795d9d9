"""The comparison dashboard on Weights & Biases, defined in code: a saved view of a project's workspace."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mprm.reporting.tracking import NO_LOGIN
from mprm.runs.artifacts import write_text

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

# Of the run table: what sets a run apart, then what came out. A nested config key has its .value behind the first part.
COLUMNS = [
    "run:displayName",
    "run:jobType",
    "config:selector.value.alpha",
    "config:selector.value.ratio",
    "config:seed.value",
    "summary:auc",
    "summary:auc_low",
    "summary:auc_high",
    "summary:overall_fixed",
    "summary:overall_calibrated",
    "summary:rollouts_kept",
    "summary:seconds_select",
    "summary:seconds_train",
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

    Nothing is sent. Raises ImportError where wandb-workspaces is not installed.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Comparison of {group or project}",
        sections=[
            ws.Section(name="Results", panels=_results(), is_open=True, pinned=True),
            ws.Section(
                name="Learning curves",
                panels=_curves(),
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=len(AXES), rows=len(CURVES)),
            ),
            ws.Section(
                name="Subsets",
                panels=[wr.MediaBrowser(title="What was kept", media_keys=["subset/map", "subset/mc_histogram"])],
                is_open=True,
            ),
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
            saved.sections, saved.settings = view.sections, view.settings
            saved.runset_settings = view.runset_settings
            view = saved
    view.save()
    write_text(kept, f"{view.url}\n")
    return str(view.url)


def _results() -> list[wr.interface.PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    auc, ratio, alpha = wr.SummaryMetric("auc"), wr.Config("selector.ratio"), wr.Config("selector.alpha")
    columns = [(alpha, "alpha"), (ratio, "ratio"), (wr.SummaryMetric("rollouts_kept"), "rollouts"), (auc, "AUC")]
    return [
        wr.ScatterPlot(title="AUC against share of the rollouts", x=ratio, y=auc),
        _bars("AUC by selector", wr.Metric("JobType")),
        _bars("AUC by alpha", alpha),
        wr.ParallelCoordinatesPlot(
            title="alpha, ratio and AUC",
            columns=[wr.ParallelCoordinatesPlotColumn(metric=key, display_name=name) for key, name in columns],
        ),
    ]


def _bars(title: str, groupby: wr.Config | wr.Metric) -> wr.BarPlot:
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(
        title=title,
        metrics=["auc"],
        title_x="AUC: mean, lowest and highest run",
        groupby=groupby,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_bars_to_show=MOST_RUNS,
    )


def _curves() -> list[wr.interface.PanelTypes]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=f"{title} by {words}", x=axis, y=[key], title_x=words, title_y=title, max_runs_to_show=MOST_RUNS
        )
        for key, title in CURVES.items()
        for axis, words in AXES.items()
    ]
