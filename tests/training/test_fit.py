"""The invariants of training, on an untrained tiny InternVL: 20 rollouts, two epochs, five steps of 8."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from mprm.data.examples import Examples
from mprm.data.order import Shuffled
from mprm.training.checkpoint import latest, load_weights
from mprm.training.fit import fit
from mprm.training.objectives import Hard
from mprm.training.recipe import Machine, Recipe

Lines = list[dict[str, Any]]


def losses(lines: Lines) -> list[float]:
    return [line["train/loss"] for line in lines if "train/loss" in line]


def without_seconds(lines: Lines) -> Lines:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture
def whole(train: Any, tmp_path: Path) -> Lines:
    lines: Lines = train(tmp_path / "whole")
    return lines


def test_one_curve(whole: Lines, tmp_path: Path) -> None:
    assert [line["step"] for line in whole if "train/loss" in line] == [1, 2, 3, 4, 5]
    assert [line["rollouts"] for line in whole if "train/loss" in line] == [8, 16, 24, 32, 40]
    assert all(
        {"val/loss", "val/step_accuracy", "val/auc"} <= line.keys() for line in whole if "train/loss" not in line
    )
    assert losses(whole)[-1] < losses(whole)[0]


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_loss_does_not_depend_on_the_micro_batch(
    train: Any, whole: Lines, tmp_path: Path, micro_batch_size: int
) -> None:
    cut = train(tmp_path / "cut", micro_batch_size=micro_batch_size)
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-6)


def test_published_normalisation_depends_on_it(train: Any, tmp_path: Path) -> None:
    published = Hard(normalise="micro_batch")
    at_once = train(tmp_path / "8", published, micro_batch_size=8)
    cut = train(tmp_path / "1", published, micro_batch_size=1)
    assert losses(cut)[1:] != pytest.approx(losses(at_once)[1:], abs=1e-6)


@pytest.mark.slow
def test_two_ranks_equal_one(train: Any, whole: Lines, tmp_path: Path) -> None:
    ranks = train(tmp_path / "ranks", devices=2, strategy="ddp_cpu", micro_batch_size=4)
    assert losses(ranks) == pytest.approx(losses(whole), abs=1e-6)
    assert [line["rollouts"] for line in ranks] == [line["rollouts"] for line in whole]
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "ranks"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_resumed_equals_uninterrupted_bit_for_bit(train: Any, whole: Lines, tmp_path: Path, stop_at: int) -> None:
    def stop(line: dict[str, float]) -> None:
        if line["step"] == stop_at:
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path / "resumed", mirror=stop)
    assert latest(tmp_path / "resumed" / "checkpoints")[1] == stop_at - 1 - (stop_at - 1) % 2
    resumed = train(tmp_path / "resumed")
    assert without_seconds(resumed) == without_seconds(whole)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "resumed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_frozen_vision_tower_is_not_trained(whole: Lines, backbone: Any, tmp_path: Path) -> None:
    names = load_file(tmp_path / "whole" / "weights.safetensors").keys()
    assert not [name for name in names if "vision_tower" in name]
    assert [name for name in names if "multi_modal_projector" in name]
    assert "head.weight" in names


def test_weights_of_another_backbone_are_refused(whole: Lines, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this backbone has not; choose its backbone="):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "whole" / "weights.safetensors")
    with pytest.raises(ValueError, match="is missing; train first"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "nowhere.safetensors")


def test_bfloat16_weights_without_deepspeed_are_refused(
    corpus: Any, backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = type(backbone).load
    monkeypatch.setattr(type(backbone), "load", lambda self: (load(self)[0], load(self)[1].bfloat16()))
    with pytest.raises(ValueError, match=r"backbone\.dtype=bfloat16 loses small updates .* trainer=deepspeed_zero2"):
        request_training(corpus, backbone, tmp_path)


def test_a_training_that_diverges_says_so(corpus: Any, backbone: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train/loss is nan at step \d+: the training diverged; lower recipe"):
        request_training(corpus, backbone, tmp_path, learning_rate=1e30)


def request_training(corpus: Any, backbone: Any, folder: Path, learning_rate: float = 1e-3) -> None:
    world, subset = corpus
    records = Dataset.load_from_disk(str(subset)).select(range(12))
    processor, model = backbone.load()
    examples = Examples(records, world.image_path, processor, 512)
    recipe = Recipe(learning_rate=learning_rate, epochs=2, global_batch_size=4)
    fit(model, examples, examples, Hard(), Shuffled(), recipe, Machine(micro_batch_size=4), folder, seed=0)
