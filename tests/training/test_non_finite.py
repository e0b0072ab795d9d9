"""A gradient that is not finite is seen before it changes anything."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mprm.training.checkpoint import checkpoints
from tests.clock import without_clock


def broken_at(step: int, value: float) -> Callable[[Any], None]:
    """A watch that puts the value into the gradient of the mark in this step; a step is one forward pass."""
    seen: list[int] = []

    def hook(gradient_D: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient_D + value if len(seen) == step else gradient_D

    return lambda model: model.mark_D.register_hook(hook)


def states(folder: Path) -> dict[int, dict[str, Any]]:
    return {step: torch.load(path, weights_only=True) for step, path in checkpoints(folder / "checkpoints")}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_it_stops_the_training_and_the_remedy_goes_on(train: Any, tmp_path: Path, value: float) -> None:
    line = (
        r"^the gradient of step 4 is not finite \(in mark_D\) and was not applied; lower recipe\.learning_rate, or skip"
    )
    with pytest.raises(ValueError, match=line):
        train(tmp_path, watch=broken_at(4, value), checkpoint_every=1)
    assert states(tmp_path).keys() == {2, 3}
    for state in states(tmp_path).values():
        assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    lines = train(tmp_path, watch=broken_at(1, value), non_finite="skip")
    assert [line["step"] for line in lines if "train/skipped" in line] == [4]
    assert lines[-1]["step"] == 5


def test_a_skipped_step_changes_nothing_and_is_counted(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = train(tmp_path, watch=broken_at(4, float("nan")), non_finite="skip", checkpoint_every=1)
    assert "skipped 1 of 5 steps: their gradient was not finite" in capsys.readouterr().out
    skipped = [line for line in lines if "train/skipped" in line]
    assert [line.keys() for line in without_clock(skipped)] == [{"step", "rollouts", "train/skipped", "lr"}]
    assert "NaN" not in json.dumps(lines)
    before, after = states(tmp_path)[3], states(tmp_path)[4]
    assert all(torch.equal(after["state_dict"][name], tensor) for name, tensor in before["state_dict"].items())
    moments = [state["optimizer_states"][0]["state"] for state in (before, after)]
    assert all(torch.equal(moments[1][i]["exp_avg"], moment["exp_avg"]) for i, moment in moments[0].items())
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "weights.safetensors").values())


def test_the_norm_is_logged_before_clipping(train: Any, tmp_path: Path) -> None:
    """An unclipped training has the same first gradient; the norm of a clipped one would be 1."""
    norms = []
    for clip in (1.0, 0.0):
        lines = train(tmp_path / str(clip), recipe={"gradient_clip": clip})
        norms.append([line["train/gradient_norm"] for line in lines if "train/loss" in line])
    assert len(norms[0]) == 5
    assert norms[0][0] == norms[1][0] > 1
    assert norms[0][1:] != norms[1][1:]
