"""Tasks without a run folder."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mprm.config import Config
from mprm.stages import standalone

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_list_shows_every_choice_with_all_its_fields(
    load: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    standalone.choices(load("task=list"))
    shown = capsys.readouterr().out
    for path in CONF.glob("*/*.yaml"):
        assert f"\n{path.parent.name}={path.stem}\n" in shown
    assert "\n    alpha: 0.2 # the larger, the less label mixture weighs against reliability\n" in shown
    assert "\n    +recipe.gradient_clip=1.0\n" in shown
    assert "_target_" not in shown


@pytest.mark.parametrize(("labels", "kind"), [([1, 1], "correct"), ([-1, -1, 0], "incorrect")])
def test_measuring_one_class_says_why_there_is_no_auc(
    tmp_path: Path, labels: list[int], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"id": "a", "source": "s", "labels": labels, "scores": [0.9, 0.1, 0.5][: len(labels)]}
    (tmp_path / "one.jsonl").write_text(json.dumps(record) + "\n")
    paths = {"predictions": tmp_path / "one.jsonl", "output": tmp_path / "out.json", "cache": tmp_path}
    cfg: Any = SimpleNamespace(**paths, threshold="0.5")
    standalone.measure(cfg)
    assert f"auc - (all 2 labelled steps are {kind}); wrote" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["auc"] is None
