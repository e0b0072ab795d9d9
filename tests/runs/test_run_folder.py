"""A run folder is finished, resumed or refused, and one process at a time has it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mprm.runs import run_folder as hashing
from mprm.runs.artifacts import file_states, read_json, reading, write_json, write_text
from mprm.runs.run_folder import RunFolder, config_hash, open_run
from mprm.stages.stage import wait_for_rank_zero


def make_config(folder: Path, **changes: object) -> DictConfig:
    values = {
        "task": "experiment",
        "seed": 0,
        "name": "one",
        "runs": str(folder),
        "overwrite": False,
        "selector": {"alpha": 0.05, "ratio": 0.1},
        "trainer": {"epochs": 1, "num_workers": 0},
    }
    return OmegaConf.create({**values, **changes})


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"runs": "elsewhere"},
        {"task": "select"},
        {"overwrite": True},
        {"export": "file.jsonl"},
        {"logger": {"project": "x"}},
        {"trainer": {"num_workers": 2, "epochs": 1}},
        {"selector": {"ratio": 0.1, "alpha": 0.05}},
    ],
)
def test_config_hash_ignores_what_does_not_change_results(tmp_path: Path, changes: dict[str, object]) -> None:
    assert config_hash(make_config(tmp_path, **changes)) == config_hash(make_config(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"selector": {"alpha": 0.2, "ratio": 0.1}},
        {"trainer": {"epochs": 2, "num_workers": 0}},
        {"x": None},
    ],
)
def test_config_hash_sees_what_changes_results(tmp_path: Path, changes: dict[str, object]) -> None:
    assert config_hash(make_config(tmp_path, **changes)) != config_hash(make_config(tmp_path))


def test_config_hash_sees_through_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    relative = config_hash(make_config(tmp_path, seed=1, root="data/annotations"))
    for spelling in (
        *(f"{tmp_path}/data/annotations", "data/../data/annotations/", "./data//annotations", "link/annotations"),
        f"{tmp_path}/../{tmp_path.name}/data/annotations",
    ):
        assert config_hash(make_config(tmp_path, seed=1.0, root=spelling)) == relative, spelling
    assert config_hash(make_config(tmp_path, seed=True, root="data/annotations")) != relative
    assert config_hash(make_config(tmp_path, seed=1, root="data/other")) != relative
    monkeypatch.chdir(tmp_path / "data")
    assert config_hash(make_config(tmp_path, seed=1, root="annotations")) == relative
    assert config_hash(make_config(tmp_path, seed=1, root="data/annotations")) != relative


def test_a_path_inside_the_checkout_moves_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_checkout(folder: Path) -> str:
        monkeypatch.setattr(hashing, "CHECKOUT", folder)
        return config_hash(make_config(tmp_path, root=str(folder / "data")))

    assert in_checkout(tmp_path / "here") == in_checkout(tmp_path / "there")


def test_config_hash_holds_the_format_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = config_hash(make_config(tmp_path))
    monkeypatch.setattr(hashing, "FORMAT_VERSION", hashing.FORMAT_VERSION + 1)
    assert config_hash(make_config(tmp_path)) != before


def test_a_new_run_folder_says_what_it_is(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, twice="${seed}")
    with open_run(cfg) as run:
        assert run.path == tmp_path / "one"
        assert run.config_hash == config_hash(cfg)
        assert not run.finished("select")
    assert entries(run.path) == [".lock", "config.yaml", "stages.json", "versions.json"]
    assert OmegaConf.load(run.path / "config.yaml")["twice"] == 0
    assert read_json(run.path / "versions.json")["torch"].startswith("2.")


def test_config_yaml_leaves_out_groups_that_the_task_does_not_use(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, grpo={"epochs": 1}, policy={"seed": "${seed}"}, benchmark={"size": 3})
    with open_run(cfg) as run:
        stored = OmegaConf.load(run.path / "config.yaml")
    assert set(cfg) - set(stored) == {"grpo", "policy"}
    assert config_hash(stored) == config_hash(cfg)


def test_finished_stages_are_found_again_and_files_stay(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        write_text(run.path / "metrics.jsonl", "{}\n")
        run.finish("select", {"kept": 7})
    with open_run(make_config(tmp_path, task="train")) as run:
        assert run.finished("select")
        assert not run.finished("train")
        assert run.summary("select") == {"kept": 7}
        run.finish("train", {"loss": 0.5})
    with open_run(make_config(tmp_path)) as run:
        assert run.summary("select") == {"kept": 7}
        assert run.summary("train") == {"loss": 0.5}
        assert (run.path / "metrics.jsonl").exists()


def test_another_config_is_refused_and_named(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        run.finish("select", {})
    other = make_config(tmp_path, selector={"alpha": 0.2, "ratio": 0.1})
    with pytest.raises(ValueError, match=r"another config \(selector.alpha 0.05 -> 0.2\).*overwrite=true"):
        open_run(other)
    with open_run(make_config(tmp_path)) as run:
        assert run.finished("select")


def test_overwrite_empties_the_folder_of_another_config_only(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        write_text(run.path / "subset" / "manifest.json", "{}")
        run.finish("select", {})
    with open_run(make_config(tmp_path, overwrite=True)) as run:
        assert run.finished("select")
    with open_run(make_config(tmp_path, seed=1, overwrite=True)) as run:
        assert not run.finished("select")
        assert not (run.path / "subset").exists()
        assert OmegaConf.load(run.path / "config.yaml")["seed"] == 1


def test_a_folder_that_is_no_run_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no run folder"):
        open_run(make_config(tmp_path, overwrite=True))
    assert (tmp_path / "one" / "thesis.tex").exists()


def test_an_unfinished_opening_is_completed(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        (run.path / "config.yaml").unlink()
        (run.path / "versions.json").unlink()
    with open_run(make_config(tmp_path)) as run:
        assert (run.path / "config.yaml").exists()
        assert (run.path / "versions.json").exists()


def test_a_refused_command_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), open_run(make_config(tmp_path)):
        raise ValueError("refused")
    assert entries(tmp_path) == []
    with open_run(make_config(tmp_path)) as run:
        run.finish("select", {})
    with pytest.raises(ValueError, match="refused"), open_run(make_config(tmp_path)):
        raise ValueError("refused")
    assert read_json(run.path / "stages.json")["stages"] == {"select": {}}


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        (run.path / "subset").mkdir()
        (run.path / "subset" / ".tmp-1234-manifest.json").write_text("{")
        (run.path / ".tmp-1234-checkpoints").mkdir()
        (run.path / ".tmp-1234-checkpoints" / ".tmp-5678-weights").write_text("half")
    with open_run(make_config(tmp_path)) as run:
        assert entries(run.path) == [".lock", "config.yaml", "stages.json", "subset", "versions.json"]
        assert entries(run.path / "subset") == []


HOLDER = """
import sys
from omegaconf import OmegaConf
from mprm.runs.run_folder import open_run
run = open_run(OmegaConf.create(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_processes_can_not_share_a_run_folder(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    command = [sys.executable, "-c", HOLDER, OmegaConf.to_yaml(cfg)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"in use by process {holder.pid}; wait"):
            open_run(cfg)
        holder.kill()
    with open_run(cfg) as run:  # the lock of a dead process is no lock
        assert (run.path / ".lock").read_text() == str(os.getpid())


def test_a_further_rank_reads_and_never_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(make_config(tmp_path)) as first:
        first.finish("select", {"kept": 7})
        monkeypatch.setenv("LOCAL_RANK", "1")
        with open_run(make_config(tmp_path)) as second:
            assert second.summary("select") == {"kept": 7}
            second.finish("train", {})
            assert not first.finished("train")


WAITER = """
import sys
from omegaconf import OmegaConf
from mprm.runs.run_folder import RunFolder, open_run
from mprm.stages.stage import wait_for_rank_zero
run = open_run(OmegaConf.create(sys.argv[1]))
print("waits", flush=True)
wait_for_rank_zero(run, "select")
print(run.summary("select")["kept"], flush=True)
"""


def test_a_further_rank_waits_until_the_first_has_finished_the_stage(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path, seed=1)) as other:
        other.finish("select", {"kept": 1})  # of another config: the first rank will empty it
    cfg = make_config(tmp_path, overwrite=True)
    command = [sys.executable, "-c", WAITER, OmegaConf.to_yaml(cfg)]
    env = os.environ | {"RANK": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as further:
        assert further.stdout is not None
        assert further.stdout.readline() == "waits\n"
        with open_run(cfg) as first:
            wait_for_rank_zero(first, "select")  # the first rank does not wait for itself
            first.finish("other", {})
            time.sleep(0.7)  # more than one look of the further rank
            assert further.poll() is None
            first.finish("select", {"kept": 7})
            assert further.stdout.readline() == "7\n"
        assert further.wait() == 0


@pytest.mark.parametrize("name", ["stages.json", "config.yaml", "versions.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[]", b"{"])
def test_a_damaged_folder_is_mended_or_emptied_as_the_message_says(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    with open_run(make_config(tmp_path)) as run:
        run.finish("select", {})
    (run.path / name).unlink()
    if content is not None:
        (run.path / name).write_bytes(content)
    if name == "stages.json":
        with pytest.raises(ValueError, match=r"stages.json cannot be read .*overwrite=true"):
            open_run(make_config(tmp_path))
    with open_run(make_config(tmp_path, overwrite=True)) as run:
        assert run.finished("select") == (name != "stages.json")
    assert OmegaConf.load(run.path / "config.yaml")["seed"] == 0


def test_a_run_of_an_earlier_version_is_refused_and_never_misread(tmp_path: Path) -> None:
    """stages.json as version 2 wrote it: without a ready training, its parts under other names."""
    cfg = make_config(tmp_path)
    with open_run(cfg) as run:
        write_text(run.path / "weights.safetensors", "x")
    files = {"train": {"weights.safetensors": [1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"]}}
    stages = {"select": {"kept": 7, "eligible": 9, "seconds": 0.1}, "examples": {}, "train": {"optimizer_steps": 4}}
    before = {"format": 2, "config_hash": config_hash(cfg), "stages": stages, "inputs": {"train": {}}, "files": files}
    write_json(run.path / "stages.json", before)
    with pytest.raises(ValueError, match=r"another version of mprm \(run format 2, here 3\); give") as raised:
        open_run(cfg)
    assert "\n" not in str(raised.value)
    assert read_json(run.path / "stages.json") == before
    with open_run(make_config(tmp_path, overwrite=True)) as run:  # the remedy that the line names
        assert not run.finished("train")
        assert not (run.path / "weights.safetensors").exists()


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A run with three stages done."""
    write_json(tmp_path / "stages.json", {"config_hash": "x", "stages": {}, "inputs": {}, "files": {}})
    run = RunFolder(tmp_path, "x", (tmp_path / ".lock").open("w"))
    for stage, name in (("select", "subset/kept"), ("train", "weights"), ("evaluate", "results.json")):
        write_text(tmp_path / name, f'["{stage}"]')
        run.finish(stage, {"of": stage}, file_states(tmp_path, [name.split("/")[0]]), {"a": "1", "b": "2"})
    return run


def test_a_stage_that_lost_a_file_is_done_again_and_the_others_are_kept(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished.path / "subset" / "kept").unlink()
    assert finished.finished("evaluate")
    assert not finished.finished("select")
    assert f"{finished.path}/subset/kept is missing: select is done again" in capsys.readouterr().out
    assert list(read_json(finished.path / "stages.json")["stages"]) == ["train", "evaluate"]
    assert finished.finished("train")


@pytest.mark.parametrize("content", [None, "cut"])
def test_a_training_that_lost_a_file_is_refused_with_the_way_on(finished: RunFolder, content: str | None) -> None:
    (finished.path / "weights").unlink()
    if content is not None:
        (finished.path / "weights").write_text(content)
    with pytest.raises(ValueError, match=r"weights (is missing|has 3 bytes instead of 9); .*task=train redo=train"):
        finished.finished("train", costly=True)
    finished.forget("train", ["weights"])
    assert not finished.finished("train")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [({"a": "1", "b": "3"}, "b changed"), ({"a": "1"}, "b gone"), ({"a": "1", "b": "2", "c": "3"}, "c added")],
)
def test_inputs_that_changed_are_named_with_the_way_on(finished: RunFolder, inputs: dict[str, str], said: str) -> None:
    finished.check_inputs("select", {"b": "2", "a": "1"})
    with pytest.raises(ValueError, match=f"{said} since task=select was done; add task=select redo=select"):
        finished.check_inputs("select", inputs)


def test_a_file_of_a_stage_is_what_the_stage_left_to_the_bit(finished: RunFolder) -> None:
    assert read_json(finished.path / "results.json") == ["evaluate"]
    (finished.path / "results.json").write_text('["evaluatE"]')
    with pytest.raises(ValueError, match=r"not what evaluate has left there.*task=evaluate redo=evaluate"):
        read_json(finished.path / "results.json")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"[1", b"[" * 100_000])
def test_any_file_that_can_not_be_read_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"file.json cannot be read \(.+\); delete it") as raised:
        read_json(tmp_path / "file.json", "delete it")
    assert "\n" not in str(raised.value)


def test_what_is_no_fault_of_the_file_goes_through(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MemoryError), reading(tmp_path / "file"):
        raise MemoryError
