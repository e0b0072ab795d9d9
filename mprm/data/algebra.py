"""Whether two expressions are equal, asked of math_verify in a process of its own.

sympy works for minutes or for ever on some expressions, and fills the memory with others. A process can be stopped
whatever it is doing, in any thread, without a signal in ours. This file is also the program of that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any

LIMIT_S = 3.0  # seconds of processor time for a comparison, so that a busy machine says the same
MEMORY = 4 << 30  # bytes

_one_at_a_time = threading.Lock()


@lru_cache(maxsize=100_000)
def equal(given: str, right: str) -> bool:
    """Whether math_verify calls two LaTeX expressions equal; False when it cannot tell within LIMIT_S."""
    with _one_at_a_time:
        worker = _worker(os.getpid())
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps([given, right]) + "\n")
            worker.stdin.flush()
            said = worker.stdout.readline()
        except BrokenPipeError:
            said = ""
        if not said:  # it was stopped
            _worker.cache_clear()
            with suppress(BrokenPipeError), worker:
                pass
    return said == "1\n"


@cache
def _worker(process: int) -> subprocess.Popen[str]:
    """The worker of this process: a fork must not share the pipes of its parent."""
    worker = subprocess.Popen(
        [sys.executable, "-P", __file__, str(LIMIT_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert worker.stdout is not None
    if worker.stdout.readline() != "ready\n":
        raise ValueError("math_verify, which compares answers, does not start; try: python -c 'import math_verify'")
    return worker


def _serve(limit: float) -> None:
    import resource
    import signal

    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    normalisation = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="all")
    latex = [LatexExtractionConfig(normalization_config=normalisation)]

    @lru_cache(maxsize=1000)
    def read(text: str) -> list[Any]:
        percent = "%" if text.endswith("%") else ""
        return parse(f"${text.removesuffix('%')}${percent}", latex, fallback_mode="no_fallback", parsing_timeout=None)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, also within a long operation
    print("ready", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            given, right = map(read, json.loads(line))
            same = bool(given and right and verify(right, given, timeout_seconds=None))
        except Exception:
            same = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(int(same), flush=True)


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
