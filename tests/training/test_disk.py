"""What a training writes, foretold."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mprm.training.checkpoint import latest
from mprm.training.disk import announce_disk, disk_need
from mprm.training.recipe import Machine


def test_what_is_foretold_is_what_is_written(train: Any, tmp_path: Path) -> None:
    models: list[Any] = []
    train(tmp_path, watch=models.append)
    written = latest(tmp_path / "checkpoints")[0], tmp_path / "weights.safetensors"
    for needed, path in zip(disk_need(models[0], Machine()), written, strict=True):
        assert path is not None
        assert path.stat().st_size == pytest.approx(needed, rel=0.02)


def test_deepspeed_writes_weights_of_its_own_besides(backbone: Any) -> None:
    _, model = backbone.load()
    plain, weights = disk_need(model, Machine())
    for precision, share in (("bf16-true", 0.5), ("32-true", 1.0)):
        machine = Machine(strategy="deepspeed_stage_3", precision=precision)
        assert disk_need(model, machine) == (plain + share * weights, weights)


def test_a_disk_that_is_too_small_is_one_line(
    backbone: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model = backbone.load()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    sizes = "2 checkpoints of 16 MiB and weights of 5 MiB, in all 37 MiB"
    with pytest.raises(ValueError, match=rf"^\S+ is on a disk with 1 MiB free, the training writes {sizes}; free some"):
        announce_disk(model, Machine(), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-1.ckpt").write_bytes(bytes(40 * 2**20))  # an earlier attempt's makes room
    announce_disk(model, Machine(), tmp_path)
    assert capsys.readouterr().out.endswith(f"disk: {sizes}; 41 MiB are free\n")
