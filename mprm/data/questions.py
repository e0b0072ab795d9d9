"""Questions with known answers, which a policy is asked; and candidates, several solutions of a question each, of which
a reward model chooses one."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mprm.data.answers import final_answer, same_answer
from mprm.data.lines import Dropped, Unusable, check_text, first_keys, read_json_lines
from mprm.data.records import RecordFile, Records, id_and_source, images_and_question

FIELDS = "image, question, answer and candidates"


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
    images, question = images_and_question(record.get("image"), record.get("question"))
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
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"input={path} is not a file; give JSON lines with {FIELDS}")
    read = list(read_json_lines(path, "input", lambda number, record: _candidate_set(record, path.stem, number)))
    sets = [one for one in read if not isinstance(one, Dropped)]
    unusable = Counter(one.reason for one in read if isinstance(one, Dropped))
    if not sets:
        reasons = ", ".join(f"{reason} {count}" for reason, count in unusable.items()) or "it is empty"
        raise ValueError(
            f"input={path} has no usable record ({reasons}): {first_keys(path)}; give JSON lines with {FIELDS}"
        )
    return sets, dict(unusable)


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
        correct = bool(steps) and final is not None and same_answer(final, answer)
    return Candidate(tuple(steps), final, correct, n_tokens)
