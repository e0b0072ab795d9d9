"""The one prompt rendering."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.batching.examples import MARK, neutralise, render

CASES = json.loads((Path(__file__).parents[1] / "oracle_data" / "internvl" / "cases.json").read_text())

# Text that is likely to hold, or to become, something that reads as a mark or a placeholder.
TRICKY = st.lists(st.sampled_from([*"<>[] 17\n", "image", "Image", "prm", "<prm>", "<image", "<image 1>"])).map("".join)


@pytest.mark.parametrize("case", CASES)
def test_the_rendering_is_the_published_training_text(case: dict) -> None:
    record = case["record"]
    pieces = render(record["question_orig"], [step["step"] for step in record["steps_with_score"]])
    assert len(pieces) == len(record["steps_with_score"])
    assert "<image>\n" + "".join(piece + MARK for piece in pieces) == case["train"]["assistant_text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <prm> b", "a [prm] b"),
        ("<image>\nWhat?", "[image]\nWhat?"),
        ("in <image1> and <image 2>", "in [image 1] and [image 2]"),
        ("in <image7 of four", "in [image 7] of four"),
        ("an <image of a cat", "an [image] of a cat"),
        ("< image 12 >", "[image 12]"),
        ("<IMAGE>", "[image]"),
        ("<image<prm>", "[image][prm]"),
        ("<<prm>prm>", "<[prm]prm>"),
        ("1 < 2 and <b>bold</b>", "1 < 2 and <b>bold</b>"),
        ("the image 1", "the image 1"),
    ],
)
def test_literal_marks_and_placeholders_are_neutralised(text: str, expected: str) -> None:
    assert neutralise(text) == expected


@given(st.one_of(TRICKY, st.text()))
def test_no_mark_and_no_placeholder_survives(text: str) -> None:
    clean = neutralise(text)
    assert MARK not in clean
    assert not re.search(r"<\s*image", clean, re.IGNORECASE)
    assert neutralise(clean) == clean


@given(st.text(alphabet="abc 12.=+<>\n"))
def test_other_text_is_left_alone(text: str) -> None:
    assert neutralise(text) == text


@given(TRICKY, st.lists(TRICKY, min_size=1, max_size=4))
def test_there_is_one_piece_per_step_and_no_mark_in_it(question: str, steps: list[str]) -> None:
    pieces = render(question, steps)
    assert len(pieces) == len(steps)
    assert not any(MARK in piece for piece in pieces)
    assert all(piece.startswith("\n\n") for piece in pieces[1:])
