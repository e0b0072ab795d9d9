"""Readers of files of records: benchmark, questions, preferences. What each makes of a record, and why it drops one."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.data.lines import MAX_LINE_BYTES, Dropped
from mprm.data.questions import Pair, PairFile, Question, QuestionFile
from mprm.data.records import RecordFile, Solution, VisualProcessBench

READERS: dict[str, type[RecordFile]] = {
    "benchmark": VisualProcessBench,
    "questions": QuestionFile,
    "preferences": PairFile,
}
WHOLE: dict[str, dict[str, Any]] = {
    "benchmark": {
        "image": ["0.png", "1.png"],
        "question": "<image1> or <image7",
        "answer": "B",
        "response": {"steps": ["Look at <image2>.", "Add.", "Done."], "process_correctness": [1, 0, -1]},
        "policy_model": "m",
        "data_source": "DynaMath",
    },
    "questions": {"id": "q", "source": "s", "image": "0.png", "question": "How?", "answer": "10"},
    "preferences": {
        "id": "p",
        "source": "s",
        "image": "0.png",
        "prompt": "How?",
        "answer_a": "10",
        "answer_b": "11",
        "label": "a",
    },
}
REASONS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "benchmark": [
        ({"image": " "}, "no_image"),
        ({"image": ["0.png", "2.png"]}, "missing_image_file"),
        ({"image": "../0.png"}, "image_outside"),
        ({"question": 4}, "no_question"),
        ({"data_source": None}, "no_source"),
        ({"response": None}, "no_steps"),
        ({"response": {"steps": [], "process_correctness": []}}, "no_steps"),
        ({"response": {"steps": ["a", 1], "process_correctness": [1, 1]}}, "bad_step"),
        ({"response": {"steps": ["a", "b"], "process_correctness": [1]}}, "length_mismatch"),
        ({"response": {"steps": ["a"]}}, "length_mismatch"),
        *(
            ({"response": {"steps": ["a"], "process_correctness": [label]}}, "bad_label")
            for label in (2, True, None, 0.5, "right", "", "nan", 10**400, [1], float("inf"))
        ),
    ],
    "questions": [
        ({"image": " "}, "no_image"),
        ({"image": ["0.png", 3]}, "no_image"),
        ({"image": ["0.png", "2.png"]}, "missing_image_file"),
        ({"question": " "}, "no_question"),
        *(({"answer": answer}, "no_answer") for answer in (None, " ", True, float("nan"), ["10"])),
        ({"answer": "\ud800"}, "not_utf8"),
        ({"id": 1.5}, "bad_id"),
        ({"id": ""}, "bad_id"),
        ({"source": 3}, "no_source"),
    ],
    "preferences": [
        ({"image": " "}, "no_image"),
        ({"image": ["0.png", 3]}, "no_image"),
        ({"image": ["0.png", "2.png"]}, "missing_image_file"),
        ({"prompt": " "}, "no_question"),
        ({"prompt": None, "question": "How?"}, "no_question"),
        ({"answer_a": None}, "no_answer"),
        ({"answer_b": "\n"}, "no_answer"),
        ({"answer_b": ["11"]}, "no_answer"),
        ({"answer_b": "\ud800"}, "not_utf8"),
        ({"answer_a": "11"}, "same_answers"),
        ({"answer_b": 10}, "same_answers"),
        ({"label": "tie"}, "tie"),
        ({"label": "Both"}, "tie"),
        *(({"label": label}, "bad_label") for label in (None, "c", "", 1, ["a"])),
        ({"flipped": 1}, "bad_label"),
        *(({"id": name}, "bad_id") for name in (None, "", True)),
        ({"source": 3}, "no_source"),
        ({"trace": " "}, "bad_trace"),
        ({"trace": ["[[A]]"]}, "bad_trace"),
        ({"trace": "\ud800"}, "not_utf8"),
    ],
}
EACH = pytest.mark.parametrize("group", READERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("0.png", "1.png"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, group: str, *records: object) -> list[Any]:
    """Records, or lines, on every second line of mine.jsonl."""
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    (folder / "mine.jsonl").write_bytes(b"\n\n".join(lines))
    return list(READERS[group](path=str(folder / "mine.jsonl")).records())


@EACH
def test_a_record_without_an_image_field_is_text(folder: Path, group: str) -> None:
    bare = {key: value for key, value in WHOLE[group].items() if key not in ("image", "id")}
    found = read(folder, group, bare, bare | {"image": None}, bare | {"image": []}, bare | {"images": ["1.png"]})
    assert [one.images for one in found] == [(), (), (), ("1.png",)]


def test_a_solution_keeps_its_texts_as_they_stand(folder: Path) -> None:
    steps, labels = ("Look at <image2>.", "Add.", "Done."), (1, 0, -1)
    assert read(folder, "benchmark", WHOLE["benchmark"], WHOLE["benchmark"] | {"image": "1.png"}) == [
        Solution("mine:0", "DynaMath", ("0.png", "1.png"), "<image1> or <image7", steps, labels),
        Solution("mine:2", "DynaMath", ("1.png",), "<image1> or <image7", steps, labels),
    ]


def test_labels_may_be_written_in_other_ways(folder: Path) -> None:
    labels = [1.0, -1.0, 0.0, "1", "-1", " 0 ", "1.0"]
    response = {"steps": [str(n) for n in range(7)], "process_correctness": labels}
    (solution,) = read(folder, "benchmark", WHOLE["benchmark"] | {"response": response})
    assert solution.labels == (1, -1, 0, 1, -1, 0, 1)
    assert all(type(label) is int for label in solution.labels)


def test_a_record_becomes_a_question(folder: Path) -> None:
    short = {"image": ["0.png", "1.png"], "question": "<image1> How?", "answer": 0.5}
    bench = WHOLE["benchmark"] | {"question": "How?"}
    assert read(folder, "questions", WHOLE["questions"], short, WHOLE["questions"] | {"id": 7, "answer": 3}, bench) == [
        Question("q", "s", ("0.png",), "How?", "10"),
        Question("mine:2", "mine", ("0.png", "1.png"), "<image1> How?", "0.5"),
        Question("7", "s", ("0.png",), "How?", "3"),
        Question("mine:6", "DynaMath", ("0.png", "1.png"), "How?", "B"),  # a record of VisualProcessBench
    ]


def test_a_record_becomes_a_pair(folder: Path) -> None:
    record = WHOLE["preferences"]
    short = {"image": ["0.png", "1.png"], "question": "<image> How?", "answer_a": 0.5, "answer_b": " b\n", "label": "B"}
    traced = record | {"id": 7, "label": "A", "trace": "A is.\n[[A]]", "flipped": True}
    chosen = {"id": "c", "prompt": "How?", "chosen": "10", "rejected": "11", "image": "0.png", "chosen_reason": ""}
    other = {"question": "How?", "chosen": 12, "rejected": "11", "images": ["0.png", "1.png"], "image": None}
    plain = record | {"id": "q", "trace": None, "flipped": False}
    lacking = chosen | {"id": "d", "rejected": None}
    assert read(folder, "preferences", record, short, traced, plain, chosen, other, lacking) == [
        Pair("p", "s", ("0.png",), "How?", "10", "11", "a"),
        Pair("mine:2", "mine", ("0.png", "1.png"), "<image> How?", "0.5", " b\n", "b"),
        Pair("7", "s", ("0.png",), "How?", "10", "11", "a", "A is.\n[[A]]", flipped=True),
        Pair("q", "s", ("0.png",), "How?", "10", "11", "a", flipped=False),
        Pair("c", "mine", ("0.png",), "How?", "10", "11", "a"),
        Pair("mine:10", "mine", ("0.png", "1.png"), "How?", "12", "11", "a"),
        Dropped("mine", 12, "no_answer"),
    ]


@EACH
def test_reasons(group: str, folder: Path) -> None:
    """Every fault alone drops its record; the numbers count blank lines."""
    records = [WHOLE[group] | changes for changes, _ in REASONS[group]]
    expected = [Dropped("mine", 2 * number, reason) for number, (_, reason) in enumerate(REASONS[group])]
    assert read(folder, group, *records) == expected


@EACH
def test_lines_that_are_no_records(group: str, folder: Path) -> None:
    lines = {b"{": "not_json", b"[]": "not_an_object", b"\xff": "not_utf8", b'{"id": 1, "id": 1}': "duplicate_key"}
    expected = [Dropped("mine", 2 * number, reason) for number, reason in enumerate(lines.values())]
    assert read(folder, group, *lines) == expected


@pytest.mark.parametrize("group", ["questions", "preferences"])
def test_the_later_of_two_records_with_one_id_is_dropped_and_a_dropped_one_leaves_its_id_free(
    group: str, folder: Path
) -> None:
    record = WHOLE[group]
    lost, first, second, third = read(folder, group, record | {"image": "2.png"}, record, record, record | {"id": "x"})
    assert lost == Dropped("mine", 0, "missing_image_file")
    assert first.id == record["id"]
    assert second == Dropped("mine", 4, "duplicate_id")
    assert third.id == "x"


@EACH
def test_messages_name_the_key(group: str, folder: Path) -> None:
    reader = READERS[group]
    with pytest.raises(ValueError, match=rf"^{group}\.path is not set; give {reader.wanted}$"):
        reader().records()
    with pytest.raises(ValueError, match=rf"^{group}\.path=nowhere is not a file; give {reader.wanted}$"):
        reader(path="nowhere").records()
    (folder / "mine.jsonl").touch()
    images = reader(path=str(folder / "mine.jsonl")).image_folder
    assert images.path("0.png") == folder / "0.png"
    with pytest.raises(ValueError, match=rf"^image 2\.png is not under .*; restore it, or give {group}\.images$"):
        images.path("2.png")
    elsewhere = reader(path=str(folder / "mine.jsonl"), images=str(folder.parent)).image_folder
    assert elsewhere.path(f"{folder.name}/0.png") == folder / "0.png"


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(st.characters(codec=None), max_size=4)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
responses = st.fixed_dictionaries(
    {}, optional={"steps": st.one_of(st.just(["a"]), json_values), "process_correctness": json_values}
)
odd_lines = st.one_of(
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")),
    st.just(b"[" * 50_000),
    st.just(b"x" * (MAX_LINE_BYTES + 1)),
)
fields = sorted({key for record in WHOLE.values() for key in record} | {"trace", "flipped"})
changes = st.dictionaries(st.sampled_from(fields), st.one_of(json_values, responses), max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(READERS)), st.lists(st.one_of(odd_lines, changes), max_size=4))
def test_every_line_is_whole_or_a_counted_drop(group: str, content: list[Any]) -> None:
    wanted = [line if isinstance(line, bytes) else WHOLE[group] | line for line in content]
    with tempfile.TemporaryDirectory() as name:
        for image in ("0.png", "1.png"):
            Path(name, image).touch()
        found = read(Path(name), group, b"{}", *wanted)  # what a file begins with may say that it is something else
    asked = [b"{}", *(line for line in wanted if not isinstance(line, bytes) or line.strip())]
    assert len(found) == len(asked)
    for record, one in zip(asked, found, strict=True):
        if isinstance(one, Dropped):
            continue
        assert isinstance(record, dict)
        if isinstance(one, Solution):
            assert len(one.steps) == len(one.labels) > 0
            assert set(one.labels) <= {-1, 0, 1}
        elif isinstance(one, Question):
            assert (one.question, one.answer) == (record["question"], str(record["answer"]))
        else:
            assert (one.prompt, one.trace, one.flipped) == (
                record["prompt"],
                record.get("trace"),
                record.get("flipped"),
            )
            assert (one.answer_a, one.answer_b) == (str(record["answer_a"]), str(record["answer_b"]))
            assert one.label == record["label"].lower()
            assert one.answer_a != one.answer_b


@pytest.mark.parametrize("error_rate", [0.0, 1.0, -0.1, 28.0])
def test_a_share_of_wrong_steps_lies_between_none_and_all(error_rate: float) -> None:
    assert VisualProcessBench(error_rate=0.28).error_rate == 0.28
    with pytest.raises(
        ValueError, match=rf"^benchmark\.error_rate={error_rate} is not between 0 and 1; give the share"
    ):
        VisualProcessBench(error_rate=error_rate)
