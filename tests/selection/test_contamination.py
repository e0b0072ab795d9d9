"""What is found of every pair of questions, and what is counted, listed and excluded of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mprm.data.records import Solution
from mprm.selection.contamination import (
    FINDINGS,
    OF_PICTURES,
    OF_QUESTIONS,
    Training,
    asked_by,
    check_settings,
    counts_of,
    excluded_records,
    findings,
)
from mprm.selection.likeness import ALIKE, NEAR, NUMBERS, SAME


def solution(name: str, question: str, *images: str, source: str = "s") -> Solution:
    return Solution(name, source, images, question, ("One.",), (1,))


def training(*asked: tuple[dict[int, tuple[int, float]], tuple[str, ...]]) -> Training:
    """Questions: which texts of the benchmark they are like, and their pictures."""
    made = Training()
    for like, images in asked:
        made.add(images)
        made.like.append(like)
    return made


BENCHMARK = asked_by(
    [
        solution("0", "How many?", "a.png"),
        solution("1", "How many?", "a.png"),  # another solution of the same question
        solution("2", "How many?", "b.png", source="t"),
        solution("3", "Add 1 and 2."),
    ]
)
HOW_MANY, ADD = 0, 1  # texts
A, B, SUM = 0, 1, 2  # questions
LIKE_A = (0, 0, ALIKE, 7)  # picture 0 of the training data is like picture 0 of the benchmark


@pytest.mark.parametrize(
    ("like", "images", "finding", "of"),
    [
        ({HOW_MANY: (SAME, 1.0)}, ("x.png",), ("copy", "same", "near", 7), A),
        ({HOW_MANY: (NEAR, 0.8)}, ("y.png", "x.png"), ("question", "near", "other", -1), A),
        ({HOW_MANY: (NUMBERS, 0.9)}, ("x.png",), ("numbers", "numbers", "near", 7), A),
        ({}, ("x.png",), ("picture", "other", "near", 7), A),
        ({ADD: (SAME, 1.0)}, (), ("copy", "same", "none", -1), SUM),
        ({ADD: (SAME, 1.0)}, ("y.png",), ("copy", "same", "none", -1), SUM),
        ({ADD: (NUMBERS, 1.0)}, (), ("numbers", "numbers", "none", -1), SUM),
        ({HOW_MANY: (SAME, 1.0)}, (), ("copy", "same", "none", -1), A),
        ({}, ("y.png",), None, None),
    ],
)
def test_the_finding_of_a_pair(
    like: dict[int, tuple[int, float]], images: tuple[str, ...], finding: tuple[str, str, str, int] | None, of: int
) -> None:
    first = images[:1] == ("x.png",)
    found, of_benchmark = findings(training((like, images)), BENCHMARK, [LIKE_A] if first else [])
    if finding is None:
        assert (found, of_benchmark) == ({}, {})
        return
    one, other = found[0]
    named = (FINDINGS[one.kind], OF_QUESTIONS[one.question], OF_PICTURES[one.picture], one.distance)
    assert (named, other) == (finding, of)
    assert of_benchmark[other] == one


def test_what_matters_most_is_what_counts() -> None:
    like = {HOW_MANY: (SAME, 1.0), ADD: (NUMBERS, 0.9)}
    asked = training((like, ("x.png",)), ({}, ("x.png", "y.png")), (like, ("y.png",)))
    nearer = (1, 0, ALIKE, 3)
    found, of_benchmark = findings(asked, BENCHMARK, [LIKE_A, nearer])
    kinds = [(FINDINGS[one.kind], one.distance, other) for one, other in found.values()]
    # the last has picture 1 of the training data, y.png, which is even more like a.png
    assert kinds == [("copy", 7, A), ("picture", 3, A), ("copy", 3, A)]
    assert {other: FINDINGS[one.kind] for other, one in of_benchmark.items()} == {
        **{A: "copy", B: "question", SUM: "numbers"}
    }


@pytest.mark.parametrize(
    ("similarity", "distance", "excluded", "said"),
    [
        (0, 16, ["copy"], "similarity=0 is not in 0 to 1"),
        (1.5, 16, ["copy"], "similarity=1.5 is not in 0 to 1"),
        (0.7, 256, ["copy"], "distance=256: hashes of pictures have 256 bits, so any two are near"),
        (0.7, 16, ["copy", "copies"], "excluded=copies is no finding; give some of copy, numbers, picture, question"),
    ],
)
def test_settings_that_cannot_be_used(similarity: float, distance: int, excluded: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_settings(similarity, distance, excluded)


def test_counts_and_excluded_rollouts(signals_of: Callable[..., Any], tmp_path: Path) -> None:
    """Two rollouts of question 0 in one source, one in another; a listed record stays listed."""
    listed = tmp_path / "listed.jsonl"
    listed.write_text(json.dumps({"source": "a", "line": 1}) + "\n")
    table = signals_of({"a": [[1.0], [1.0], [0.5]], "b": [[0.5]]}, exclude=str(listed))
    asked = training(({HOW_MANY: (SAME, 1.0)}, ("x.png",)), ({}, ("x.png",)))
    hashes = table["question_hash"].to_pylist()
    asked.rows = np.array([0, 2])
    assert hashes[0] == hashes[3]
    assert hashes[1] is None
    found, of_benchmark = findings(asked, BENCHMARK, [LIKE_A])
    copies = [{"source": "a", "line": 0, "reason": "copy"}, {"source": "a", "line": 1, "reason": "excluded"}]
    picture = {"source": "a", "line": 2, "reason": "picture"}
    last = {"source": "b", "line": 0, "reason": "copy"}
    assert list(excluded_records(table, asked, found, ["copy"])) == [*copies, last]
    assert list(excluded_records(table, asked, found, ["copy", "picture"])) == [*copies, picture, last]
    assert list(excluded_records(table, asked, found, [])) == copies[1:]
    none = {"copy": 0, "numbers": 0, "picture": 0, "question": 0}
    assert counts_of(table, asked, BENCHMARK, found, of_benchmark) == {
        "questions_of_the_training_data": {"a": {"in all": 2} | none | {"copy": 1, "picture": 1}},
        "solutions_of_the_benchmark": {
            "s": {"in all": 3} | none | {"copy": 2},
            "t": {"in all": 1} | none | {"question": 1},
        },
    }
