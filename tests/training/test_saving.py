"""When checkpoints are written, what a signal does, and what is never taken for a checkpoint of ours."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from program import PYTHON, forked_python
from safetensors.torch import load_file

from mprm.training import fit as fit_module
from mprm.training.checkpoint import Checkpoints, checkpoints, latest
from mprm.training.strategies import SIGNALS_TO_END
from tests.clock import without_clock

Lines = list[dict[str, Any]]
SLURM = {"NTASKS": "1", "JOB_ID": "123456", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NAME": "train"}
CUT = 109  # tokens of a forward pass: several in a step


@pytest.fixture(scope="module")
def whole(train: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training; tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, max_tokens=CUT)
    return folder


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job of one process, in a working folder of its own."""
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)


def at_step(step: int, act: Callable[[], object]) -> Callable[[dict[str, float]], None]:
    """A mirror that acts when the step is done."""

    def mirror(line: dict[str, float]) -> None:
        if line["step"] == step and "train/loss" in line:
            act()

    return mirror


def tell(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def in_forward_pass(count: int, act: Callable[[], object]) -> Callable[[Any], None]:
    """A watch that acts in a forward pass of the training."""
    seen: list[int] = []

    def hook(*_: Any) -> None:
        seen.append(1)
        if len(seen) == count:
            act()

    return lambda model: model.register_forward_hook(hook)


def curve(folder: Path) -> Lines:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return without_clock(lines)


def assert_same(found: Path, expected: Path) -> None:
    """Bit for bit."""
    assert curve(found) == curve(expected)
    one, two = (load_file(folder / "weights.safetensors") for folder in (found, expected))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_under_slurm_writes_our_checkpoint_and_no_other(
    train: Any, whole: Path, tmp_path: Path, number: int
) -> None:
    """Told in the third of the six forward passes of step 2, which is begun again on resume."""
    folder = tmp_path / "told"
    watch = in_forward_pass(9, tell(number))
    with pytest.raises(KeyboardInterrupt):
        train(folder, max_tokens=CUT, checkpoint_every=100, watch=watch)
    assert latest(folder / "checkpoints")[1] == 1
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    train(folder, max_tokens=CUT, checkpoint_every=100)
    assert_same(folder, whole)


@pytest.mark.usefixtures("slurm")
def test_lightnings_own_checkpoints_are_never_gone_on_from(train: Any, whole: Path, tmp_path: Path) -> None:
    """Another training's lies in the working folder: this one starts at 0. In the run's own folder it is refused."""
    foreign = latest(whole / "checkpoints")[0]
    assert foreign is not None
    shutil.copy(foreign, tmp_path / "hpc_ckpt_1.ckpt")
    train(tmp_path / "fresh", max_tokens=CUT)
    assert_same(tmp_path / "fresh", whole)
    (tmp_path / "other").mkdir()
    shutil.copy(foreign, tmp_path / "other" / "hpc_ckpt_1.ckpt")
    with pytest.raises(ValueError, match=r"other: the training would go on from step 4, but .* of step 0; remove hpc_"):
        train(tmp_path / "other", max_tokens=CUT)
    (tmp_path / "other" / "hpc_ckpt_1.ckpt").unlink()
    train(tmp_path / "other", max_tokens=CUT)
    assert_same(tmp_path / "other", whole)


@pytest.fixture
def handled() -> Any:
    """handled(number, handler): a handler that was there before the training."""
    before = {number: signal.getsignal(number) for number in SIGNALS_TO_END}
    yield signal.signal
    for number, handler in before.items():
        signal.signal(number, handler)


def test_submitit_starts_the_job_again_behind_the_checkpoint(train: Any, handled: Any, tmp_path: Path) -> None:
    found: list[int] = []

    def again(number: int, frame: FrameType | None) -> None:
        found.append(latest(tmp_path / "told" / "checkpoints")[1])
        raise SystemExit(144)

    handled(signal.SIGUSR2, again)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "told", checkpoint_every=100, mirror=at_step(3, tell(signal.SIGUSR2)))
    assert ended.value.code == 144
    assert found == [3]
    assert signal.getsignal(signal.SIGUSR2) is again


def test_a_signal_that_submitit_passes_over_ends_nothing(train: Any, handled: Any, tmp_path: Path) -> None:
    passed: list[int] = []
    handled(signal.SIGTERM, lambda number, frame: passed.append(number))
    lines = train(tmp_path / "told", checkpoint_every=100, mirror=at_step(3, tell(signal.SIGTERM)))
    assert lines[-1]["step"] == 5
    assert passed == [signal.SIGTERM]
    assert latest(tmp_path / "told" / "checkpoints")[1] == 3


@pytest.fixture
def forking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is spawned is forked from a process that has imported everything, and is given as much as if it were not."""
    for name, value in forked_python(tmp_path).items():
        monkeypatch.setenv(name, value)
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(os.environ[PYTHON])
    yield
    multiprocessing.set_executable(before)


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_ranks_that_are_spawned_are_told(train: Any, tmp_path: Path) -> None:
    folder = tmp_path / "ranks"

    def tell_when_it_trains() -> None:
        while not (folder / "metrics.jsonl").is_file() or not (folder / "metrics.jsonl").read_text():
            time.sleep(0.05)
        tell(signal.SIGTERM)()

    threading.Thread(target=tell_when_it_trains, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train(folder, recipe={"epochs": 200}, devices=2, strategy="ddp_cpu", checkpoint_every=1000, spawned=True)
    assert latest(folder / "checkpoints")[1] >= 1


def test_loader_processes_outlive_a_signal(train: Any, tmp_path: Path) -> None:
    def tell_loaders() -> None:
        loaders = multiprocessing.active_children()
        assert loaders
        for loader in loaders:
            for number in SIGNALS_TO_END:
                os.kill(int(loader.pid or 0), number)

    lines = train(tmp_path / "told", num_workers=1, mirror=at_step(1, tell_loaders))
    assert lines[-1]["step"] == 5


def test_checkpoints_by_time(train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps take ten minutes: after fifteen there is a checkpoint, and none at the steps between."""
    now = [0.0]
    written: list[int] = []

    def pass_time(line: dict[str, float]) -> None:
        now[0] += 600 * ("train/loss" in line)
        written.extend(step for step, _ in checkpoints(tmp_path / "checkpoints") if step not in written)

    monkeypatch.setattr(fit_module, "Checkpoints", partial(Checkpoints, clock=lambda: now[0]))
    train(tmp_path, checkpoint_every=100, mirror=pass_time)
    assert written == [2, 4]


def test_the_last_two_checkpoints_are_kept(train: Any, tmp_path: Path) -> None:
    train(tmp_path, checkpoint_every=1)
    assert {step for step, _ in checkpoints(tmp_path / "checkpoints")} == {3, 4}
