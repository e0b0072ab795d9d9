"""Reading of the benchmark."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.data.lines import MAX_LINE_BYTES, Dropped
from mprm.data.visualprocessbench import Solution, VisualProcessBench


def record(**changes: Any) -> dict[str, Any]:
    response = {"steps": ["Look at <image2>.", "Add.", "Done."], "process_correctness": [1, 0, -1]}
    fields = {"image": ["images/0.png", "images/1.png"], "question": "<image1> or <image7", "answer": "B"}
    return fields | {"response": response, "policy_model": "m", "data_source": "DynaMath"} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "images" / name).touch()
    return tmp_path


def solutions(folder: Path, *lines: bytes) -> list[Solution | Dropped]:
    (folder / "test.jsonl").write_bytes(b"\n".join(lines))
    return list(VisualProcessBench(path=str(folder / "test.jsonl")).records())


def test_a_record_becomes_a_solution_with_its_texts_as_they_stand(folder: Path) -> None:
    single = json.dumps(record(image="images/1.png")).encode()
    assert solutions(folder, b"", json.dumps(record()).encode(), single) == [
        Solution(
            "test:1",
            "DynaMath",
            ("images/0.png", "images/1.png"),
            "<image1> or <image7",
            ("Look at <image2>.", "Add.", "Done."),
            (1, 0, -1),
        ),
        Solution(
            "test:2",
            "DynaMath",
            ("images/1.png",),
            "<image1> or <image7",
            ("Look at <image2>.", "Add.", "Done."),
            (1, 0, -1),
        ),
    ]


def test_labels_may_be_written_in_other_ways(folder: Path) -> None:
    steps = [str(n) for n in range(7)]
    labels = [1.0, -1.0, 0.0, "1", "-1", " 0 ", "1.0"]
    (solution,) = solutions(
        folder, json.dumps(record(response={"steps": steps, "process_correctness": labels})).encode()
    )
    assert isinstance(solution, Solution)
    assert solution.labels == (1, -1, 0, 1, -1, 0, 1)
    assert all(type(label) is int for label in solution.labels)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": None}, "no_image"),
        ({"image": ["images/0.png", "images/2.png"]}, "missing_image_file"),
        ({"question": 4}, "no_question"),
        ({"data_source": None}, "no_source"),
        ({"response": None}, "no_steps"),
        ({"response": {"steps": [], "process_correctness": []}}, "no_steps"),
        ({"response": {"steps": ["a", 1], "process_correctness": [1, 1]}}, "bad_step"),
        ({"response": {"steps": ["a", "b"], "process_correctness": [1]}}, "length_mismatch"),
        ({"response": {"steps": ["a"]}}, "length_mismatch"),
        ({"response": {"steps": ["a"], "process_correctness": [2]}}, "bad_label"),
        ({"response": {"steps": ["a"], "process_correctness": [True]}}, "bad_label"),
        *(
            ({"response": {"steps": ["a"], "process_correctness": [label]}}, "bad_label")
            for label in (None, 0.5, "right", "", "nan", 10**400, [1], float("inf"))
        ),
        ({"image": "../images/0.png"}, "image_outside"),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str, folder: Path) -> None:
    assert solutions(folder, json.dumps(record(**changes)).encode()) == [Dropped("test", 0, reason)]


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"benchmark.path is not set"):
        list(VisualProcessBench().records())
    with pytest.raises(ValueError, match=r"benchmark.path=nowhere is not a file"):
        list(VisualProcessBench(path="nowhere").records())


def test_image_path(folder: Path) -> None:
    (folder / "test.jsonl").touch()
    benchmark = VisualProcessBench(path=str(folder / "test.jsonl"))
    assert benchmark.image_folder.path("images/0.png") == folder / "images" / "0.png"
    with pytest.raises(ValueError, match=r"images/2.png is not under"):
        benchmark.image_folder.path("images/2.png")


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
changes = st.dictionaries(st.sampled_from(sorted(record())), st.one_of(json_values, responses), max_size=3)
lines = st.one_of(
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")),
    changes.map(lambda change: json.dumps(record(**change)).encode()),
    st.just(b"[" * 50_000),
    st.just(b"x" * (MAX_LINE_BYTES + 1)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(lines, max_size=4))
def test_every_line_is_a_solution_or_a_counted_drop(content: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        read = solutions(Path(name), b"{}", *content)  # what a file begins with may say that it is something else
    assert len(read) == 1 + sum(bool(line.strip()) for line in content)
    for item in read:
        if isinstance(item, Solution):
            assert len(item.steps) == len(item.labels) > 0
            assert set(item.labels) <= {-1, 0, 1}
