"""How a judge is asked, and what counts as its answer."""

from dataclasses import replace
from pathlib import Path

import pytest

from mprm.data.preferences import Pair
from mprm.judge.judge import Judge, shown

PAIR = Pair("p", "s", ("0.png",), "How tall is red?", "4", "5", "a")
IMAGES = (Path("0.png"),)


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("Red is 4.\nThe better answer is A.", "A"),
        ("Red is 5. The better answer is B. \n", "B"),
        ("The better answer is A.", None),  # no reasoning
        ("\n The better answer is A.\n", None),
        ("The better answer is A. The better answer is B.", None),
        ("Red is 4. The better answer is A. The better answer is A.", None),
        ("The better answer is A. Red is 4.", None),
        ("Red is 4. The better answer is A", None),
        ("Red is 4. The better answer is C.", None),
        ("Red is 4. The better answer is AB.", None),
        ("Red is 4. The better answer isA.", None),
        ("Red is 4. the better answer is a.", None),
        ("Red is 4.", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_only_one_and_ends_the_reasoning(response: str, verdict: str | None) -> None:
    assert Judge().verdict_of(response) == verdict


def test_other_words_for_the_verdict_are_taken_as_they_stand() -> None:
    boxed = Judge(verdict=r" \boxed{{}} ")
    assert boxed.verdict_of(r"Red is 4. \boxed{B}") == "B"
    assert boxed.verdict_of(r"Red is 4. \boxed{B}.") is None
    dot = Judge(verdict="[{}].")
    assert [dot.verdict_of(text) for text in ("x[A].", "x[A]!", "xA.")] == ["A", None, None]


@pytest.mark.parametrize(("label", "better"), [("a", "AB"), ("b", "BA")])
def test_either_order_is_shown_and_the_label_goes_with_its_answer(label: str, better: str) -> None:
    pair = replace(PAIR, label=label)
    as_it_stands, swapped = (shown(pair, IMAGES, order) for order in (False, True))
    assert as_it_stands.text == "How tall is red?\n\nAnswer A:\n4\n\nAnswer B:\n5"
    assert swapped.text == "How tall is red?\n\nAnswer A:\n5\n\nAnswer B:\n4"
    assert as_it_stands.better + swapped.better == better
    assert (as_it_stands.swapped, swapped.swapped) == (False, True)
    assert as_it_stands.pair == swapped.pair == pair
    assert as_it_stands.images == swapped.images == IMAGES


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"verdict": "The better one."}, r"judge\.verdict=The better one\. has no single \{\}; try"),
        ({"verdict": "{} or {}"}, r"judge\.verdict=\{\} or \{\} has no single"),
        ({"verdict": " {} "}, r"judge\.verdict= \{\}  has no single"),
        ({"temperature": -1.0}, r"judge\.temperature=-1\.0 is negative; 0 takes the most likely token"),
        ({"evaluation_temperature": float("nan")}, r"judge\.evaluation_temperature=nan is negative"),
        ({"samples": 0}, r"judge\.samples=0 is not positive"),
        ({"max_new_tokens": 0}, r"judge\.max_new_tokens=0 is not positive"),
        ({"max_tokens": -5}, r"judge\.max_tokens=-5 is not positive"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}.*\Z"):
        Judge(**settings)  # type: ignore[arg-type]
