"""Reading of candidates."""

import json
from pathlib import Path
from typing import Any

import pytest

from mprm.data.questions import Candidate, CandidateSet, read_candidates


def candidate(**changes: Any) -> dict[str, Any]:
    return {"steps": ["red is 4.", "The answer is 10."]} | changes


def record(*candidates: Any, **changes: Any) -> dict[str, Any]:
    fields = {"id": "q", "source": "s", "image": "0.png", "question": "How?", "answer": "10"}
    return fields | {"candidates": list(candidates) or [candidate()]} | changes


def read(tmp_path: Path, *records: Any) -> tuple[list[CandidateSet], dict[str, int]]:
    (tmp_path / "c.jsonl").write_text("\n\n".join(map(json.dumps, records)))
    return read_candidates(tmp_path / "c.jsonl")


def candidates(tmp_path: Path, *some: Any, **changes: Any) -> tuple[Candidate, ...]:
    (found,), unusable = read(tmp_path, record(*some, **changes))
    assert unusable == {}
    return found.candidates


def test_a_record_becomes_a_set(tmp_path: Path) -> None:
    full = candidate(final_answer="11", correct=True, n_tokens=9)
    steps = ("red is 4.", "The answer is 10.")
    assert read(tmp_path, record(candidate(), full), record(id=3, image=["1.png"], answer=10)) == (
        [
            CandidateSet(
                "q",
                "s",
                ("0.png",),
                "How?",
                "10",
                (Candidate(steps, "10", True, None), Candidate(steps, "11", True, 9)),
            ),
            CandidateSet("3", "s", ("1.png",), "How?", "10", (Candidate(steps, "10", True, None),)),
        ],
        {},
    )


def test_an_answer_is_found_in_the_steps_only_where_the_record_has_none(tmp_path: Path) -> None:
    given = [candidate(), candidate(final_answer=None), candidate(final_answer=10.0), candidate(final_answer="")]
    found = candidates(tmp_path, *given, candidate(steps=["red is 4."]))
    assert [one.final_answer for one in found] == ["10", None, "10.0", None, None]
    assert [one.correct for one in found] == [True, False, True, False, False]


def test_a_candidate_without_steps_is_wrong_unless_it_says_otherwise(tmp_path: Path) -> None:
    empty = {"steps": [], "final_answer": "10"}
    assert [one.correct for one in candidates(tmp_path, empty, empty | {"correct": True})] == [False, True]


def test_no_answer_is_needed_where_every_candidate_says_whether_it_is_correct(tmp_path: Path) -> None:
    said = candidate(correct=False)
    assert candidates(tmp_path, said, answer=None)[0].correct is False
    kept, unusable = read(tmp_path, record(said, answer=None), record(said, candidate(), id="r", answer=None))
    assert [one.answer for one in kept] == [None]
    assert unusable == {"no_answer": 1}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(image=" "), "no_image"),
        (record(question=""), "no_question"),
        (record(candidates=[]), "no_candidates"),
        (record(candidates={}), "no_candidates"),
        (record(3), "bad_candidate"),
        (record(candidate(steps="red")), "bad_step"),
        (record(candidate(steps=[1])), "bad_step"),
        (record({"final_answer": "10"}), "bad_step"),
        (record(candidate(correct=1)), "bad_candidate"),
        (record(candidate(n_tokens=-1)), "bad_candidate"),
        (record(candidate(n_tokens=1.5)), "bad_candidate"),
        (record(candidate(final_answer=["10"])), "bad_candidate"),
        (record(candidate(steps=["\ud800"])), "not_utf8"),
        (record(id="good"), "duplicate_id"),
        ([], "not_an_object"),
    ],
)
def test_reasons(bad: Any, reason: str, tmp_path: Path) -> None:
    kept, unusable = read(tmp_path, record(id="good", question="First?"), bad)
    assert [one.question for one in kept] == ["First?"]
    assert unusable == {reason: 1}


def test_files_that_can_not_be_used_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^input=nowhere is not a file; give JSON lines with image, question, answer"):
        read_candidates("nowhere")
    with pytest.raises(
        ValueError,
        match=r"has no usable record \(no_image 2, not_an_object 1\): line 1 of .* has the keys .*; give JSON",
    ):
        read(tmp_path, record(image=3), record(image=[3]), [])
    with pytest.raises(ValueError, match=r"has no usable record \(it is empty\)"):
        read(tmp_path)
