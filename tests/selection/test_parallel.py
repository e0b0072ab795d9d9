"""Order and bounds of the shared work."""

import os
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import mprm.selection.scan
from mprm.selection.scan import in_processes


def square(n: int) -> tuple[int, int]:
    return n * n, os.getpid()


@pytest.mark.parametrize(("n_bytes", "cores", "processes"), [(1, 2, 1), (2**30, 2, 2), (2**30, 1, 1)])
def test_results_come_in_order(n_bytes: int, cores: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mprm.selection.scan, "_cores", lambda: cores)
    results = list(in_processes(square, list(range(50)), n_bytes))
    assert [result for result, _ in results] == [n * n for n in range(50)]
    assert (os.getpid() in {pid for _, pid in results}) == (processes == 1)


def fail(n: int) -> int:
    raise ValueError(f"task {n}")


def test_an_error_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mprm.selection.scan, "_cores", lambda: 2)
    with pytest.raises(ValueError, match="task 0"):
        list(in_processes(fail, [0, 1], 2**30))


def pid_and_wait(n: int) -> int:
    if n:
        time.sleep(60)
    return os.getpid()


def report_worker_and_wait(sender: Connection) -> None:
    mprm.selection.scan._cores = lambda: 2
    results = in_processes(pid_and_wait, [0, 1], 2**30)
    sender.send(next(results))
    time.sleep(60)


def runs(pid: int) -> bool:
    """Is there such a process, and not only its exit status?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_a_killed_parent() -> None:
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    parent = get_context("spawn").Process(target=report_worker_and_wait, args=(sender,))
    parent.start()
    worker = receiver.recv()
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 20
    while runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(worker)
