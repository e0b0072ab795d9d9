"""Pairs of answers that are the same, or are not; texts that were written to hang whoever reads them."""

import json
import time
from itertools import permutations
from pathlib import Path

import pytest

from mprm.data.answers import answer_classes, answer_key, final_answer, is_right

ROWS = [json.loads(line) for line in Path(__file__).with_name("answer_pairs.jsonl").read_text().splitlines()]
SAME, DIFFERENT = ([tuple(row["answers"]) for row in ROWS if row["same"] == same] for same in (True, False))

# Written to hang a careless reader: nested braces took half a minute, 1E+999999999 did not end.
HOSTILE = [
    *("{" * 16 + "1" + "}" * 16, r"\{" * 16 + "1" + r"\}" * 16, "1E+999999999", "9**9**9", "9^{9^{9^{9}}}"),
    *("((((5!)!)!)!)!", "9" + "!" * 30, "(400!)^{400!}", "(" * 500 + "1" + ")" * 500, "(1," * 60 + "2" + ")" * 60),
    *("9" * 100_000, "1," * 5000, "1 " * 90 + "x", "x^" * 60 + "x", r"\sqrt{" * 60 + "2" + "}" * 60),
    *(r"\frac{1}{" * 30 + "2" + "}" * 30, "-" * 190 + "1", "e^{e^{e^{e^e}}}", "((x+1)^{60})^{60}", "sin(" * 50 + "1"),
    *(
        "\u202e5\x00\ud7ff\u0661",
        "\u0663/\u0660",
        "²³¹",
        "1" + "\u0300" * 190,
        "0." + "0" * 150 + "1^{99}",
        "<".join("x" * 90),
    ),
    *(r"\pm 1," * 30, "1:" * 90 + "1", "1 to " * 40 + "2", r"\text{" * 40 + "a" + "}" * 40, "9" * 190 + "e999"),
]


def test_the_same_answers_have_one_key() -> None:
    assert [pair for pair in SAME if answer_key(pair[0]) != answer_key(pair[1])] == []


def test_different_answers_have_different_keys() -> None:
    assert [pair for pair in DIFFERENT if answer_key(pair[0]) == answer_key(pair[1])] == []


def test_the_same_answer_is_right_and_which_of_two_is_the_reference_does_not_matter() -> None:
    assert [pair for pair in SAME if not is_right(*pair)] == []
    assert [(a, b) for a, b in SAME + DIFFERENT if is_right(a, b) != is_right(b, a)] == []


def test_a_line_is_not_another_line_though_the_name_of_an_unknown_does_not_count() -> None:
    assert not is_right("x = 1", "y = 1")
    assert not is_right("y=1/2", "x = 0.5")
    for given, reference in (
        ("x = 1", "1"),
        ("1", "y = 1"),
        ("n = 1", "x = 1"),
        ("y = x", "x = y"),
        ("x=1", "x = 1.0"),
    ):
        assert is_right(given, reference), (given, reference)


def test_the_same_is_an_equivalence_and_votes_follow_it_in_any_order() -> None:
    keys = {text: answer_key(text) for pair in SAME + DIFFERENT for text in pair}
    same = {a: {b for b in keys if keys[a] == keys[b]} for a in keys}
    assert all(a in same[a] and all(same[b] == same[a] for b in same[a]) for a in keys)  # all pairs, all triples
    votes = dict(zip(keys, answer_classes(list(keys)), strict=True))
    assert all(votes[a] == votes[b] for a in keys for b in same[a])
    again = dict(zip(reversed(keys), answer_classes(list(reversed(keys))), strict=True))
    assert len({(votes[text], again[text]) for text in keys}) == len(set(votes.values())) == len(set(again.values()))


@pytest.mark.parametrize("given", ["50%", "0.5", "50"])
def test_the_reference_decides_how_a_percent_sign_is_read(given: str) -> None:
    assert is_right(given, "50%")
    assert is_right("50%", given)
    assert not is_right("0.5%", "50%")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_hangs_a_comparison_or_a_vote(text: str) -> None:
    start = time.process_time()
    final_answer([text])
    assert is_right(text, text)
    assert not is_right(text, "7")
    assert not is_right("7", text)
    for order in permutations(["7", text, "7.0", None], 4):
        classes = answer_classes(order)
        assert classes[order.index("7")] == classes[order.index("7.0")] != classes[order.index(text)]
    assert time.process_time() - start < 2
