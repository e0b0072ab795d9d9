"""Questions of the world: charts of their own, right answers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mprm.chartworld.questions import ChartWorldQuestions
from mprm.chartworld.world import KINDS, Problems
from mprm.data.questions import Question


def component(folder: Path, size: int = 500) -> ChartWorldQuestions:
    return ChartWorldQuestions(path=str(folder / "questions.jsonl"), size=size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "questions"
    component(folder).records()
    return folder


@pytest.fixture(scope="module")
def questions(folder: Path) -> list[Question]:
    read = list(component(folder).records())
    assert all(isinstance(question, Question) for question in read)
    return read  # type: ignore[return-value]


def test_there_are_as_many_as_asked_for_of_every_kind(folder: Path, questions: list[Question]) -> None:
    assert [question.id for question in questions] == [str(number) for number in range(500)]
    assert {question.source for question in questions} == set(KINDS)
    with Image.open(component(folder).image_folder.path(questions[0].images[0])) as image:
        assert image.size == (56, 56)


def test_other_seeds_ask_about_none_of_the_default_questions_charts(folder: Path, tmp_path: Path) -> None:
    other = ChartWorldQuestions(path=str(tmp_path / "other" / "questions.jsonl"), size=300, world_seed=3_000)
    assert (ChartWorldQuestions().part, other.part) == ("questions", "corpus")
    other.records()
    shown = [{path.read_bytes() for path in at.rglob("*.png")} for at in (folder, tmp_path)]
    assert len(shown[1]) > 290
    assert not shown[0] & shown[1]


def test_answers_are_right(plus_minus: Problems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mprm.chartworld.questions.sample_part", lambda _, count, part: plus_minus.take(np.zeros(count, int))
    )
    found = list(component(tmp_path / "one", size=2).records())
    asked = "What is red plus blue minus green?"
    assert found == [Question(str(row), "plus_minus", (f"images/{row}.png",), asked, "9") for row in range(2)]


def test_the_same_settings_write_the_same_bytes_and_others_are_refused(folder: Path, tmp_path: Path) -> None:
    component(tmp_path / "again").records()
    assert (tmp_path / "again" / "questions.jsonl").read_bytes() == (folder / "questions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="holds a world of other settings; delete it, or give another folder"):
        component(folder, size=20).records()


def test_wrong_settings_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^questions\.size=0 is not positive; try 500$"):
        ChartWorldQuestions(size=0)
    with pytest.raises(ValueError, match=r"^questions\.path is not set; give the file to write"):
        ChartWorldQuestions().records()
