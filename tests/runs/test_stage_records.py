"""A stage is finished as long as its files and its inputs are what they were."""

from pathlib import Path

import pytest

from mprm.runs.artifacts import file_states, read_json, reading, write_json, write_text
from mprm.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with two stages done."""
    write_json(tmp_path / "stages.json", {"config_hash": "x", "stages": {}, "inputs": {}, "files": {}})
    run = RunFolder(tmp_path, "x", (tmp_path / ".lock").open("w"))
    for stage, name in (("select", "subset/kept"), ("train", "weights"), ("evaluate", "results.json")):
        write_text(tmp_path / name, f'["{stage}"]')
        run.finish(stage, {"of": stage}, file_states(tmp_path, [name.split("/")[0]]), {"a": "1", "b": "2"})
    return run


def test_a_stage_that_lost_a_file_is_done_again_and_the_others_are_kept(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "subset" / "kept").unlink()
    assert run.finished("evaluate")
    assert not run.finished("select")
    assert f"{run.path}/subset/kept is missing: select is done again" in capsys.readouterr().out
    assert list(read_json(run.path / "stages.json")["stages"]) == ["train", "evaluate"]
    assert run.finished("train")


@pytest.mark.parametrize("content", [None, "cut"])
def test_a_training_that_lost_a_file_is_refused_with_the_way_on(run: RunFolder, content: str | None) -> None:
    (run.path / "weights").unlink()
    if content is not None:
        (run.path / "weights").write_text(content)
    with pytest.raises(ValueError, match=r"weights (is missing|has 3 bytes instead of 9); .*task=train redo=train"):
        run.finished("train", dear=True)
    run.forget("train", ["weights"])
    assert not run.finished("train")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [({"a": "1", "b": "3"}, "b changed"), ({"a": "1"}, "b gone"), ({"a": "1", "b": "2", "c": "3"}, "c added")],
)
def test_inputs_that_changed_are_named_with_the_way_on(run: RunFolder, inputs: dict[str, str], said: str) -> None:
    run.check_inputs("select", {"b": "2", "a": "1"})
    with pytest.raises(ValueError, match=f"{said} since task=select was done; add task=select redo=select"):
        run.check_inputs("select", inputs)


def test_a_file_of_a_stage_is_what_the_stage_left_to_the_bit(run: RunFolder) -> None:
    assert read_json(run.path / "results.json") == ["evaluate"]
    (run.path / "results.json").write_text('["evaluatE"]')
    with pytest.raises(ValueError, match=r"not what evaluate has left there.*task=evaluate redo=evaluate"):
        read_json(run.path / "results.json")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"[1", b"[" * 100_000])
def test_any_file_that_can_not_be_read_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"file.json can not be read \(.+\); delete it") as raised:
        read_json(tmp_path / "file.json", "delete it")
    assert "\n" not in str(raised.value)


def test_what_is_no_fault_of_the_file_goes_through(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MemoryError), reading(tmp_path / "file"):
        raise MemoryError
