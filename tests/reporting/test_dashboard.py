import json
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from mprm.reporting import dashboard
from mprm.reporting.tracking import WandB, publish_dashboard

NO_PACKAGE = "wandb-workspaces is not installed; pip install 'mprm[sweeps]'"


def spec(group: str | None) -> dict[str, Any]:
    """What would be sent to the server."""
    pytest.importorskip("wandb_workspaces.workspaces")
    view = dashboard.workspace("me", "mprm", group)._to_model()
    assert (view.entity, view.project) == ("me", "mprm")
    content: dict[str, Any] = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return content["section"]


def panels(group: str | None = "alphas") -> list[dict[str, Any]]:
    sections = spec(group)["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


@pytest.mark.parametrize("group", ["alphas", 'it\'s "quoted" and so on'])
def test_the_runs_are_those_of_the_sweep_by_selector(group: str) -> None:
    (runs,) = spec(group)["runSets"]
    (condition,) = runs["filters"]["filters"]
    assert condition["key"] == {"section": "run", "name": "group"}
    assert (condition["op"], condition["value"]) == ("=", group)
    assert [key["name"] for key in runs["grouping"]] == [f"selector.value.{key}" for key in ("label", "ratio", "alpha")]
    assert runs["sort"]["keys"] == [{"key": {"section": "summary", "name": "benchmark/auc"}, "ascending": False}]
    assert runs["runFeed"]["columnOrder"] == dashboard.COLUMNS


def test_without_a_group_all_runs_of_the_project_are_shown() -> None:
    (runs,) = spec(None)["runSets"]
    assert runs["filters"]["filters"] == []


def test_curves_are_drawn_against_steps_and_rollouts() -> None:
    lines = [panel["config"] for panel in panels() if panel["viewType"] == "Run History Line Plot"]
    drawn = {(config["xAxis"], *config["metrics"]) for config in lines}
    assert {(axis, key) for axis in ("step", "rollouts") for key in ("val/auc", "train/loss")} <= drawn


def test_results_are_drawn_against_ratio_selector_and_alpha() -> None:
    by_type: dict[str, list[dict[str, Any]]] = {}
    for panel in panels():
        by_type.setdefault(panel["viewType"], []).append(panel["config"])
    (scatter,), (parallel,) = by_type["Scatter Plot"], by_type["Parallel Coordinates Plot"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:selector.value.ratio", "summary:benchmark/auc")
    bars = {config["groupBy"]: config["metrics"] for config in by_type["Bar Chart"]}
    assert bars == {key: ["benchmark/auc"] for key in ("selector.value.label", "selector.value.alpha")}
    shown = {column["accessor"] for column in parallel["columns"]}
    assert {"config:selector.value.alpha", "config:selector.value.ratio", "summary:benchmark/auc"} <= shown


class Server:
    """Stands for wandb_workspaces' saving and loading: views by address."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ws = pytest.importorskip("wandb_workspaces.workspaces")
        self.views: dict[str, Any] = {}
        self.saved: list[Any] = []
        monkeypatch.setattr(ws.Workspace, "from_url", self.load)
        monkeypatch.setattr(ws.Workspace, "url", property(lambda view: f"https://w/me/mprm?nw={view._internal_name}"))
        monkeypatch.setattr(wandb, "login", lambda **settings: True)
        server = self
        monkeypatch.setattr(ws.Workspace, "save", lambda view: server.save(view))

    def save(self, view: Any) -> None:
        view._internal_name = view._internal_name or f"view{len(self.saved)}"
        self.saved.append(view)
        self.views[view.url] = view

    def load(self, url: str) -> Any:
        return self.views[url]


def test_publishing_twice_saves_one_view_and_a_removed_one_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(monkeypatch)
    logger = WandB(entity="me", group="alphas")
    first = logger.publish_dashboard(tmp_path)
    assert first == "https://w/me/mprm?nw=view0"
    assert (tmp_path / "wandb_dashboard.txt").read_text() == f"{first}\n"
    server.saved[0].sections = []
    assert logger.publish_dashboard(tmp_path) == first
    assert len(server.views) == 1
    assert len(server.saved[-1].sections) == 3, "the second one brings it up to date"
    server.views.clear()
    assert logger.publish_dashboard(tmp_path) != first


def test_nothing_is_published_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)
    assert WandB(entity="me", offline=True).publish_dashboard(tmp_path) is None
    assert not server.saved


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ("package", NO_PACKAGE),
        ("login", "no login: run `wandb login` or set WANDB_API_KEY"),
        ("save", "403: not yours"),
    ],
)
def test_a_refusal_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: str, reason: str
) -> None:
    ws = pytest.importorskip("wandb_workspaces.workspaces")

    def refuse(view: Any) -> None:
        raise PermissionError("403:\nnot yours")

    monkeypatch.setattr(wandb, "login", lambda **settings: refusal != "login")
    monkeypatch.setattr(ws.Workspace, "save", refuse)
    if refusal == "package":
        monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert publish_dashboard(WandB(entity="me", group="alphas"), tmp_path) is None
    line = f"no dashboard ({reason}); task=report runs={tmp_path} compares the runs"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("mprm")] == [line]
    assert not (tmp_path / "wandb_dashboard.txt").exists()
