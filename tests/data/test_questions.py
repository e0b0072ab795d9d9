"""Reading of questions with known answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from mprm.data.lines import Dropped
from mprm.data.questions import Question, QuestionFile


def record(**changes: Any) -> dict[str, Any]:
    return {"id": "q", "source": "s", "image": "0.png", "question": "How?", "answer": "10"} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, *records: dict[str, Any]) -> list[Question | Dropped]:
    (folder / "mine.jsonl").write_text("\n\n".join(map(json.dumps, records)))
    return list(QuestionFile(path=str(folder / "mine.jsonl")).records())


def test_a_record_becomes_a_question(folder: Path) -> None:
    short = {"image": ["0.png", "1.png"], "question": "<image1> How?", "answer": 0.5}
    assert read(folder, record(), short, record(id=7, answer=3)) == [
        Question("q", "s", ("0.png",), "How?", "10"),
        Question("mine:2", "mine", ("0.png", "1.png"), "<image1> How?", "0.5"),
        Question("7", "s", ("0.png",), "How?", "3"),
    ]


def test_visualprocessbench_reads_as_questions(folder: Path) -> None:
    response = {"steps": ["Look."], "process_correctness": [1]}
    bench = {"image": ["0.png"], "question": "How?", "answer": "B", "response": response, "data_source": "DynaMath"}
    assert read(folder, bench) == [Question("mine:0", "DynaMath", ("0.png",), "How?", "B")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": None}, "no_image"),
        ({"image": []}, "no_image"),
        ({"image": ["0.png", "2.png"]}, "missing_image_file"),
        ({"question": " "}, "no_question"),
        ({"answer": None}, "no_answer"),
        ({"answer": " "}, "no_answer"),
        ({"answer": True}, "no_answer"),
        ({"answer": float("nan")}, "no_answer"),
        ({"answer": ["10"]}, "no_answer"),
        ({"id": 1.5}, "bad_id"),
        ({"id": ""}, "bad_id"),
        ({"source": 3}, "no_source"),
        ({"answer": "\ud800"}, "not_utf8"),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str, folder: Path) -> None:
    assert read(folder, record(**changes)) == [Dropped("mine", 0, reason)]


def test_the_later_of_two_records_with_one_id_is_dropped(folder: Path) -> None:
    first, second, third = read(folder, record(), record(question="Why?"), record(id="mine:6"))
    assert first == Question("q", "s", ("0.png",), "How?", "10")
    assert second == Dropped("mine", 2, "duplicate_id")
    assert third == Question("mine:6", "s", ("0.png",), "How?", "10")


def test_a_record_that_was_dropped_leaves_its_id_free(folder: Path) -> None:
    dropped, kept = read(folder, record(image="2.png"), record())
    assert dropped == Dropped("mine", 0, "missing_image_file")
    assert isinstance(kept, Question)


def test_messages_name_the_key() -> None:
    with pytest.raises(
        ValueError, match=r"^questions\.path is not set; give JSON lines with image, question and answer$"
    ):
        list(QuestionFile().records())
    with pytest.raises(ValueError, match=r"^questions\.path=nowhere is not a file; give JSON lines"):
        list(QuestionFile(path="nowhere").records())


def test_image_path(folder: Path) -> None:
    (folder / "mine.jsonl").touch()
    questions = QuestionFile(path=str(folder / "mine.jsonl"))
    assert questions.image_folder.path("0.png") == folder / "0.png"
    with pytest.raises(ValueError, match=r"image 2.png is not under .*; restore it, or give questions\.images$"):
        questions.image_folder.path("2.png")
    elsewhere = QuestionFile(path=str(folder / "mine.jsonl"), images=str(folder.parent))
    assert elsewhere.image_folder.path(f"{folder.name}/0.png") == folder / "0.png"
