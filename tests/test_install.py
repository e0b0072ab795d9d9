"""`pip install .` gives the package, the command `mprm` and the configs; and any folder is a place to work in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ANNOTATIONS = REPOSITORY / "tests" / "oracle_data" / "selection" / "annotations"

SELECTOR = """
from dataclasses import dataclass

from mprm.selection.selectors import Full


@dataclass(frozen=True, kw_only=True)
class Everything(Full):
    pass
"""


@pytest.mark.slow
def test_an_installed_command_selects_with_a_selector_of_ones_own(tmp_path: Path) -> None:
    source, target, work = tmp_path / "source", tmp_path / "target", tmp_path / "work"
    source.mkdir()
    for name in ("mprm", "conf", "sweeps"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(target), str(source)], check=True)
    for kind in ("conf", "sweeps"):
        shipped = {path.relative_to(REPOSITORY / kind) for path in (REPOSITORY / kind).rglob("*.yaml")}
        assert {path.relative_to(target / "mprm" / kind) for path in (target / "mprm" / kind).rglob("*.*")} == shipped

    (work / "conf" / "selector").mkdir(parents=True)
    (work / "conf" / "selector" / "everything.yaml").write_text("_target_: mine.Everything\nratio: 1.0\n")
    (work / "mine.py").write_text(SELECTOR)
    shutil.copytree(ANNOTATIONS, work / "annotations")
    environment = os.environ | {"PYTHONPATH": f"{target}{os.pathsep}."}

    def run(*arguments: str) -> str:
        command = [sys.executable, str(target / "bin" / "mprm"), *arguments]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=True).stdout

    said = run(
        *("-cd", "conf", "selector=everything", "task=select", "dataset=visualprm400k"),
        *("dataset.annotations=annotations", "held_out=0"),
    )
    assert "selected 432 of 432 rollouts" in said
    assert said.splitlines()[-1].startswith("next: mprm -cd conf selector=everything task=train ")
    assert sorted(path.name for path in work.iterdir()) == ["annotations", "cache", "conf", "mine.py", "runs"]
    assert "everything" in run("-cd", "conf", "--help")
    assert "mode: MULTIRUN" in run("-cd", "sweeps", "-cn", "bis_grid", "--cfg", "hydra")
    program = f"import mprm; assert mprm.__file__.startswith({str(target)!r}); from mprm import StepScorer"
    subprocess.run([sys.executable, "-c", program], cwd=work, env=environment, check=True)
