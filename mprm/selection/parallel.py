"""Work on annotation lines shared between cores, results in order."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import current_process, get_context, parent_process
from threading import Thread
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

BYTES_PER_PROCESS = 32 * 2**20  # of annotations; what a further process must have to do to be worth its start
MAX_PROCESSES = 8


def in_processes(function: Callable[[Task], Result], tasks: list[Task], n_bytes: int) -> Iterator[Result]:
    """Yield function(task) of every task in order, in as many processes as `n_bytes` of annotations are worth.

    A few results are held at a time, however many tasks there are.
    """
    processes = min(n_bytes // BYTES_PER_PROCESS, _cores(), MAX_PROCESSES)
    if processes < 2 or current_process().daemon:  # a daemonic process may not start others
        yield from map(function, tasks)
        return
    # Forked on Linux, as torch forks its data workers: a new interpreter would import everything again.
    context = get_context("fork" if sys.platform == "linux" else None)
    window = 8 * processes
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        for start in range(0, len(tasks), window):
            yield from pool.map(function, tasks[start : start + window])


def _end_with_parent() -> None:
    """End this worker with the process that started it: one that is killed can not say so, and workers wait on."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
