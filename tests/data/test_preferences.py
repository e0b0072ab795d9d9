"""Reading of pairs of answers."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.data.lines import Dropped
from mprm.data.preferences import Pair, PairFile


def record(**changes: Any) -> dict[str, Any]:
    fields = {"id": "p", "source": "s", "image": "0.png", "prompt": "How?", "answer_a": "10", "answer_b": "11"}
    return fields | {"label": "a"} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, *records: object) -> list[Pair | Dropped]:
    (folder / "mine.jsonl").write_text("\n\n".join(map(json.dumps, records)))
    return list(PairFile(path=str(folder / "mine.jsonl")).records())


def test_a_record_becomes_a_pair(folder: Path) -> None:
    short = {"image": ["0.png", "1.png"], "question": "<image> How?", "answer_a": 0.5, "answer_b": " b\n", "label": "B"}
    traced = record(id=7, label="A", trace="A is.\n[[A]]", flipped=True)
    pairs = read(folder, record(), short, traced, record(id="q", trace=None, flipped=False))
    assert pairs == [
        Pair("p", "s", ("0.png",), "How?", "10", "11", "a"),
        Pair("mine:2", "mine", ("0.png", "1.png"), "<image> How?", "0.5", " b\n", "b"),
        Pair("7", "s", ("0.png",), "How?", "10", "11", "a", "A is.\n[[A]]", flipped=True),
        Pair("q", "s", ("0.png",), "How?", "10", "11", "a", flipped=False),
    ]


def test_chosen_and_rejected_are_a_and_b(folder: Path) -> None:
    chosen = {"id": "c", "prompt": "How?", "chosen": "10", "rejected": "11", "image": "0.png", "chosen_reason": ""}
    other = {"question": "How?", "chosen": 12, "rejected": "11", "images": ["0.png", "1.png"], "image": None}
    assert read(folder, chosen, other, chosen | {"id": "d", "rejected": None}) == [
        Pair("c", "mine", ("0.png",), "How?", "10", "11", "a"),
        Pair("mine:2", "mine", ("0.png", "1.png"), "How?", "12", "11", "a"),
        Dropped("mine", 4, "no_answer"),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": None}, "no_image"),
        ({"image": []}, "no_image"),
        ({"image": ["0.png", "2.png"]}, "missing_image_file"),
        ({"prompt": " "}, "no_question"),
        ({"prompt": None, "question": "How?"}, "no_question"),
        ({"answer_a": None}, "no_answer"),
        ({"answer_b": "\n"}, "no_answer"),
        ({"answer_b": ["11"]}, "no_answer"),
        ({"answer_a": "11"}, "same_answers"),
        ({"answer_b": 10}, "same_answers"),
        ({"label": "tie"}, "tie"),
        ({"label": "Both"}, "tie"),
        ({"label": None}, "bad_label"),
        ({"label": "c"}, "bad_label"),
        ({"label": ""}, "bad_label"),
        ({"label": 1}, "bad_label"),
        ({"label": ["a"]}, "bad_label"),
        ({"flipped": 1}, "bad_label"),
        ({"id": None}, "bad_id"),
        ({"id": ""}, "bad_id"),
        ({"id": True}, "bad_id"),
        ({"source": 3}, "no_source"),
        ({"trace": " "}, "bad_trace"),
        ({"trace": ["[[A]]"]}, "bad_trace"),
        ({"trace": "\ud800"}, "not_utf8"),
        ({"answer_b": "\ud800"}, "not_utf8"),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str, folder: Path) -> None:
    assert read(folder, record(**changes)) == [Dropped("mine", 0, reason)]


def test_lines_that_are_no_records(folder: Path) -> None:
    (folder / "mine.jsonl").write_bytes(b"{\n[]\n\xff\n")
    assert list(PairFile(path=str(folder / "mine.jsonl")).records()) == [
        Dropped("mine", 0, "not_json"),
        Dropped("mine", 1, "not_an_object"),
        Dropped("mine", 2, "not_utf8"),
    ]


def test_the_later_of_two_records_with_one_id_is_dropped_and_a_dropped_one_leaves_its_id_free(folder: Path) -> None:
    dropped, first, second = read(folder, record(label="tie"), record(), record(prompt="Why?"))
    assert dropped == Dropped("mine", 0, "tie")
    assert first == Pair("p", "s", ("0.png",), "How?", "10", "11", "a")
    assert second == Dropped("mine", 4, "duplicate_id")


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(["a"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*record(), "trace", "flipped"]), JSON, max_size=3))
def test_whatever_a_field_holds_a_pair_is_whole_or_dropped(changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name, "0.png").touch()
        (pair,) = read(Path(name), record(**changes))
    if isinstance(pair, Pair):
        wanted = record(**changes)
        assert (pair.prompt, pair.trace, pair.flipped) == (wanted["prompt"], wanted.get("trace"), wanted.get("flipped"))
        assert (pair.answer_a, pair.answer_b) == (str(wanted["answer_a"]), str(wanted["answer_b"]))
        assert pair.label == wanted["label"].lower()
        assert pair.answer_a != pair.answer_b
    else:
        assert changes


def test_messages_name_the_key(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^preferences\.path is not set; give JSON lines with image, prompt, answer_a"
    ):
        list(PairFile().records())
    read(folder, record())
    preferences = PairFile(path=str(folder / "mine.jsonl"))
    assert preferences.image_folder.path("0.png") == folder / "0.png"
    with pytest.raises(ValueError, match=r"^image 2.png is not under .*; restore it, or give preferences\.images$"):
        preferences.image_folder.path("2.png")
