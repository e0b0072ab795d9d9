import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2

from mprm.metrics.predictions import read_predictions
from mprm.metrics.results import JudgeResults, write_results
from mprm.reporting import dashboard, tracking
from mprm.reporting.tracking import (
    Local,
    Tracker,
    WandB,
    WandBRun,
    publish_dashboard,
    run_id,
    start,
    sweep_name,
    tags_of,
    waits_for_sync,
)

CHECKOUT = Path(__file__).resolve().parents[2]
BLOCK = 32768  # of a .wandb file, which is a LevelDB log


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user without any W&B login or settings, and a W&B that has read no settings yet."""
    wandb.teardown()
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    wandb.teardown()


@pytest.fixture
def folder(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    """An evaluated run in a folder of runs that no sweep made."""
    path = make_run(tmp_path / "runs" / "bis-demo", n=200)
    Image.new("RGB", (800, 400), "blue").save(tmp_path / "chart.png")
    for name in ("report.html", "weights.safetensors"):
        (path / name).write_text(name)
    predictions = [json.loads(line) for line in (path / "predictions.jsonl").read_text().splitlines()]
    with (path / "solutions.jsonl").open("w") as file:
        for one in predictions:
            steps = [f"step {number}" for number, _ in enumerate(one["labels"], start=1)]
            picture = tmp_path / ("gone.png" if one["id"] == "3" else "chart.png")
            shown = {"id": one["id"], "images": [str(picture)], "question": "How many?", "steps": steps}
            file.write(json.dumps(shown) + "\n")
    stages = {"select": {"kept": 19, "seconds": 0.5}, "train": {"seconds": 7.5, "shared_with": "bis-other"}}
    (path / "stages.json").write_text(json.dumps({"stages": stages}))
    return path


CONFIG = {
    "seed": 3,
    "selector": {"_target_": "mprm.selection.bis.BIS", "alpha": 0.2, "ratio": 0.1, "count": None},
    "backbone": {"_target_": "mprm.backbones.internvl.InternVL"},
}


def read_records(path: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file."""
    data = path.read_bytes()
    position, parts = 7, b""  # after the file's own header
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def values(items: Any) -> dict[str, Any]:
    return {".".join([item.key] if item.key else item.nested_key): json.loads(item.value_json) for item in items}


class Written:
    """What the offline parts of a run folder hold, in the order in which they were written."""

    def __init__(self, folder: Path) -> None:
        parts = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
        self.parts = [part.parent for part in parts]
        records = [record for part in parts for record in read_records(part)]
        self.runs = [record.run for record in records if record.HasField("run")]
        self.config = values(self.runs[0].config.update) if self.runs else {}
        history = [values(record.history.item) for record in records if record.HasField("history")]
        self.history = [row for row in history if "train/loss" in row]
        self.keys = {key.split(".")[0] for row in history for key in row}
        self.summary: dict[str, Any] = {}
        for record in records:
            if record.HasField("summary"):
                self.summary |= values(record.summary.update)
        self.step_metrics = {
            (record.metric.name or record.metric.glob_name): record.metric.step_metric
            for record in records
            if record.HasField("metric")
        }
        logged = [record.request.log_artifact.artifact for record in records if record.request.HasField("log_artifact")]
        logged += [record.artifact for record in records if record.HasField("artifact")]
        self.artifacts = {artifact.name: artifact for artifact in logged if artifact.type != "run_table"}
        contents = [one for artifact in logged if artifact.type == "run_table" for one in artifact.manifest.contents]
        self.tables = [json.loads(Path(one.local_path).read_text()) for one in contents if one.path.endswith(".json")]
        self.best = {
            record.metric.name: "max" if record.metric.summary.max else "min"
            for record in records
            if record.HasField("metric") and (record.metric.summary.max or record.metric.summary.min)
        }
        self.exit_codes = [record.exit.exit_code for record in records if record.HasField("exit")]


def mirror(logger: WandB, folder: Path, steps: range) -> None:
    with start(logger, folder, CONFIG, "BIS") as tracker:
        for step in steps:
            tracker.log({"step": step, "train/loss": 1 / step})
        tracker.finish({"train/optimizer_steps": steps[-1]})
    wandb.teardown()  # waits until its service has written everything


def losses(written: Written) -> list[tuple[int, float]]:
    return [(row["step"], row["train/loss"]) for row in written.history]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("mprm")]


def test_local_mirrors_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with start(Local(), folder, {}, "BIS") as tracker:
        tracker.log({"step": 1, "train/loss": 0.5})
        tracker.finish({"auc": 0.9}, folder)
    assert Local().publish_dashboard(folder.parent) is None
    assert sorted(folder.rglob("*")) == before


def test_a_resumed_offline_run_is_one_run_with_everything_in_it(folder: Path) -> None:
    """Trained, killed, trained on, evaluated."""
    (folder.parent / "sweep").mkdir()
    logger = WandB(offline=True, tags=["mine", "BIS"])
    mirror(logger, folder, range(1, 4))
    mirror(logger, folder, range(3, 6))
    with start(logger, folder, CONFIG, "BIS") as tracker:
        tracker.finish({}, folder)
    wandb.teardown()
    written = Written(folder)
    assert losses(written) == [(step, 1 / step) for step in (1, 2, 3, 3, 4, 5)]
    assert {run.run_id for run in written.runs} == {run_id(folder)}
    (run, *_) = written.runs
    assert (run.display_name, run.project, run.run_group, run.job_type) == ("bis-demo", "mprm", "runs", "train")
    assert list(run.tags) == ["BIS", "InternVL", "10%", "seed3", "mine"]
    assert run.git.commit == subprocess.check_output(["git", "-C", CHECKOUT, "rev-parse", "HEAD"], text=True).strip()
    assert {key: written.config[key] for key in CONFIG} == CONFIG | {"selector": CONFIG["selector"] | {"label": "BIS"}}
    assert {key: written.step_metrics[key] for key in ("step", "*")} == {"step": "", "*": "step"}
    assert written.best == {"val/auc": "max", "val/step_accuracy": "max", "val/loss": "min"}
    assert written.exit_codes == [0, 0, 0]

    expected = {"benchmark/auc": 0.893, "benchmark/auc_low": 0.882, "benchmark/auc_high": 0.904}
    expected |= {"benchmark/f1_fixed": 0.79, "benchmark/f1_fixed_low": 0.775, "benchmark/first_error_accuracy": 0.612}
    expected |= {"benchmark/f1": 0.8, "benchmark/f1_high": 0.815, "benchmark/threshold": 0.43}
    expected |= {"benchmark/f1_optimistic": 0.82, "benchmark/average_precision": 0.7, "benchmark/ece": 0.0712}
    expected |= {"baseline/position_only_f1": 0.5512, "subset/rollouts_kept": 19, "subset/rollouts_eligible": 196}
    expected |= {"seconds/select": 0.5, "seconds/train": 7.5, "train/shared_with": "bis-other", "step": 120}
    expected |= {"train/optimizer_steps": 5}
    assert {key: written.summary[key] for key in expected} == pytest.approx(expected)
    assert all("/" in key or key == "step" for key in written.summary if not key.startswith("_"))

    assert {"benchmark/sources", "benchmark/predictions", "subset/composition", "subset/map"} <= written.keys
    files = written.parts[-1] / "files" / "media"
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in files.glob("table/*/*.json")}
    assert tables["sources"]["columns"][:3] == ["source", "labelled steps", "macro-F1 fitted"]
    assert tables["sources"]["data"][0][:5] == pytest.approx(["bars_sum", 300, 0.77, 0.74, 0.8])
    composition = {name: numbers for name, *numbers in tables["composition"]["data"]}
    assert composition["mixed rollouts (%)"] == pytest.approx([7.67, 43.21])
    images = sorted(path.name.split("_")[0] for path in files.glob("images/subset/*.png"))
    assert images == ["map"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files.glob("images/subset/*.png"))
    assert set(written.artifacts) == {f"{kind}-{run_id(folder)}" for kind in ("subset", "report")}
    (content,) = written.artifacts[f"subset-{run_id(folder)}"].manifest.contents
    assert content.path == "manifest.json"
    assert Path(content.local_path) == folder / "subset" / "manifest.json", "not a copy in the home folder"


def test_predictions_are_a_table_with_pictures_of_so_many_rows(folder: Path) -> None:
    with start(WandB(offline=True, predictions=8), folder, CONFIG, "BIS") as tracker:
        tracker.finish({}, folder)
    wandb.teardown()
    (table,) = (table for table in Written(folder).tables if "largest mistake" in table["columns"])
    assert table["columns"] == dashboard.SHOWN
    assert len(table["data"]) <= 8
    mistakes = [row[-1] for row in table["data"]]
    assert mistakes == sorted(mistakes, reverse=True)
    assert mistakes[0] > 0.8 > mistakes[-1]
    pictures = [row[2] for row in table["data"] if row[2] is not None]
    assert {(one["width"], one["height"]) for one in pictures} == {(384, 192)}
    scored = {one.id: one for one in read_predictions(folder / "predictions.jsonl")}
    for name, _, _, question, steps, first_error, first_found, _ in table["data"]:
        labels, scores = scored[name].labels, scored[name].scores
        assert question == "How many?"
        assert steps.splitlines()[0] == f"{'right' if labels[0] == 1 else 'WRONG'} {scores[0]:.3f} step 1"
        assert first_error == (labels.index(-1) + 1 if -1 in labels else None)
        assert first_found == next((n for n, score in enumerate(scores, start=1) if score < 0.43), None)


def test_the_model_is_an_artifact_for_those_who_ask(folder: Path) -> None:
    start(WandB(offline=True, log_model=True), folder, CONFIG, "BIS").finish({}, folder)
    wandb.teardown()
    model = Written(folder).artifacts[f"model-{run_id(folder)}"]
    assert model.type == "model"
    assert {content.path for content in model.manifest.contents} == {"weights.safetensors", "config.yaml"}


def test_an_evaluation_of_a_model_from_elsewhere_is_a_run_of_its_own_kind(folder: Path) -> None:
    for name in ("stages.json", "metrics.jsonl", "config.yaml", "solutions.jsonl", "subset/manifest.json"):
        (folder / name).unlink()
    start(WandB(offline=True), folder, {"task": "evaluate", "run": "exported"}, "").finish({}, folder)
    wandb.teardown()
    written = Written(folder)
    assert (written.runs[0].job_type, list(written.runs[0].tags)) == ("evaluate", [])
    assert written.summary["benchmark/auc"] == pytest.approx(0.893)
    assert list(written.artifacts) == [f"report-{run_id(folder)}"]


def test_a_judge_has_its_summary_and_its_report(folder: Path) -> None:
    measured: dict[str, Any] = {"unusable": {}, "judges": {}, "differences": {}, "training": {}, "curation": None}
    results = JudgeResults(preferences="p", reward_benchmark="r", reward_benchmark_hash="x", **measured)
    write_results(folder / "results.json", results)
    start(WandB(offline=True), folder, CONFIG, "entropy").finish({"benchmark/accuracy_rl": 0.7}, folder)
    wandb.teardown()
    written = Written(folder)
    assert written.summary["benchmark/accuracy_rl"] == 0.7
    assert f"report-{run_id(folder)}" in written.artifacts


def test_without_a_login_the_run_is_kept_offline_and_one_line_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = WandB()
    mirror(logger, folder, range(1, 3))
    mirror(logger, folder, range(3, 5))
    assert messages(caplog) == [
        "W&B is offline for this run (no login: run `wandb login` or set WANDB_API_KEY); "
        f"`wandb sync {folder}/wandb/offline-run-*` uploads it later"
    ]
    assert losses(Written(folder)) == [(step, 1 / step) for step in range(1, 5)]


def test_without_a_network_the_run_is_kept_offline_and_one_line_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "ONLINE_TIMEOUT", 1.0)
    mirror(WandB(), folder, range(1, 3))
    (message,) = messages(caplog)
    assert message.startswith("W&B is offline for this run (")
    assert "\n" not in message
    assert losses(Written(folder)) == [(1, 1.0), (2, 0.5)]


def test_a_synced_part_is_not_waited_for(folder: Path) -> None:
    part = folder / "wandb" / "offline-run-1" / "run-1.wandb"
    assert not waits_for_sync(folder)
    part.parent.mkdir(parents=True)
    part.touch()
    assert waits_for_sync(folder)
    part.with_name("run-1.wandb.synced").touch()
    assert not waits_for_sync(folder)


@pytest.mark.parametrize("broken", ["login", "init"])
def test_a_w_and_b_that_does_not_start_lets_the_run_go_on(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*args: Any, **settings: Any) -> None:
        raise RuntimeError("no\nway")

    monkeypatch.setattr(wandb, "init", fail)
    monkeypatch.setattr(wandb, "login", fail if broken == "login" else lambda **settings: True)
    mirror(WandB(), folder, range(1, 3))
    assert messages(caplog) == [
        f"W&B is offline for this run (no way); `wandb sync {folder}/wandb/offline-run-*` uploads it later",
        "the logger did not start (no way); the run goes on, all numbers are in its run folder",
    ]


class Broken:
    """A W&B run in which everything fails."""

    id = "1"
    calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        raise ConnectionError("the server\nhung up")


@pytest.mark.parametrize(
    "use",
    [
        lambda tracker, folder: tracker.log({"step": 1}),
        lambda tracker, folder: tracker.finish({"auc": 0.9}, folder),
        lambda tracker, folder: tracker.__exit__(None, None, None),
    ],
)
def test_a_failure_at_any_moment_is_told_once_and_ends_the_mirroring(
    folder: Path, caplog: pytest.LogCaptureFixture, use: Callable[[Tracker, Path], None]
) -> None:
    run = Broken()
    with Tracker(WandBRun(run)) as tracker:
        use(tracker, folder)
        tracker.log({"step": 2})
        tracker.finish({})
    assert run.calls == 1
    assert messages(caplog) == [
        "the logger stopped (the server hung up); the run goes on, all numbers are in its run folder"
    ]


def test_a_folder_that_can_not_be_read_ends_the_mirroring(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "results.json").write_text("{")
    start(WandB(offline=True), folder, CONFIG, "BIS").finish({}, folder)
    (message,) = messages(caplog)
    assert "results.json cannot be read" in message


def test_a_run_that_fails_is_marked_and_the_next_one_is_its_own(folder: Path, tmp_path: Path) -> None:
    logger, other = WandB(offline=True), tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match="diverged"), start(logger, folder, CONFIG, "BIS"):
        raise ValueError("the training diverged")
    start(logger, folder, CONFIG, "BIS").log({"step": 1, "train/loss": 0.5})  # and nobody closes it
    mirror(logger, other, range(1, 3))
    assert Written(folder).exit_codes[0] == 1
    assert losses(Written(folder)) == [(1, 0.5)]
    assert losses(Written(other)) == [(1, 1.0), (2, 0.5)]
    assert run_id(folder) != run_id(other)


def log_twice(tracker: Tracker) -> None:
    for step in (1, 2):
        tracker.log({"step": step, "train/loss": 1 / step})


def test_a_spawned_process_mirrors_into_the_run_of_its_parent(folder: Path) -> None:
    """As trainer=ddp_cpu does: the training runs in spawned processes, of which the first mirrors."""
    with start(WandB(offline=True), folder, CONFIG, "BIS") as tracker:
        process = get_context("spawn").Process(target=log_twice, args=(tracker,))
        process.start()
        process.join()
        tracker.finish({"train/optimizer_steps": 2})
    wandb.teardown()
    written = Written(folder)
    assert process.exitcode == 0
    assert losses(written) == [(1, 1.0), (2, 0.5)]
    assert written.summary["train/optimizer_steps"] == 2


def test_the_group_is_the_sweep_and_tags_say_what_sets_a_run_apart(tmp_path: Path) -> None:
    assert sweep_name(tmp_path) is None
    (tmp_path / "sweep").mkdir()
    assert sweep_name(tmp_path) == tmp_path.name
    counted = {"selector": {"_target_": "mprm.selection.baselines.Full", "ratio": None, "count": 500}}
    assert tags_of(counted, "Full") == ["Full", "500 rollouts"]
    assert tags_of({"selector": CONFIG["selector"] | {"ratio": 0.025}, "seed": 0}, "BIS") == ["BIS", "2.5%", "seed0"]


class Moody:
    """A logger of one's own that does not work."""

    def start(self, folder: Path, config: dict[str, Any], selector: str) -> Any:
        raise KeyError("no disk")

    def publish_dashboard(self, runs: Path) -> str | None:
        raise OSError("no page")


def test_a_logger_of_ones_own_that_fails_stops_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with start(Moody(), folder, CONFIG, "BIS") as tracker:
        tracker.log({"step": 1})
    assert publish_dashboard(Moody(), folder.parent) is None
    assert messages(caplog) == [
        "the logger did not start ('no disk'); the run goes on, all numbers are in its run folder",
        f"no dashboard (no page); task=report runs={folder.parent} compares the runs",
    ]


def test_a_project_needs_a_name() -> None:
    with pytest.raises(ValueError, match=r"logger\.project='' names no project; give"):
        WandB(project="")
