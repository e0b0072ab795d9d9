"""How a judge is asked, and what counts as its answer."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.data.questions import Pair
from mprm.judge.judge import JudgeSettings, present

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
    assert JudgeSettings().verdict_of(response) == verdict


def test_other_words_for_the_verdict_are_taken_as_they_stand() -> None:
    boxed = JudgeSettings(verdict=r" \boxed{{}} ")
    assert boxed.verdict_of(r"Red is 4. \boxed{B}") == "B"
    assert boxed.verdict_of(r"Red is 4. \boxed{B}.") is None
    dot = JudgeSettings(verdict="[{}].")
    assert [dot.verdict_of(text) for text in ("x[A].", "x[A]!", "xA.")] == ["A", None, None]


MEANT = [
    *(
        (text, "A")
        for text in ("The better answer is A.", "Red is 4. The better answer is **A**.", "[[A]]", "Answer A")
    ),
    *(
        (text, "B")
        for text in ("**The better answer is B.**", "the better answer is b", "The better answer is (B)", "B")
    ),
    *(
        (text, "B")
        for text in ("The better answer is Answer B.", "The better answer is: B", "x\n**Answer B**", "x\n(b)")
    ),
    ("The better answer is:\n\n**B**", "B"),
    ("The better answer is A. No: the better answer is B.", "B"),  # the last one
    ("The better answer is B.\nRed is 4.", "B"),
    (r"So \boxed{B}", "B"),
    (r"\boxed{\text{Answer B}}", "B"),
    ("Final answer: (A)", "A"),
    ("Verdict: B.", "B"),
    ("I prefer answer B.", "B"),
    ("Answer A is better than Answer B.", "A"),
    ("Answer A is better in colours.\nThe better answer is B", "B"),
    ("The better answer is A because it is right.", "A"),
    ("The better answer is a, because", "A"),
    ('The better answer is "A"', "A"),
    ("The better answer is `b`.", "B"),
    *((text, None) for text in ("", "Both are wrong.", "A bar is red.", "The answer is 4.", "Is answer A better?")),
    *((text, None) for text in ("The better answer is AB.", "The better answer is C.", "The better answer is not A.")),
    ("The better answer is a matter of taste.", None),
    ("The better answer is A or B.", None),
    ("Answer A: 4\nAnswer B: 5", None),
    ("Answer A says 4.", None),
    ("Answer A is not better.", None),
    ("Neither answer A nor answer B is right.", None),
]


@pytest.mark.parametrize(("response", "verdict"), MEANT)
def test_a_verdict_is_read_as_it_is_meant(response: str, verdict: str | None) -> None:
    assert JudgeSettings().meant(response) == verdict


@pytest.mark.parametrize(
    ("words", "response", "verdict"),
    [
        (r"\boxed{{}}", r"x \boxed{(a)}", "A"),
        ("[{}].", "x [B]!", "B"),
        ("[{}].", "x B says", None),
        ("Answer {} is better.", "x. answer **b** is better", "B"),
        ("Answer {} is better.", "Answer A says 4. Answer B says 5.", None),
        ("Prefer {}.", "I would prefer *B*", "B"),
    ],
)
def test_the_words_of_the_verdict_are_the_judges_own(words: str, response: str, verdict: str | None) -> None:
    assert JudgeSettings(verdict=words).meant(response) == verdict


@given(st.lists(st.sampled_from(["Red is 4. ", "The better answer is ", "A", "B.", "**", "Answer ", "\n"]), max_size=9))
def test_what_is_in_format_is_meant(parts: list[str]) -> None:
    response = "".join(parts)
    assert JudgeSettings().verdict_of(response) in (None, JudgeSettings().meant(response))


@pytest.mark.parametrize(("label", "better"), [("a", "AB"), ("b", "BA")])
def test_either_order_is_shown_and_the_label_goes_with_its_answer(label: str, better: str) -> None:
    pair = replace(PAIR, label=label)
    as_it_stands, swapped = (present(pair, IMAGES, order) for order in (False, True))
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
        ({"temperature": -1.0}, r"judge\.temperature=-1\.0 is not 0 or more; 0 takes the most likely token"),
        ({"evaluation_temperature": float("nan")}, r"judge\.evaluation_temperature=nan is not 0 or more"),
        ({"vote_temperature": -1.0}, r"judge\.vote_temperature=-1\.0 is not 0 or more"),
        ({"votes": -1}, r"judge\.votes=-1 is negative; 0 measures"),
        ({"samples": 0}, r"judge\.samples=0 is not positive"),
        ({"max_new_tokens": 0}, r"judge\.max_new_tokens=0 is not positive"),
        ({"max_tokens": -5}, r"judge\.max_tokens=-5 is not positive"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}.*\Z"):
        JudgeSettings(**settings)  # type: ignore[arg-type]
