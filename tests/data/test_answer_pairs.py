# ruff: noqa: RUF001
"""Pairs of answers that are the same, or are not; texts that were written to hang whoever reads them."""

import time
from itertools import permutations

import pytest

from mprm.data.answers import answer_classes, answer_key, final_answer, is_right

SAME = [
    *(
        ("10", "10.0"),
        ("007", "7"),
        ("+3", "3"),
        ("-0", "0"),
        ("−5", "-5"),
        ("1,000", "1000"),
        ("1 234 567", "1234567"),
    ),
    *((".5", "0.50"), ("12.", "12"), ("1,234.50", "1234.5"), ("１２", "12"), ("twelve", "12"), ("1{,}234", "1234")),
    *(
        ("1/2", "0.5"),
        ("2/4", "1/2"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac34", "3/4"),
        ("½", "1/2"),
        ("-1/2", r"-\frac{1}{2}"),
    ),
    *((r"\frac{-1}{2}", "-0.5"), ("1/3", r"\frac{2}{6}"), ("10/5", "2"), ("0.125", "1/8"), (r"\tfrac{3}{4}", ".75")),
    *(("7 1/2", "7.5"), (r"7\frac{1}{2}", "15/2"), ("7½", "7.5"), ("-1 1/2", "-1.5"), ("2 3/4 cm", "2.75 cm")),
    *(("50%", "50 percent"), ("50%", "0.5"), (r"50\%", "1/2"), ("12.5 %", "1/8"), ("3/4", "75%"), ("200%", "2")),
    *(("10 cm", "10cm"), ("10 centimeters", "10 cm"), (r"10\text{ cm}", "10 cm"), ("10 cm^2", "10 square centimeters")),
    *(
        ("10 cm²", r"10 \text{cm}^2"),
        ("100 cm", "1 m"),
        ("2 hours", "120 minutes"),
        ("1.5 kg", "1500 g"),
        ("1 L", "1000 ml"),
    ),
    *(
        ("60 km/h", "60 km per hour"),
        ("3 apples", "3 apple"),
        ("two bars", "2 bars"),
        ("10 metres", "10 m"),
        ("5 m/s", "5 m / s"),
    ),
    *(
        ("$10", "10 dollars"),
        (r"\$10", "$10.00"),
        ("US$5", "5 USD"),
        ("€5", "5 euros"),
        ("10元", "¥10"),
        ("-$5", "$-5"),
    ),
    *(("$1.5 million", "$1,500,000"), ("3 thousand", "3000"), ("3千", "3000"), ("2万元", "20000元"), ("5 €", "€5")),
    *(
        ("12厘米", "12 cm"),
        ("3千米", "3 km"),
        ("5平方米", "5 m^2"),
        ("12个", "12 个"),
        ("2小时", "2 h"),
        ("10公斤", "10 kg"),
    ),
    *(
        ("30°", "30 degrees"),
        (r"30^\circ", "30"),
        ("30°C", "30 degrees Celsius"),
        (r"30^{\circ}", "30°"),
        ("45度", "45°"),
    ),
    *(
        (r"\{1,2\}", r"\{2, 1\}"),
        ("1, 2", "2, 1"),
        ("{1/2, 3}", "{3, 0.5}"),
        ("1 and 2", "1, 2"),
        (r"x = \pm 2", "-2, 2"),
    ),
    *(("(1, 2)", "(1,2)"), (r"\left(1, \frac{1}{2}\right)", "(1, 0.5)"), ("[0, 1)", "[0,1)"), ("x > 5", "5 < x")),
    *((r"x \le 3", r"(-\infty, 3]"), (r"1 \leq x < 3", "[1, 3)"), (r"(-\infty,1)\cup(3,\infty)", "(3,∞)∪(-∞,1)")),
    *(
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),
        (r"\langle 1,2\rangle", "(1,2)"),
    ),
    *(
        ("B", "(B)"),
        ("b", "B."),
        ("option B", "B: 12 cm"),
        (r"\text{B}", "(B) 12 cm"),
        ("A, C", "C and A"),
        ("(A) and (C)", "A, C"),
    ),
    *(("yes", "Yes."), ("No, it is red.", "no"), ("TRUE", "true"), (r"\text{No}", "no"), ("Yes, because it is", "yes")),
    *(
        ("2024-01-05", "January 5, 2024"),
        ("5 Jan 2024", "2024年1月5日"),
        ("2024/1/5", "2024-01-05"),
        ("March 3", "3rd of March"),
    ),
    *(("10-20", "10 to 20"), ("10–20", "from 10 to 20"), ("10 - 20 cm", "10-20 cm"), ("between 10 and 20", "10-20")),
    *(
        ("3:30 PM", "15:30"),
        ("3 pm", "3:00 p.m."),
        ("03:30", "3:30"),
        ("12:15 am", "0:15"),
        ("1:2", "2:4"),
        ("3 : 1", "3:1"),
    ),
    *(("1:2:3", "2:4:6"), ("3e2", "300"), ("1.2E+3", "1,200"), (r"1.2 \times 10^{3}", "1200"), ("2.5 × 10⁻²", "0.025")),
    *(
        ("6.02*10^23", r"6.02\cdot10^{23}"),
        ("1e-3", "0.001"),
        ("The Blue House.", "blue house"),
        ("a triangle", "Triangle"),
    ),
    *(
        ("“red”", "red"),
        ("St. Louis", "st. louis"),
        ("Red  bar", "red bar"),
        ("π", "pi"),
        ("2π", r"2\pi"),
        (r"\pi/2", r"\frac{\pi}{2}"),
    ),
    *(("2√3", r"\sqrt{12}"), ("2sqrt(3)", r"2\sqrt{3}"), (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"), ("√16", "4")),
    *(
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
        (r"\sqrt[3]{-8}", "-2"),
        (r"5\pi cm", r"5\pi \text{ cm}"),
        ("√2/2", r"2^{-1/2}"),
    ),
    *(
        ("x=1, y=2", "y = 2, x = 1"),
        ("x = 1 or x = 2", "1, 2"),
        ("x_1 = 1, x_2 = 2", "1, 2"),
        ("(x, y) = (1, 2)", "(1,2)"),
        ("x=0, y=2", "y=2, x=0"),
        ("3 thousand km", "3000 km"),
        ("x=5", "5"),
        ("x = 5", "y=5"),
        ("5 = x", "5"),
        ("x=1/2", "0.5"),
        ("y = 2x+1", "2x + 1"),
        ("4 + 6 = 10", "10"),
        ("AB = 5", "5"),
    ),
    *(
        ("2x + y = 3", "y + 2x = 3"),
        ("x - y = 0", "2y - 2x = 0"),
        ("x+1", "1+x"),
        ("(x-1)(x+1)", "x^2-1"),
        ("2xy", "2yx"),
    ),
    *(
        (r"\sin^2 x + \cos^2 x", "1"),
        (r"\frac{x}{2}", "0.5x"),
        ("x^{2}", "x²"),
        ("x**2", "x^2"),
        (r"\log_2 8", "3"),
        ("5!", "120"),
    ),
    *(
        (r"e^{2}", "e^2"),
        (r"\ln e", "1"),
        ("3+4i", "4i+3"),
        ("2^{10}", "1024"),
        ("|x|", r"\sqrt{x^2}"),
        ("a_1 + 1", "1 + a_{1}"),
    ),
]
DIFFERENT = [
    *(("1", "10"), ("-5", "5"), ("12", "12.5"), ("1,000", "1"), ("0", "-1"), ("1,234", "1.234"), ("twelve", "20")),
    *(("0.333", "1/3"), ("1/2", "2"), ("1/2", "1"), (r"\frac{1}{3}", r"\frac{1}{2}"), ("3.14", "π"), ("0.67", "2/3")),
    *(
        ("7 1/2", "3.5"),
        ("7 1/2", "71/2"),
        ("7 1/2", "7"),
        ("50%", "50"),
        ("0.5", "50"),
        ("0.5%", "50%"),
        ("0.5%", "0.5"),
    ),
    *(
        ("10 cm", "10 m"),
        ("10 m^2", "10 m"),
        ("10 apples", "10 pears"),
        ("10 kg", "10 g"),
        ("60 km/h", "60 m/h"),
        ("3 h", "3 min"),
    ),
    *(("$5", "€5"), ("$5", "£5"), ("5元", "5个"), ("$5", "$50"), ("3 million", "3"), ("3千", "3"), ("10元", "10角")),
    *(
        ("30°C", "30°F"),
        ("30°", r"\pi/6"),
        ("12厘米", "12米"),
        ("3千米", "3米"),
        ("3 km", "3000 g"),
        ("5平方米", "5立方米"),
    ),
    *(
        (r"\{1,2\}", r"\{1,3\}"),
        ("(1, 2)", "(2, 1)"),
        ("[1, 2]", "(1, 2)"),
        ("(1, 2)", "1, 2"),
        ("(1,200)", "1200"),
        ("x>5", "x<5"),
    ),
    *(("x > 5", r"x \ge 5"), ("[0,1)", "[0,1]"), ("1, 2", "1"), ("1, 2", "1, 2, 3"), (r"\pm 2", "2"), ("(1,2)", "12")),
    *(
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        ("x=5", "x=6"),
        ("x > 5", "5"),
    ),
    *(
        ("A", "B"),
        ("A", "a triangle"),
        ("A, B", "A"),
        ("A, B", "A, C"),
        ("Bob", "B"),
        ("(A) and (B)", "A"),
        ("A or B", "A, B"),
    ),
    *(("yes", "no"), ("nobody", "no"), ("No. 5", "no"), ("true", "false"), ("yes", "Y"), ("no", "0"), ("true", "yes")),
    *(
        ("10-20", "-10"),
        ("3-5", "-2"),
        ("10-20", "20-10"),
        ("10-20", "10"),
        ("10-20", "30"),
        ("3-4-5", "-6"),
        ("2024-01-05", "2018"),
    ),
    *(("2024-01-05", "2024-05-01"), ("January 5", "January 6"), ("1/2/2024", "1/4048"), ("03/04/2024", "04/03/2024")),
    *(
        ("3:30 PM", "3:30 AM"),
        ("3:30", "0.1"),
        ("3:30", "1:10"),
        ("1:2", "2:1"),
        ("1:2", "1"),
        ("1:2:3", "1:2"),
        ("3 pm", "3"),
    ),
    *(
        ("3e2", "302"),
        ("12e3", "12"),
        ("1e3", "1e-3"),
        (r"1.2 \times 10^3", "1.2"),
        ("2e", "2"),
        ("1E+999999999", "1E+999999998"),
    ),
    *(
        ("red", "blue"),
        ("deer", "reed"),
        ("Dr. Who", "Dr. No"),
        ("12 or 13", "13"),
        ("3 out of 5", "3"),
        ("H2O", "2HO"),
        ("红色", "色红"),
    ),
    *(
        (r"2\pi", "2"),
        (r"\sqrt{2}", "1.414"),
        (r"\sqrt{2}", "2"),
        (r"2\sqrt{3}", r"3\sqrt{2}"),
        ("pi", "p"),
        ("2t", "2"),
        ("3x", "3"),
    ),
    *(
        ("x+1", "x-1"),
        ("x^2", "2x"),
        ("|x|", "x"),
        (r"\sqrt{x^2}", "x"),
        ("y=2x+1", "y=2x-1"),
        ("x=1, y=2", "x=2, y=1"),
        ("a = b", "c = b"),
        ("x=1, y=2", "1, 2"),
        ("xy=5", "5"),
        ("5!", "5"),
        ("", "10"),
    ),
    *(
        (r"\ln 2", r"\log 2"),
        ("2x+y=3", "2x+y=4"),
        ("one half", "1"),
        ("10 cm", "10"),
        ("$10", "10"),
        ("no unit", "unit"),
    ),
]


# Each once took seconds, for ever or the whole memory, or would for a reader who is not careful.
HOSTILE = [
    *("{" * 16 + "1" + "}" * 16, r"\{" * 16 + "1" + r"\}" * 16, "1E+999999999", "9**9**9", "9^{9^{9^{9}}}"),
    *("((((5!)!)!)!)!", "9" + "!" * 30, "(400!)^{400!}", "(" * 500 + "1" + ")" * 500, "(1," * 60 + "2" + ")" * 60),
    *("9" * 100_000, "1," * 5000, "1 " * 90 + "x", "x^" * 60 + "x", r"\sqrt{" * 60 + "2" + "}" * 60),
    *(r"\frac{1}{" * 30 + "2" + "}" * 30, "-" * 190 + "1", "e^{e^{e^{e^e}}}", "((x+1)^{60})^{60}", "sin(" * 50 + "1"),
    *("\u202e5\x00\ud7ff١٢٣", "٣/٠", "²³¹", "1" + "\u0300" * 190, "0." + "0" * 150 + "1^{99}", "<".join("x" * 90)),
    *(r"\pm 1," * 30, "1:" * 90 + "1", "1 to " * 40 + "2", r"\text{" * 40 + "a" + "}" * 40, "9" * 190 + "e999"),
]


def test_the_same_answers_have_one_key() -> None:
    assert [pair for pair in SAME if answer_key(pair[0]) != answer_key(pair[1])] == []


def test_different_answers_have_different_keys() -> None:
    assert [pair for pair in DIFFERENT if answer_key(pair[0]) == answer_key(pair[1])] == []


def test_the_same_answer_is_right_and_which_of_two_is_the_reference_does_not_matter() -> None:
    assert [pair for pair in SAME if not is_right(*pair)] == []
    assert [(a, b) for a, b in SAME + DIFFERENT if is_right(a, b) != is_right(b, a)] == []


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
