"""run.py as it is typed: sweeps, exit codes, one line on stderr, and nothing left in the working folder."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from program import RUN, run_program
from waiting import WAIT, meet

from mprm.main import report
from mprm.tasks import GROUPS, TASKS

REPOSITORY = Path(__file__).resolve().parents[1]
ANNOTATIONS = REPOSITORY / "tests" / "oracle_data" / "selection" / "annotations"
SELECT = ("task=select", "dataset=visualprm400k", f"dataset.annotations={ANNOTATIONS}", "held_out=0")


def execute(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(RUN, *arguments, cwd=folder)


def run_folders(folder: Path) -> list[str]:
    """Run folders below folder/runs, without the hash that ends each name."""
    return sorted(path.parent.name.rpartition("-")[0] for path in (folder / "runs").glob("*/config.yaml"))


def test_every_task_is_dispatched() -> None:
    for task in TASKS.values():
        assert callable(task.load())


def test_help_names_every_task_and_group(tmp_path: Path) -> None:
    shown = execute(tmp_path, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(re.search(rf"\b{task}\b", shown.stdout.partition("Groups")[0]) for task in TASKS)
    assert all(re.search(rf"^{group}: ", shown.stdout, re.MULTILINE) for group in GROUPS if group != "recipe")
    keys = re.findall(r"^    ([a-z_.]+)=", shown.stdout.partition("Keys that people change")[2], re.MULTILINE)
    assert len(keys) == 10


def test_completion_offers_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "python run.py task=")
    assert execute(tmp_path, "-sc", "query=bash").stdout.split() == sorted(f"task={task}" for task in TASKS)
    monkeypatch.setenv("COMP_LINE", "python run.py selector=b")
    assert execute(tmp_path, "-sc", "query=bash").stdout.split() == ["selector=bis"]


def test_a_task_runs_twice_and_leaves_only_its_own_folders(tmp_path: Path) -> None:
    first = execute(tmp_path, *SELECT, "selector=bis", "selector.alpha=0.2", "selector.ratio=0.1")
    assert (first.returncode, first.stderr) == (0, "")
    assert run_folders(tmp_path) == ["bis-alpha0.2-ratio0.1-hard-chartworld_internvl-visualprm400k-seed0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "runs"]
    manifest = next(tmp_path.glob("runs/*/subset/manifest.json"))
    written = manifest.stat().st_mtime_ns
    again = execute(tmp_path, *SELECT, "selector=bis", "selector.alpha=0.2", "selector.ratio=0.1")
    assert again.returncode == 0
    assert manifest.stat().st_mtime_ns == written


def test_a_sweep_makes_one_run_per_cell_and_outlives_a_bad_one(tmp_path: Path) -> None:
    swept = execute(tmp_path, "-m", *SELECT, "selector.alpha=0.05,0.2", "selector.ratio=0.1,1.5")
    assert swept.returncode == 2
    lines = swept.stderr.splitlines()
    assert len(lines) == 2
    assert all("selector.ratio=1.5 is not in (0, 1]" in line for line in lines)
    assert "selector.alpha=0.05 selector.ratio=1.5: " in lines[0]
    assert run_folders(tmp_path) == [
        f"bis-alpha{alpha}-ratio0.1-hard-chartworld_internvl-visualprm400k-seed0" for alpha in (0.05, 0.2)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "runs"]


def test_a_sweep_file_runs_by_name(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "two.yaml").write_text(
        "defaults: [config, _self_]\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      selector: full,low_mc\n      seed: 0,1\n"
    )
    swept = execute(tmp_path, "-cd", "grids", "-cn", "two", *SELECT)
    assert (swept.returncode, swept.stderr) == (0, "")
    assert len(run_folders(tmp_path)) == 4


def test_the_shipped_sweeps_compose(tmp_path: Path) -> None:
    for path in sorted((REPOSITORY / "sweeps").glob("*.yaml")):  # found from a folder without sweeps
        shown = execute(tmp_path, "-cd", "sweeps", "-cn", path.stem, "--cfg", "hydra")
        assert shown.returncode == 0, shown.stderr
        assert "mode: MULTIRUN" in shown.stdout, path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("selector.ratio=1.5",), "selector.ratio=1.5 is not in (0, 1]"),
        (("selector.alpha=abc",), "selector.alpha=abc has the wrong type; give a number"),
        (("dataset.annotations=/nowhere",), "/nowhere"),
        (("selectr=bis",), "did you mean selector?"),
        (("selector=boss",), "selector=boss is not one of agreement, bis, entropy, full"),
        (("hydra/launcher=slurm",), "pip install -e '.[sweeps]' brings joblib and submitit"),
        (("task=slect",), "did you mean select?"),
        (
            ("run=runs/NAME",),
            "task=select does not use run (it belongs to task=evaluate, score, rerank, compare, search, export); leave",
        ),
        (
            ("policy=server",),
            "task=select does not use policy (it belongs to task=rerank, compare, sample, annotate, search, egt, sft, "
            "curate, rl, judge); leave policy=server out",
        ),
        (("-m", "seed=0,1"), "unrecognized arguments: seed=0,1; flags (see --help) stand before the first key=value"),
        (("-cn", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    failed = execute(tmp_path, *SELECT, *arguments)
    assert failed.returncode == 2
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    assert failed.stderr.startswith("mprm: ")
    assert said in failed.stderr


@pytest.mark.parametrize(("ratio", "code"), [("1.5", 2), ("0.5", 0)])
def test_a_fresh_process_ends_with_the_same_codes(tmp_path: Path, ratio: str, code: int) -> None:
    command = [sys.executable, RUN, *SELECT, f"selector.ratio={ratio}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (1 if code else 0)


def test_debug_shows_the_traceback_of_a_mistake(tmp_path: Path) -> None:
    failed = execute(tmp_path, *SELECT, "selector.ratio=1.5", "debug=true")
    assert failed.returncode == 2
    assert "Traceback" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("mprm: selector.ratio=1.5")


def test_a_place_that_can_not_be_written_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    failed = execute(tmp_path, *SELECT)
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "runs" in failed.stderr


def test_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(KeyError("lost"), debug=False) == (1, "KeyError: 'lost'")
    assert "KeyError: 'lost'" in capsys.readouterr().err


def test_an_interrupt_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, str(REPOSITORY / "run.py"), *SELECT, *WAIT, "+selector.pipe=pipe"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    # A shell starts what runs in its background with the signal ignored, and children inherit that.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as waiting:
        signal.signal(signal.SIGINT, heard)
        end = meet(tmp_path / "pipe")
        waiting.send_signal(signal.SIGINT)
        assert waiting.stderr is not None
        said = waiting.stderr.read()
    os.close(end)
    assert waiting.returncode == 130
    assert said == "mprm: interrupted; the same command resumes\n"
