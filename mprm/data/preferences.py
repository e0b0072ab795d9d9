"""Pairs of answers to questions about images, one of them better: what judges learn from and are measured on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from mprm.data.questions import answer_text
from mprm.data.records import RecordFile
from mprm.data.rollouts import Dropped, Unusable, check_text, image_names, json_object

TIES = ("tie", "both")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question about images, and which is better.

    `trace` is a judge's reasoning with its verdict at the end, about the answers in this order. `flipped` tells whether
    the label is wrong, where that is known: of a simulated world only.
    """

    id: str
    source: str
    images: tuple[str, ...]
    prompt: str
    answer_a: str
    answer_b: str
    label: str  # "a" or "b"
    trace: str | None = None
    flipped: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Preferences(RecordFile):
    """Component `preferences`: JSON lines with image (or images: a path or a list of them), prompt (or question),
    answer_a, answer_b and label, which is a or b; or chosen and rejected instead of these three.

    Optional are `id`, by default FILE_STEM:LINE with lines counted from 0; `source`, by default the file's stem;
    `trace`, a judge's reasoning; and `flipped`, true where the label is known to be wrong. A pair that nobody could
    decide (label tie or both) is dropped. Image paths start from `images`, by default the folder of `path`.
    """

    GROUP: ClassVar[str] = "preferences"
    WANTED: ClassVar[str] = "JSON lines with image, prompt, answer_a, answer_b and label, or chosen and rejected"

    def pairs(self) -> Iterator[Pair | Dropped]:
        """Every record in file order, as a Pair or as the reason why it can not be one.

        Raises:
            ValueError: no file is set, or it is not there.
        """
        seen: set[str] = set()

        def read(stem: str, number: int, line: bytes) -> Pair:
            pair = self.with_images(_pair_of(json_object(line), stem, number))
            if pair.id in seen:
                raise Unusable("duplicate_id")
            seen.add(pair.id)
            return pair

        return self.each(read)

    def items(self, pairs: Sequence[Pair]) -> dict[str, str] | None:
        """The item of every pair by the pair's id, where several pairs belong to one and are counted together."""
        return None

    def with_images(self, pair: Pair) -> Pair:
        """The pair with the names of its image files; Unusable when one is not there."""
        return replace(pair, images=self.image_folder.names(pair.images))


def _pair_of(record: dict[str, Any], stem: str, number: int) -> Pair:
    label, answers = record.get("label"), (record.get("answer_a"), record.get("answer_b"))
    if "chosen" in record and answers == (None, None):
        label, answers = "a", (record["chosen"], record.get("rejected"))
    return checked_pair(
        id=record.get("id", f"{stem}:{number}"),
        source=record.get("source", stem),
        images=named_images(record),
        prompt=record.get("prompt", record.get("question")),
        answers=answers,
        label=label.lower() if isinstance(label, str) else label,
        trace=record.get("trace"),
        flipped=record.get("flipped"),
    )


def named_images(record: dict[str, Any]) -> tuple[str, ...]:
    """The image paths of a record, under image or images."""
    return image_names(record.get("image") or record.get("images"))


def checked_pair(
    *,
    id: object,
    source: object,
    images: tuple[str, ...],
    prompt: object,
    answers: tuple[object, object],
    label: object,
    trace: object = None,
    flipped: object = None,
) -> Pair:
    """The pair of these fields as they stand in a record; `label` is a, b, or one of TIES.

    Raises:
        Unusable: a field is missing or of the wrong type, or there is nothing to choose between.
    """
    if not images:
        raise Unusable("no_image")
    if not isinstance(prompt, str) or not prompt.strip():
        raise Unusable("no_question")
    answer_a, answer_b = map(answer_text, answers)
    if answer_a is None or answer_b is None:
        raise Unusable("no_answer")
    if answer_a == answer_b:
        raise Unusable("same_answers")
    if label in TIES:
        raise Unusable("tie")
    if label not in ("a", "b") or not (flipped is None or isinstance(flipped, bool)):
        raise Unusable("bad_label")
    if type(id) not in (str, int) or id == "":
        raise Unusable("bad_id")
    if not isinstance(source, str) or not source:
        raise Unusable("no_source")
    if trace is not None and not (isinstance(trace, str) and trace.strip()):
        raise Unusable("bad_trace")
    check_text(str(id), source, prompt, answer_a, answer_b, trace or "", *images)
    return Pair(str(id), source, images, prompt, answer_a, answer_b, str(label), trace, flipped)
