"""How fast a training is: by a clock that is set by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mprm.training.recipe import Machine
from mprm.training.throughput import Throughput, peak_tflops


def throughput(now: list[float], **machine: Any) -> Throughput:
    """Of steps of 20 rollouts and 1,000 tokens per step so far, 600 operations a token, at a clock that shows `now`."""
    plan: Any = SimpleNamespace(chosen=lambda step: [step] * 20, rows=lambda step: [(400 * step, []), (600 * step, [])])
    model = torch.nn.Linear(10, 10, bias=False)
    module: Any = SimpleNamespace(
        schedule=SimpleNamespace(machine=Machine(**machine)), model=model, rows_are_planned=True
    )
    return Throughput(module, plan, clock=lambda: now[0])


def test_a_step_by_the_clock() -> None:
    """3 s of waiting and 7 of computing in two rows; the checkpoint and the validation beside them are not counted."""
    now = [100.0]
    found = throughput(now, devices=2, peak_tflops=1e-6)
    for waited, seconds in [(True, 9), (False, 4), (True, 3), (False, 3)]:
        now[0] += seconds
        found.lap(waited)
    now[0] += 50
    found.pause()
    step = found.of_step(5)
    assert 0.1 < step.pop("speed/peak_memory_gib") < 100
    # 500 tokens a second of 600 operations each, on two devices of a million a second each.
    assert step == {
        "speed/rollouts_per_second": 2.0,
        "speed/tokens_per_second": 500.0,
        "speed/mfu": 0.15,
        "speed/waiting": 0.3,
    }
    for waited, seconds in [(True, 9), (False, 2)]:
        now[0] += seconds
        found.lap(waited)
    assert found.of_step(1)["speed/tokens_per_second"] == 500, "of this step alone"


def test_a_device_that_still_computes_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is ahead of a GPU: it waits for rows while the device has some to compute."""
    now = [0.0]
    event = SimpleNamespace(query=lambda: now[0] > 4)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(record_event=lambda: event))
    found = throughput(now, accelerator="gpu")
    for waited in (True, False, True, False, True):
        now[0] += 1
        found.lap(waited)
    assert (found.computing, found.waiting) == (3.0, 1.0)


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
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_tflops(Machine(accelerator="gpu")) == tflops
    assert peak_tflops(Machine(accelerator="gpu", peak_tflops=100.0)) == 100
