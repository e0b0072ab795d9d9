"""What becomes of a line of annotations."""

from typing import NamedTuple

from mprm.data.lines import Unusable
from mprm.data.rollouts import Dataset, read_rollout


class Step(NamedTuple):
    text: str
    score: float | None
    n_correct: int | None = None
    n_total: int | None = None


class Read(NamedTuple):
    images: tuple[str, ...]
    question: str
    steps: tuple[Step, ...]


def read_line(dataset: Dataset, line: bytes | str, source: str = "set") -> Read | str:
    """A rollout to train on, or the reason why it is none."""
    try:
        checked = read_rollout(dataset, line if isinstance(line, bytes) else line.encode(), source)
    except Unusable as unusable:
        return unusable.reason
    rollout = checked.rollout
    steps = map(Step, rollout.steps, rollout.scores, rollout.n_correct, rollout.n_total)
    return checked.fault or Read(tuple(checked.images), rollout.question, tuple(steps))
