import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from mprm.reporting import tracking
from mprm.reporting.tracking import Local, Tracker, WandB, run_id

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
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bis-demo"
    (path / "subset").mkdir(parents=True)
    (path / "subset" / "manifest.json").write_text('{"kept": 7}')
    return path


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


def mirror(logger: WandB, folder: Path, steps: range) -> None:
    tracker = logger.start(folder, {"seed": 3, "selector": {"alpha": 0.2}}, "BIS")
    for step in steps:
        tracker.log({"step": step, "train/loss": 1 / step})
    tracker.finish({"auc": 0.893}, folder / "subset" / "manifest.json")
    wandb.teardown()  # waits until its service has written everything


def check_offline_file(folder: Path, steps: range) -> None:
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    records = list(read_records(path))
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [(row["step"], row["train/loss"]) for row in history] == [(step, 1 / step) for step in steps]
    (run, *_) = (record.run for record in records if record.HasField("run"))
    assert (run.display_name, run.run_id, run.project, run.job_type) == ("bis-demo", run_id(folder), "mprm", "BIS")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["seed"] == 3
    assert config["selector"] == {"alpha": 0.2}
    summary = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for record in records
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["auc"] == 0.893
    artifacts = [record.request.log_artifact.artifact for record in records if record.request.HasField("log_artifact")]
    artifacts += [record.artifact for record in records if record.HasField("artifact")]
    assert [artifact.type for artifact in artifacts] == ["subset-manifest"]


def test_local_mirrors_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    tracker = Local().start(folder, {})
    tracker.log({"step": 1, "train/loss": 0.5})
    tracker.finish({"auc": 0.9}, folder / "subset" / "manifest.json")
    assert sorted(folder.rglob("*")) == before


def test_an_offline_run_holds_metrics_config_summary_and_manifest(folder: Path) -> None:
    mirror(WandB(offline=True, group="sweep", tags=["a"]), folder, range(1, 5))
    check_offline_file(folder, range(1, 5))


def test_without_a_login_the_run_is_kept_offline_and_one_line_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mprm"):
        mirror(WandB(), folder, range(1, 3))
    assert [record.getMessage() for record in caplog.records] == [
        "W&B is offline for this run (no login: run `wandb login` or set WANDB_API_KEY); `wandb sync` uploads it later"
    ]
    check_offline_file(folder, range(1, 3))


def test_without_a_network_the_run_is_kept_offline_and_one_line_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(tracking, "ONLINE_TIMEOUT", 1.0)
    with caplog.at_level(logging.WARNING, "mprm"):
        mirror(WandB(), folder, range(1, 3))
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("mprm")]
    assert message.startswith("W&B is offline for this run (")
    assert "\n" not in message
    check_offline_file(folder, range(1, 3))


def test_a_failure_in_the_middle_is_told_once_and_ends_the_mirroring(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        calls = 0

        def log(self, metrics: dict[str, float]) -> None:
            self.calls += 1
            raise ConnectionError("the server\nhung up")

    run = Broken()
    tracker = Tracker(run)
    with caplog.at_level(logging.WARNING, "mprm"):
        tracker.log({"step": 1})
        tracker.log({"step": 2})
        tracker.finish({})
    assert run.calls == 1
    assert [record.getMessage() for record in caplog.records] == [
        "W&B stopped (the server hung up); the run goes on, its metrics are in metrics.jsonl"
    ]


def test_a_resumed_run_keeps_its_id_and_another_folder_has_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert run_id(folder) == run_id(folder) != run_id(tmp_path / "other")


def test_a_project_needs_a_name() -> None:
    with pytest.raises(ValueError, match=r"logger\.project='' names no project; give"):
        WandB(project="")
