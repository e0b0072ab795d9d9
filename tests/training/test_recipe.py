from pathlib import Path
from typing import Any

import pytest

from mprm.training.recipe import Machine, Recipe


def test_warm_up_and_cosine() -> None:
    recipe = Recipe(warmup=0.05)
    factors = [recipe.factor(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]), "5 of 100 steps warm up"
    assert factors[5] == 1.0
    assert factors[52] == pytest.approx(0.5, abs=0.02)
    assert factors == sorted(factors[:5]) + sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 0.001
    constant = Recipe(warmup=0.05, schedule="constant")
    assert [constant.factor(step, 100) for step in range(100)] == factors[:5] + [1.0] * 95


def test_every_device_has_a_rollout() -> None:
    Machine(devices=4, num_nodes=2).check(Recipe(global_batch_size=8), 1)
    Machine(devices=3).check(Recipe(global_batch_size=512), 1)  # need not divide it
    with pytest.raises(ValueError, match=r"^recipe\.global_batch_size=7 is less than .* = 4 x 2; every device needs"):
        Machine(devices=4, num_nodes=2).check(Recipe(global_batch_size=7), 1)


def test_the_longest_rollout_fits_a_forward_pass() -> None:
    Machine(max_tokens=100).check(Recipe(), 100)
    with pytest.raises(ValueError, match=r"^trainer\.max_tokens=100 is less than the 101 tokens of the longest"):
        Machine(max_tokens=100).check(Recipe(), 101)


@pytest.mark.parametrize(
    "bad", [{"learning_rate": 0.0}, {"warmup": 1.0}, {"epochs": -1}, {"global_batch_size": 0}, {"schedule": "step"}]
)
def test_values_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"recipe.{next(iter(bad))}="):
        Recipe(**bad)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"steps": 55},
            r"^recipe\.epochs and recipe\.steps: both say .*, e\.g\. recipe\.steps=55 recipe\.epochs=null$",
        ),
        (
            {"epochs": None},
            r"^recipe\.epochs and recipe\.steps: neither says .* recipe\.steps=100 recipe\.epochs=null$",
        ),
        ({"epochs": None, "steps": 0}, r"^recipe\.steps=0 is not positive; epochs=0 trains nothing$"),
    ],
)
def test_epochs_or_steps_say_how_long(options: dict[str, int | None], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Recipe(**options)  # type: ignore[arg-type]
    assert Recipe(epochs=3).seen(10) == 30
    assert Recipe(epochs=0).seen(10) == 0
    assert Recipe(epochs=None, steps=5, global_batch_size=8).seen(10) == 40


@pytest.mark.parametrize("name", ["devices", "num_nodes", "max_tokens", "validate_every", "checkpoint_every"])
def test_a_machine_without_anything(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^trainer\.{name}=0 is not positive; give 1 or more$"):
        Machine(**{name: 0})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"accelerator": "cuda"}, r"^trainer\.accelerator=cuda is not one of cpu, gpu$"),
        ({"strategy": "deepspeed"}, r"^trainer\.strategy=deepspeed is not one of auto, ddp, .*deepspeed_stage_3$"),
        ({"precision": "bf16"}, r"^trainer\.precision=bf16 is not one of 32-true, bf16-mixed$"),
        ({"precision": "bf16-true"}, r"^trainer\.precision=bf16-true is not one of 32-true, bf16-mixed$"),
    ],
)
def test_a_machine_that_is_not_known(options: dict[str, str], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Machine(**options)  # type: ignore[arg-type]
    Machine(strategy="deepspeed_stage_3", precision="bf16-true")


@pytest.mark.parametrize(("keep", "left"), [(False, False), (True, True)])
def test_the_checkpoints_of_a_finished_training_go(tmp_path: Path, keep: bool, left: bool) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-2.ckpt").touch()
    Machine(keep_optimizer=keep).forget(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints").exists() == left
