"""Candidates: several solutions of every question, of which a reward model chooses one. JSON lines, a question each:

{"id"?, "source"?, "image", "question", "answer",
 "candidates": [{"steps": [...], "final_answer"?, "correct"?, "n_tokens"?}, ...]}

Besides the reasons of mprm/data/rollouts.py a record is dropped for `no_candidates` (no list of them, or an empty one)
and `bad_candidate` (one that is no object, or has a field of the wrong type).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mprm.data.answers import final_answer, same_answer
from mprm.data.questions import answer_text, question_of
from mprm.data.records import check_json_lines, first_keys
from mprm.data.rollouts import Unusable, check_text, is_blank, json_object, numbered_lines

FIELDS = "image, question, answer and candidates"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One solution. final_answer: None when it states none; n_tokens: what it cost to write, None when not known."""

    steps: tuple[str, ...]
    final_answer: str | None
    correct: bool
    n_tokens: int | None


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """A question and its candidates, at least one. answer: None where every candidate says whether it is correct."""

    id: str
    source: str
    images: tuple[str, ...]
    question: str
    answer: str | None
    candidates: tuple[Candidate, ...]


def read_candidates(path: str | Path) -> tuple[list[CandidateSet], dict[str, int]]:
    """Read a file of candidates: the sets in file order, and the number of unusable records by reason.

    A missing `final_answer` is taken from the steps, a missing `correct` found by comparing it with the question's
    answer. A candidate without steps can not be scored, and is wrong unless `correct` says otherwise. Image paths are
    given as they stand, and not looked for.

    Raises:
        ValueError: the file is not there, or none of its records can be used.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"input={path} is not a file; give JSON lines with {FIELDS}")
    check_json_lines(path, "input")
    sets: dict[str, CandidateSet] = {}
    unusable = Counter[str]()
    with open(path, "rb") as stream:
        for number, _, _, line in numbered_lines(stream):
            if is_blank(line):
                continue
            try:
                read = _candidate_set(json_object(line), path.stem, number)
                if read.id in sets:
                    raise Unusable("duplicate_id")
                sets[read.id] = read
            except Unusable as dropped:
                unusable[dropped.reason] += 1
    if not sets:
        reasons = ", ".join(f"{reason} {count}" for reason, count in unusable.items()) or "it is empty"
        raise ValueError(
            f"input={path} has no usable record ({reasons}): {first_keys(path)}; give JSON lines with {FIELDS}"
        )
    return list(sets.values()), dict(unusable)


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
    if not (correct is None or isinstance(correct, bool)):
        raise Unusable("bad_candidate")
    if not (n_tokens is None or (type(n_tokens) is int and n_tokens >= 0)):
        raise Unusable("bad_candidate")
    if "final_answer" not in fields:
        final = final_answer(steps)
    else:
        final = answer_text(fields["final_answer"])
        if final is None and fields["final_answer"] not in (None, ""):
            raise Unusable("bad_candidate")
    check_text(final or "", *steps)
    if correct is None:
        if answer is None:
            raise Unusable("no_answer")
        correct = bool(steps) and final is not None and same_answer(final, answer)
    return Candidate(tuple(steps), final, correct, n_tokens)
