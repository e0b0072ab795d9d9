"""Pairs of answers to questions about images, one of them better: what judges learn from and are measured on."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from mprm.data.lines import Unusable, check_text
from mprm.data.questions import answer_text
from mprm.data.records import RecordFile, Records, id_and_source, images_and_question


@dataclass(frozen=True, slots=True)
class Pair:
    id: str
    source: str
    images: tuple[str, ...]
    prompt: str
    answer_a: str
    answer_b: str
    label: str  # the better one, "a" or "b"
    trace: str | None = None  # a judge's reasoning about the answers in this order, its verdict at the end
    flipped: bool | None = None  # is the label wrong? None: not known, as in all but simulated worlds
    item: str | None = None  # pairs of one item are also counted together, right when all of them are


Preferences: TypeAlias = Records[Pair]


@dataclass(frozen=True, kw_only=True)
class PairFile(RecordFile):
    """JSON lines with image (or images: a path or a list of them), prompt (or question), answer_a, answer_b and label,
    which is a or b; or chosen and rejected instead of these three.

    Optional are `id`, by default FILE_STEM:LINE with lines counted from 0; `source`, by default the file's stem;
    `trace`, a judge's reasoning; and `flipped`, true where the label is known to be wrong. A pair that nobody could
    decide (label tie or both) is dropped.
    """

    group = "preferences"
    wanted = "JSON lines with image, prompt, answer_a, answer_b and label, or chosen and rejected"

    def layout(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        """The record in the layout above; a published benchmark has its own."""
        return record

    def read(self, record: dict[str, Any], stem: str, number: int) -> Pair:
        record = self.layout(record, number)
        images, prompt = images_and_question(
            record.get("image") or record.get("images"), record.get("prompt", record.get("question"))
        )
        trace, flipped = record.get("trace"), record.get("flipped")
        label, answers = record.get("label"), (record.get("answer_a"), record.get("answer_b"))
        if "chosen" in record and answers == (None, None):
            label, answers = "a", (record["chosen"], record.get("rejected"))
        label = label.lower() if isinstance(label, str) else label
        answer_a, answer_b = map(answer_text, answers)
        if answer_a is None or answer_b is None:
            raise Unusable("no_answer")
        if answer_a == answer_b:
            raise Unusable("same_answers")
        if label in ("tie", "both"):
            raise Unusable("tie")
        if label not in ("a", "b") or not (flipped is None or isinstance(flipped, bool)):
            raise Unusable("bad_label")
        name, source = id_and_source(record.get("id", f"{stem}:{number}"), record.get("source", stem))
        if trace is not None and not (isinstance(trace, str) and trace.strip()):
            raise Unusable("bad_trace")
        check_text(name, source, prompt, answer_a, answer_b, trace or "", *images)
        return Pair(name, source, images, prompt, answer_a, answer_b, label, trace, flipped)
