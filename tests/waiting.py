"""A selector that waits at a pipe, so that a run can be met while it works: WAIT, pipe() and meet().

It is found where PYTHONPATH names this folder.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mprm.selection.selectors import Full

HERE = Path(__file__).resolve().parent
WAIT = ("selector=full", "selector._target_=waiting.Waiting")  # and +selector.pipe=PATH


@dataclass(frozen=True, kw_only=True)
class Waiting(Full):
    pipe: str

    def score(self, signals: pa.Table) -> np.ndarray:
        """Scores as Full's, once somebody has written into the pipe; at once where it is a file."""
        Path(self.pipe).read_text()
        return super().score(signals)


def meet(pipe: Path) -> int:
    """Our end of the pipe, once a run waits at the other one."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.1)
    raise TimeoutError(pipe)
