"""Nothing that is there is lost, unless overwrite=true says so; an input never is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mprm.config import Config
from mprm.runs.artifacts import file_states, remove, write_json
from mprm.stages import stage
from mprm.stages.stage import Output, content

Load = Callable[..., Config]
MARK = "mprm.json"


@pytest.fixture
def config(load: Load, tmp_path: Path) -> Load:
    """config("key=value"): of a command that reads in.jsonl and writes out."""
    (tmp_path / "in.jsonl").write_text("precious")
    return lambda *overrides: load(
        "task=score", f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out'}", *overrides
    )


def output(config: Config, settings: object = "same", mark: str | None = None) -> Output:
    return Output(config, "output", settings, [config.input, None], mark)


def made(config: Config, settings: object = "same", mark: str | None = None) -> bool:
    return output(config, settings, mark).is_made()


def test_what_this_very_command_wrote_is_skipped_and_anything_else_refused(
    config: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert not made(config())
    out.write_text("result")
    with pytest.raises(ValueError, match="out is there already; give another file, or overwrite=true"):
        made(config())
    output(config()).remember()
    assert made(config())
    assert not made(config("overwrite=true"))
    with pytest.raises(ValueError, match="overwrite=true"):
        made(config(), "other settings")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "FORMAT_VERSION", 0)  # another version's results have another layout
        with pytest.raises(ValueError, match="overwrite=true"):
            made(config())
    out.write_text("edited")
    with pytest.raises(ValueError, match="overwrite=true"):
        made(config())
    remove(tmp_path / "cache")
    with pytest.raises(ValueError, match="overwrite=true"):
        made(config())


@pytest.mark.parametrize("spelling", ["in.jsonl", "x/../in.jsonl", "symbolic", "hard"])
def test_an_input_is_never_replaced(config: Load, tmp_path: Path, spelling: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "symbolic").symlink_to("in.jsonl")
    os.link(tmp_path / "in.jsonl", tmp_path / "hard")
    with pytest.raises(ValueError, match="is an input of this command"):
        made(config(f"output={tmp_path / spelling}", "overwrite=true"))


def test_a_folder_is_replaced_only_if_this_task_made_it(config: Load, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert not made(config(), mark=MARK)
    (out / "thesis.tex").touch()
    with pytest.raises(ValueError, match="no task=score wrote"):
        made(config("overwrite=true"), mark=MARK)
    (out / MARK).touch()
    assert not made(config("overwrite=true"), mark=MARK)
    with pytest.raises(ValueError, match="out is there already; give another folder"):
        made(config(), mark=MARK)
    (out / "scores.jsonl.journal").touch()  # begun, and not finished
    assert not made(config(), mark=MARK)
    with pytest.raises(ValueError, match="holds one"):
        made(config(f"output={tmp_path}", "overwrite=true"), mark=MARK)
    with pytest.raises(ValueError, match="out is a folder; give a file"):
        made(config())


def test_a_file_of_a_run_is_never_replaced(config: Load, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    write_json(tmp_path / "stages.json", {"files": {"evaluate": file_states(tmp_path, ["out"])}})
    with pytest.raises(ValueError, match="out belongs to a run"):
        made(config("overwrite=true"))
    with pytest.raises(ValueError, match="belongs to a run"):
        made(config(f"output={tmp_path}", "input=/elsewhere", "overwrite=true"), mark=MARK)
    for name in ("stages.json", "config.yaml", "versions.json"):  # of which no stage has a record
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name} belongs to a run"):
            made(config(f"output={tmp_path / name}", "overwrite=true"))


def test_the_content_of_no_file_is_left_to_its_reader(tmp_path: Path) -> None:
    assert content(None) is content(tmp_path / "nowhere") is content(tmp_path) is None
    os.mkfifo(tmp_path / "endless")
    assert content(tmp_path / "endless") is None
