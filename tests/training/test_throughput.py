"""How fast a training is: a clock that is set by hand, and what a training logs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mprm.training.recipe import Machine
from mprm.training.throughput import Throughput, peak_tflops


def test_a_step_by_the_clock() -> None:
    """3 s of waiting and 7 of computing in two rows; the checkpoint and the validation between them are not counted."""
    now = [100.0]
    plan: Any = SimpleNamespace(chosen=lambda step: [step] * 20, tokens=lambda step: 1000 * (step + 1))
    machine = Machine(devices=2, peak_tflops=1e-6)
    throughput = Throughput(plan, operations=600, machine=machine, clock=lambda: now[0])
    throughput.begin()
    for spent, seconds in [("waiting", 1), ("computing", 4), ("waiting", 2), ("other", 50), ("computing", 3)]:
        now[0] += seconds
        throughput.lap(spent)
    found = throughput.of_step(4)
    assert 0.1 < found.pop("speed/peak_memory_gib") < 100
    # 500 tokens a second of 600 operations each, on two devices of a million a second each.
    assert found == {
        "speed/rollouts_per_second": 2.0,
        "speed/tokens_per_second": 500.0,
        "speed/mfu": 0.15,
        "speed/waiting": 0.3,
    }
    now[0] += 9
    throughput.begin()
    now[0] += 2
    throughput.lap("waiting")
    assert throughput.of_step(0)["speed/waiting"] == 1.0


def test_a_device_that_still_computes_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is ahead of a GPU: it waits for rows while the device has some to compute."""
    done = [False]
    event = SimpleNamespace(query=lambda: done[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(record_event=lambda: event))
    now = [0.0]
    throughput = Throughput(SimpleNamespace(), None, Machine(accelerator="gpu"), clock=lambda: now[0])  # type: ignore[arg-type]
    for spent in ("computing", "waiting", "computing", "waiting"):
        now[0] += 1
        throughput.lap(spent)
        done[0] = now[0] >= 3
    assert throughput.seconds == {"computing": 3.0, "waiting": 1.0, "other": 0.0}


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Some other card", None),
    ],
)
def test_the_peak_is_the_cards_or_what_is_given(name: str, tflops: float | None, monkeypatch: Any) -> None:
    assert peak_tflops(Machine()) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_tflops(Machine(accelerator="gpu")) == tflops
    assert peak_tflops(Machine(accelerator="gpu", peak_tflops=100.0)) == 100


def test_every_step_is_logged(train: Any, tmp_path: Path) -> None:
    lines = [line for line in train(tmp_path, max_tokens=109, recipe={"epochs": 1}) if "train/loss" in line]
    assert len(lines) == 3
    for line in lines:
        found = {name: value for name, value in line.items() if name.startswith("speed/")}
        assert found.keys() == {
            *("speed/rollouts_per_second", "speed/tokens_per_second", "speed/waiting", "speed/peak_memory_gib")
        }, "no MFU where nobody knows the peak"
        assert 0 < found["speed/waiting"] < 1
        assert 60 < found["speed/tokens_per_second"] / found["speed/rollouts_per_second"] < 109
    seconds = (
        sum(8 / line["speed/rollouts_per_second"] for line in lines[:2]) + 4 / lines[2]["speed/rollouts_per_second"]
    )
    assert seconds <= lines[-1]["seconds"] + 0.02
