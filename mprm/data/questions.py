"""Questions with known answers, which a policy is asked; candidates, several solutions of a question each, of which a
reward model chooses one; and pairs of answers, one of them better, which judges learn from and are measured on."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from mprm.data.answers import final_answer, is_right
from mprm.data.lines import Dropped, Unusable, check_text, first_keys, read_json_lines
from mprm.data.records import RecordFile, Records, id_and_source, image_field, image_names, images_and_question

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    source: str
    images: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Candidate:
    steps: tuple[str, ...]
    final_answer: str | None  # None when it states none
    correct: bool
    n_tokens: int | None  # what it cost to write, None when not known


@dataclass(frozen=True, slots=True)
class CandidateSet:
    id: str
    source: str
    images: tuple[str, ...]
    question: str
    answer: str | None  # None where every candidate says whether it is correct
    candidates: tuple[Candidate, ...]  # at least one


Questions: TypeAlias = Records[Question]


@dataclass(frozen=True, kw_only=True)
class QuestionFile(RecordFile):
    """JSON lines with image (a path or a list of them), question and answer (text or a number).

    `id` is optional, by default FILE_STEM:LINE with lines counted from 0, and so is `source` (or data_source), by
    default the file's stem. VisualProcessBench's test.jsonl can be read, too.
    """

    group = "questions"
    wanted = "JSON lines with image, question and answer"

    def read(self, record: dict[str, Any], stem: str, number: int) -> Question:
        return question_of(record, stem, number, answer=answer_text(record.get("answer")))


def question_of(record: dict[str, Any], stem: str, number: int, answer: str | None) -> Question:
    """The question of a record in line `number` of the file `stem`; or Unusable, also where `answer` is None."""
    images, question = images_and_question(image_field(record), record.get("question"))
    if answer is None:
        raise Unusable("no_answer")
    source = record.get("source", record.get("data_source", stem))
    name, source = id_and_source(record.get("id", f"{stem}:{number}"), source)
    check_text(name, source, question, answer, *images)
    return Question(name, source, images, question, answer)


def answer_text(value: object) -> str | None:
    """An answer as text, as it stands; None when it is neither text nor a number, or blank."""
    if isinstance(value, str):
        return value if value.strip() else None
    return str(value) if type(value) in (int, float) and math.isfinite(value) else None  # type: ignore[arg-type]


def read_candidates(path: str | Path) -> tuple[list[CandidateSet], dict[str, int]]:
    """Read a file of candidates: the sets in file order, and the number of unusable records by reason.

    A missing `final_answer` is taken from the steps, a missing `correct` found by comparing it with the question's
    answer. A candidate without steps cannot be scored, and is wrong unless `correct` says otherwise. Image paths are
    given as they stand, and not looked for. Raises ValueError if none of the records can be used.
    """
    return _read(Path(path), "image, question, answer and candidates", _candidate_set)


def _read(
    path: Path, wanted: str, read: Callable[[dict[str, Any], str, int], Record]
) -> tuple[list[Record], dict[str, int]]:
    """What `read` makes of record, stem and line number, for every line of input=; the number of others by reason."""
    if not path.is_file():
        raise ValueError(f"input={path} is not a file; give JSON lines with {wanted}")
    lines = list(read_json_lines(path, "input", lambda number, record: read(record, path.stem, number)))
    records = [one for one in lines if not isinstance(one, Dropped)]
    unusable = Counter(one.reason for one in lines if isinstance(one, Dropped))
    if not records:
        reasons = ", ".join(f"{reason} {count}" for reason, count in unusable.items()) or "it is empty"
        raise ValueError(
            f"input={path} has no usable record ({reasons}): {first_keys(path)}; give JSON lines with {wanted}"
        )
    return records, dict(unusable)


def _candidate_set(record: dict[str, Any], stem: str, number: int) -> CandidateSet:
    answer = answer_text(record.get("answer"))
    question = question_of(record, stem, number, answer or "")
    raw = record.get("candidates")
    if not isinstance(raw, list) or not raw:
        raise Unusable("no_candidates")
    candidates = tuple(_candidate(fields, answer) for fields in raw)
    return CandidateSet(question.id, question.source, question.images, question.question, answer, candidates)


def _candidate(fields: object, answer: str | None) -> Candidate:
    if not isinstance(fields, dict):
        raise Unusable("bad_candidate")
    steps, correct, n_tokens = fields.get("steps"), fields.get("correct"), fields.get("n_tokens")
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise Unusable("bad_step")
    final = answer_text(fields["final_answer"]) if "final_answer" in fields else final_answer(steps)
    if (
        not (correct is None or isinstance(correct, bool))
        or not (n_tokens is None or (type(n_tokens) is int and n_tokens >= 0))
        or (final is None and fields.get("final_answer") not in (None, ""))
    ):
        raise Unusable("bad_candidate")
    check_text(final or "", *steps)
    if correct is None:
        if answer is None:
            raise Unusable("no_answer")
        correct = bool(steps) and final is not None and is_right(final, answer)
    return Candidate(tuple(steps), final, correct, n_tokens)


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
    all_have_images: ClassVar[bool] = False  # in a published benchmark: a pair without one has lost it

    def layout(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        """The record in the layout above; a published benchmark has its own."""
        return record

    def read(self, record: dict[str, Any], stem: str, number: int) -> Pair:
        record = self.layout(record, number)
        if self.all_have_images and not image_names(image_field(record)):
            raise Unusable("no_image")
        pair = pair_of(record, stem, number)
        trace, flipped, label = record.get("trace"), record.get("flipped"), pair.label
        if label in ("tie", "both"):
            raise Unusable("tie")
        if label not in ("a", "b") or not (flipped is None or isinstance(flipped, bool)):
            raise Unusable("bad_label")
        if trace is not None and not (isinstance(trace, str) and trace.strip()):
            raise Unusable("bad_trace")
        check_text(trace or "")
        return replace(pair, trace=trace, flipped=flipped)


def pair_of(record: dict[str, Any], stem: str, number: int) -> Pair:
    """The pair of a record in line `number` of the file `stem`, its label as it stands there; or Unusable."""
    images, prompt = images_and_question(image_field(record), record.get("prompt", record.get("question")))
    label, answers = record.get("label"), (record.get("answer_a"), record.get("answer_b"))
    if "chosen" in record and answers == (None, None):
        label, answers = "a", (record["chosen"], record.get("rejected"))
    answer_a, answer_b = map(answer_text, answers)
    if answer_a is None or answer_b is None:
        raise Unusable("no_answer")
    if answer_a == answer_b:
        raise Unusable("same_answers")
    name, source = id_and_source(record.get("id", f"{stem}:{number}"), record.get("source", stem))
    check_text(name, source, prompt, answer_a, answer_b, *images)
    return Pair(name, source, images, prompt, answer_a, answer_b, label.lower() if isinstance(label, str) else "")


def read_pairs(path: str | Path) -> tuple[list[Pair], dict[str, int]]:
    """Read a file of pairs that need no label: the pairs in file order, and the number of unusable records by reason.

    Image paths are given as they stand, and not looked for. Raises ValueError if none of the records can be used.
    """
    return _read(Path(path), "image, prompt, answer_a and answer_b", pair_of)
