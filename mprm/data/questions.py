"""Questions with known answers: what a policy is asked, and what its solutions are checked against."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from mprm.data.lines import Unusable, check_text
from mprm.data.records import RecordFile, Records, image_names


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    source: str
    images: tuple[str, ...]
    question: str
    answer: str


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
    """The question of a record in line `number` of the file `stem`.

    Raises:
        Unusable: a field is missing or of the wrong type, or `answer` is None.
    """
    images, question = image_names(record.get("image")), record.get("question")
    if not images:
        raise Unusable("no_image")
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no_question")
    if answer is None:
        raise Unusable("no_answer")
    name = record.get("id", f"{stem}:{number}")
    if type(name) not in (str, int) or name == "":
        raise Unusable("bad_id")
    source = record.get("source", record.get("data_source", stem))
    if not isinstance(source, str) or not source:
        raise Unusable("no_source")
    check_text(str(name), source, question, answer, *images)
    return Question(str(name), source, images, question, answer)


def answer_text(value: object) -> str | None:
    """An answer as text, as it stands; None when it is neither text nor a number, or blank."""
    if isinstance(value, str):
        return value if value.strip() else None
    return str(value) if type(value) in (int, float) and math.isfinite(value) else None  # type: ignore[arg-type]
