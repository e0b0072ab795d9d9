"""Tasks without a run folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mprm import stages
from mprm.config import Config

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_list_shows_every_choice_with_all_its_fields(
    load: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    stages.list(load("task=list"))
    shown = capsys.readouterr().out
    for path in CONF.glob("*/*.yaml"):
        assert f"\n{path.parent.name}={path.stem}\n" in shown
    assert "\n    alpha: 0.2 # the larger, the less mixed labels count against reliable ones\n" in shown
    assert "\n    +recipe.gradient_clip=1.0\n" in shown
    assert "_target_" not in shown
