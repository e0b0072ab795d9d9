"""Final answers of solutions, and which answers are the same."""

import multiprocessing
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.data.answers import answer_classes, final_answer, is_right


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        (["red is 4.", "The answer is 10."], "10"),
        (["The answer is 3.5. Done."], "3.5"),
        (["The final answer is: $10$"], "10"),
        (["**Answer:** (B) 12 cm"], "(B) 12 cm"),
        (["The correct option is B."], "B"),
        (["Final Answer:\n\n10 cm"], "10 cm"),
        ([r"So \boxed{\frac{1}{2}} it is."], r"\frac{1}{2}"),
        ([r"First \boxed{3}, then \boxed{x_{1} \text{ or \} } }."], r"x_{1} \text{ or \} }"),
        ([r"The answer is 3, that is \boxed{4}"], "4"),
        (["The answer is 3.", "No: the answer is 4. The answer is 5."], "5"),
        ([r"\boxed{1}", "The answer is 2."], "2"),  # the last step first
        ([r"The answer is 7.", "I am sure."], "7"),  # then the whole solution
        ([r"\boxed{8", "The answers differ."], None),
        (["red is 4."], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_answer_that_a_solution_ends_with(steps: list[str], answer: str | None) -> None:
    assert final_answer(steps) == answer


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        *((text, "B") for text in ("B", "(B)", "B.", "b", "(b)", "B: 12 cm", "B. 12 cm", "(B) 12 cm", r"\boxed{B}")),
        *(
            (text, "B")
            for text in ("option B", "Option (B)", "The correct answer is B", "**B**", r"$\text{B}$", "B) red")
        ),
        ("B", "(B)"),
        ("10", "10"),
        ("10.0", "10"),
        (".5", "0.5"),
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac{3}{4}", "75%"),
        ("50%", "0.5"),
        ("50 percent", r"50\%"),
        ("1,000", "1000"),
        ("1,234,567.5", "1234567.5"),
        ("−5", "-5"),  # noqa: RUF001
        ("$10", "10"),
        ("10 cm", "10"),
        ("10", "10 cm"),
        (r"10\text{ cm}", "10cm"),
        ("10 meters", "10 m"),
        ("10 square centimeters", r"10 \text{cm}^2"),
        ("30°", "30 degrees"),
        (r"30^\circ", "30"),
        ("x=5", "5"),
        ("x+1", "1+x"),
        ("(x-1)(x+1)", "x^2-1"),
        ("2√3", r"\sqrt{12}"),
        ("2sqrt(3)", r"2\sqrt{3}"),
        ("2π", r"2\pi"),
        (r"\{1,2\}", r"\{2, 1\}"),
        ("(1, 2)", "(1,2)"),
        ("1.5 × 10^3", "1500"),  # noqa: RUF001
        ("The Blue House.", "blue house"),
        ("a triangle", "Triangle"),
        (r"\text{No}", "no"),
    ],
)
def test_a_right_answer(given: str, reference: str) -> None:
    assert is_right(given, reference)


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ("1", "10"),
        ("10", "1"),
        ("12", "12.5"),
        ("-5", "5"),
        ("0.333", "1/3"),
        ("3x", "3"),
        ("2t", "2"),
        ("2 pi", "2"),
        ("3 million", "3"),
        ("12 or 13", "13"),
        ("(1,200)", "1200"),
        ("(1, 2)", "(2, 1)"),
        ("10 cm", "10 m"),
        ("10 m^2", "10 m"),
        ("10 apples", "10 pears"),
        ("A", "a triangle"),
        ("a triangle", "A"),
        ("A triangle", "A"),
        ("Bob", "B"),
        ("B", "Bob"),
        ("A, B", "A"),
        ("(A) and (B)", "A"),
        ("12 cm", "B"),
        ("deer", "reed"),
        ("no", "yes"),
        ("", "10"),
        ("9^{9^{9^{9}}}", "5"),
        ("100000000!", "5"),
        ("9^{99999999999}", "5"),
        ("(" * 5000, "5"),
        ("x" + "^x" * 4, "5"),
    ],
)
def test_another_answer(given: str, reference: str) -> None:
    assert not is_right(given, reference)


def test_expressions_are_read_in_any_thread_and_after_a_fork() -> None:
    pairs = [(rf"\sqrt{{{number}}} x + {number}", rf"{number} + x \sqrt{{{number}}}") for number in range(2, 40)]
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(is_right, *zip(*pairs, strict=True)))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(is_right, ("x + 12", "12 + x"))


# Each repeated 20,000 times was, or is for a careless pattern, minutes of work.
REPEATED = [
    *("answer is ", "answer ", r"\boxed{", "<answer>", "**", "***a", "_a", "`", "####a ", "\n", " ", "$$ a", r"\[ a"),
    *(
        ". ",
        "(A ",
        "A, ",
        "1",
        "1,000",
        "1 ",
        "{",
        "1}",
        "'",
        '"',
        "答案",
        "because ",
        "x^",
        "So 1",
        "A is ",
        r"\text{",
    ),
]


@given(st.lists(st.sampled_from(REPEATED), min_size=1, max_size=3), st.sampled_from(["", "x", "\nx"]), st.integers())
@settings(deadline=None, max_examples=60)
def test_no_text_takes_long(parts: list[str], end: str, seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices(parts, k=20_000)) + end
    start = time.process_time()
    final_answer([text, text])
    for length in (len(text), 1000):
        is_right(text[:length], "5")
        is_right("B", text[-length:])
    assert time.process_time() - start < 2


@pytest.mark.parametrize("code", ["__import__('os').mkdir('made')", "os.mkdir('made')", r"\write18{mkdir made}"])
def test_nothing_is_executed(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (code, f"${code}$", rf"\boxed{{{code}}}"):
        assert not is_right(text, "1")
    assert list(tmp_path.iterdir()) == []


def test_texts_options_and_decimals_need_no_algebra() -> None:
    program = (
        "import sys; from mprm.data.answers import is_right\n"
        "assert [is_right(*pair) for pair in (('10', '11'), ('1,000.0', '1000'), ('(B)', 'B'), ('red', 'blue'))]"
        " == [False, True, True, False]\n"
        "assert not {'mpmath', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_equal_answers_are_one_class() -> None:
    assert answer_classes(["1/2", None, "10", "0.5", "10.0", None, "10", "1"]) == [0, -1, 1, 0, 1, -1, 1, 2]
    assert answer_classes(["B: 12 cm", "B", "(C)", "Bob"]) == [0, 0, 1, 2]
    assert answer_classes(["50 %", "50", "0.5"]) == [0, 1, 0]
    assert answer_classes([]) == []
    assert answer_classes([None]) == [-1]


def test_a_shorter_answer_joins_the_one_that_it_is_short_for() -> None:
    assert answer_classes(["10", "10 cm", "0.1 m", "11"]) == [0, 0, 0, 1]
    assert answer_classes(["10", "10 cm", "10 m"]) == [0, 1, 2]
    assert answer_classes(["12", "(B) 12 cm", "B", "12 cm", "C"]) == [0, 0, 0, 0, 1]
    assert answer_classes(["12 cm", "(B) 12 cm", "(C) 12 cm"]) == [0, 1, 2]
    assert answer_classes(["(B) C. red", "(C) B. red", "red"]) == [0, 1, 2]


answers = ["10", "10.0", "1/2", "50%", "50", "B", "(B) 12 cm", "(C) 12 cm", "Red.", "x+1", "12 cm", "12", "10 m", None]


@given(st.lists(st.sampled_from(answers), max_size=8), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_classes_are_numbered_by_appearance_whatever_the_order(some: list[str | None], rng: random.Random) -> None:
    classes = answer_classes(some)
    assert [number == -1 for number in classes] == [answer is None for answer in some]
    numbers = list(dict.fromkeys(number for number in classes if number >= 0))
    assert numbers == list(range(len(numbers)))
    order = rng.sample(range(len(some)), len(some))
    again = answer_classes([some[place] for place in order])
    assert len(set(zip([classes[place] for place in order], again, strict=True))) == len(set(classes))


@given(st.text(max_size=30), st.text(max_size=30))
@settings(deadline=None)
def test_any_text_is_compared(given: str, reference: str) -> None:
    assert is_right(given, reference) in (True, False)
    assert final_answer([given, reference]) is None or final_answer([given, reference])
