"""The benchmark, VisualProcessBench: one JSON lines file of solutions whose steps people labelled."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from mprm.data.lines import Unusable, check_text
from mprm.data.records import RecordFile, Records, image_names


@dataclass(frozen=True, slots=True)
class Solution:
    id: str
    source: str
    images: tuple[str, ...]
    question: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]  # per step: 1 correct, -1 incorrect, 0 neutral (not evaluated)


Benchmark: TypeAlias = Records[Solution]


@dataclass(frozen=True, kw_only=True)
class VisualProcessBench(RecordFile):
    """Texts are given as they stand: placeholders such as <image1> are left to the prompt renderer. A solution is never
    shortened or repaired, so that a score is always over the steps that were labelled."""

    group = "benchmark"
    wanted = "the test.jsonl of VisualProcessBench"

    def read(self, record: dict[str, Any], stem: str, number: int) -> Solution:
        images, question, source = image_names(record.get("image")), record.get("question"), record.get("data_source")
        if not images:
            raise Unusable("no_image")
        if not isinstance(question, str) or not question.strip():
            raise Unusable("no_question")
        if not isinstance(source, str) or not source:
            raise Unusable("no_source")
        steps, labels = _steps_and_labels(record.get("response"))
        check_text(source, question, *images, *steps)
        return Solution(f"{stem}:{number}", source, images, question, steps, labels)


def _steps_and_labels(response: object) -> tuple[tuple[str, ...], tuple[int, ...]]:
    steps = response.get("steps") if isinstance(response, dict) else None
    labels = response.get("process_correctness") if isinstance(response, dict) else None
    if not isinstance(steps, list) or not steps:
        raise Unusable("no_steps")
    if not all(isinstance(step, str) for step in steps):
        raise Unusable("bad_step")
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise Unusable("length_mismatch")
    return tuple(steps), tuple(map(_label, labels))


def _label(value: object) -> int:
    """1, -1 or 0, which may be written as 1.0 or "1"."""
    try:
        label = float(value) if type(value) in (int, float, str) else None  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        label = None
    if label not in (1, -1, 0):
        raise Unusable("bad_label")
    return int(label)
