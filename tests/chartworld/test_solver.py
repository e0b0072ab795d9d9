"""The solver's texts, labels and Monte-Carlo counts."""

import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from mprm.chartworld.solver import REMARK, REMARKS, Skill, Solver, annotate, step_texts
from mprm.chartworld.world import NAMES, Problems, operand_names, sample_problems

PERFECT = Skill(misread=0.0, slip=0.0, look_again=0.0, illusion=0.0, doubt=0.0, remark=0.0)
CLUMSY = Skill(misread=0.2, slip=0.15, look_again=0.3, illusion=0.05, doubt=0.1, remark=0.2)
READING = re.compile(r"(?:Again: )?([a-z]+) is (-?\d+)\.")
PARTIAL = re.compile(r"(?:Again: )?(?:([a-z]+) )?(-?\d+) ([+-]) ([a-z]+) (-?\d+) = (-?\d+)\.")
ANSWER = re.compile(r"The answer is (-?\d+)\.")


def solve(problems: Problems, skill: Skill, seed: int = 0) -> tuple[list[list[str]], list[list[bool]]]:
    """Texts and labels of every solution."""
    trace, _ = Solver(problems, skill, np.random.default_rng(seed)).run()
    texts = [step_texts(problems, trace, row) for row in range(len(problems))]
    return texts, [labels[:n].tolist() for labels, n in zip(trace.correct_ST, trace.n_steps_S, strict=True)]


def right_statement(problems: Problems, row: int, text: str) -> bool:
    """Reads a step in words and looks at the chart: is the stated value what it should be?"""
    heights = {
        NAMES[colour]: int(height)
        for colour, height in zip(problems.colour_PB[row], problems.height_PB[row], strict=True)
        if height > 0
    }
    names = operand_names(problems, row)
    terms = [int(sign) * heights[name] for sign, name in zip(problems.sign_PO[row], names, strict=False)]
    if text in REMARKS:
        return True
    if match := READING.fullmatch(text):
        return heights[match[1]] == int(match[2])
    if match := ANSWER.fullmatch(text):
        return sum(terms) == int(match[1])
    match = PARTIAL.fullmatch(text)
    assert match, text
    upto = names.index(match[4])
    assert (match[1] or names[0]) == names[0]
    assert (match[1] is not None) == (upto == 1)
    assert (match[3] == "-") == (problems.sign_PO[row, upto] < 0)
    return sum(terms[: upto + 1]) == int(match[6])


def test_a_solution_in_words(plus_minus: Problems, difference: Problems) -> None:
    (texts,), (labels,) = solve(plus_minus, PERFECT)
    assert texts == [
        "red is 4.",
        "blue is 7.",
        "green is 2.",
        "red 4 + blue 7 = 11.",
        "11 - green 2 = 9.",
        "The answer is 9.",
    ]
    assert all(labels)
    (texts,), _ = solve(difference, PERFECT)
    assert texts == ["black is 8.", "orange is 3.", "black 8 - orange 3 = 5.", "The answer is 5."]


def test_a_doubt_states_an_item_again_and_works_out_what_stood_on_it(difference: Problems) -> None:
    _, solutions = zip(*[(seed, solve(difference, CLUMSY, seed)[0][0]) for seed in range(200)], strict=True)
    again = [texts for texts in solutions if any(text.startswith("Again: black is") for text in texts)]
    assert again
    for texts in again:
        last_reading = max(step for step, text in enumerate(texts) if READING.fullmatch(text))
        assert any(PARTIAL.fullmatch(text) for text in texts[last_reading:])
        assert sum(bool(ANSWER.fullmatch(text)) for text in texts) == 1


def test_a_solver_without_errors_is_always_right() -> None:
    problems = sample_problems(np.random.default_rng(1), 300)
    texts, labels = solve(problems, Skill(misread=0, slip=0, look_again=0.5, illusion=0, doubt=0.2, remark=0.2))
    assert all(all(row) for row in labels)
    assert all(right_statement(problems, row, steps[-1]) for row, steps in enumerate(texts))


def test_labels_are_what_the_chart_says_of_the_words() -> None:
    problems = sample_problems(np.random.default_rng(2), 1500)
    texts, labels = solve(problems, CLUMSY)
    wrong = 0
    for row, (steps, said) in enumerate(zip(texts, labels, strict=True)):
        assert [right_statement(problems, row, text) for text in steps] == said
        wrong += said.count(False)
    assert wrong > 1000


def test_stated_operands_and_results_follow_from_the_words_before() -> None:
    """Without slips every partial result is what its own operands give, and these were stated before."""
    problems = sample_problems(np.random.default_rng(3), 300)
    texts, _ = solve(problems, Skill(misread=0.3, slip=0.0, look_again=0.3))
    for row, steps in enumerate(texts):
        names = operand_names(problems, row)
        said: dict[str, int] = {}
        results: dict[int, int] = {}  # up to the n-th operand
        for text in steps:
            if match := READING.fullmatch(text):
                said[match[1]] = int(match[2])
                results.clear()
            elif match := PARTIAL.fullmatch(text):
                upto = names.index(match[4])
                left = said[match[1]] if match[1] else results[upto - 1]
                assert (int(match[2]), int(match[5])) == (left, said[match[4]])
                results[upto] = left + (1 if match[3] == "+" else -1) * said[match[4]]
                assert int(match[6]) == results[upto]
            elif match := ANSWER.fullmatch(text):
                assert int(match[1]) == results[len(names) - 1]
        assert set(said) == set(names)


def test_half_of_the_misreadings_give_another_bars_height_and_two_fifths_of_the_slips_the_other_operation(
    plus_minus: Problems,
) -> None:
    """red 4 plus blue 8 minus green 1: whatever is wrong can be told apart."""
    problems = replace(plus_minus, height_PB=np.array([[8, 4, 1, 0]])).take(np.zeros(40_000, int))
    trace, _ = Solver(problems, replace(PERFECT, misread=0.3), np.random.default_rng(0)).run()
    read = trace.value_ST[:, 0]  # red, 4; off by one or two it is never 8 or 1
    assert set(read) == {1, 2, 3, 4, 5, 6, 8}
    assert np.isin(read, (1, 8)).sum() / (read != 4).sum() == pytest.approx(0.5, abs=0.02)
    assert (read == 1).sum() / np.isin(read, (1, 8)).sum() == pytest.approx(0.5, abs=0.03)

    trace, _ = Solver(problems, replace(PERFECT, slip=0.3), np.random.default_rng(0)).run()
    first = trace.value_ST[:, 3]  # 4 + 8
    assert set(first) == {-4, 10, 11, 12, 13, 14}
    assert (first == -4).sum() / (first != 12).sum() == pytest.approx(0.4, abs=0.02)


def test_a_misreading_is_never_right_even_if_all_bars_are_as_high(difference: Problems) -> None:
    problems = replace(difference, height_PB=np.array([[8, 8, 8, 0]])).take(np.zeros(500, int))
    trace, _ = Solver(problems, replace(PERFECT, misread=1.0), np.random.default_rng(0)).run()
    assert set(trace.value_ST[:, 0]) == {6, 7}
    assert not trace.correct_ST[:, :2].any()


def test_traces_and_counts_depend_on_the_seed_alone() -> None:
    problems = sample_problems(np.random.default_rng(4), 40)
    runs = []
    for seed in (7, 7, 8):
        solver = Solver(problems, CLUMSY, np.random.default_rng(seed))
        trace, after = solver.run()
        runs.append((trace.value_ST.tolist(), annotate(solver, after, 16, 2.0).tolist()))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_counts_are_the_success_rates_of_solutions_that_began_alike(difference: Problems) -> None:
    """The share of right answers among many whole solutions with the same first two steps, no state copied."""
    skill = Skill(misread=0.25, slip=0.2, look_again=0.4, illusion=0.0, doubt=0.1, remark=0.0)
    runs = 20_000
    copies = difference.take(np.zeros(runs, dtype=int))
    trace, _ = Solver(copies, skill, np.random.default_rng(0)).run()
    right = trace.correct_ST[np.arange(runs), trace.n_steps_S - 1]
    outcomes = defaultdict(list)
    for row in range(runs):
        outcomes[tuple(map(int, trace.value_ST[row, :2])), bool(trace.again_ST[row, 1])].append(bool(right[row]))

    few = difference.take(np.zeros(60, dtype=int))
    solver = Solver(few, skill, np.random.default_rng(1))
    trace, after = solver.run()
    counts = annotate(solver, after, 512, 1.0)
    checked = set()
    for row in range(60):
        begin = tuple(map(int, trace.value_ST[row, :2])), bool(trace.again_ST[row, 1])
        n = len(outcomes[begin])
        if n >= 400:
            checked.add(begin)
            rate = np.mean(outcomes[begin])
            error = np.sqrt(rate * (1 - rate) * (1 / n + 1 / 512))
            assert abs(counts[row, 1] / 512 - rate) < 4.5 * error + 1e-9
    assert len(checked) >= 5


def test_sixteen_continuations_agree_with_five_hundred() -> None:
    problems = sample_problems(np.random.default_rng(5), 12)
    counts = {}
    for continuations in (16, 512):
        solver = Solver(problems, CLUMSY, np.random.default_rng(6))
        trace, after = solver.run()
        counts[continuations] = annotate(solver, after, continuations, 1.5)
    stated = np.arange(counts[16].shape[1]) < trace.n_steps_S[:, None]
    rate = (counts[512][stated] + 1) / 514
    z = (counts[16][stated] / 16 - rate) / np.sqrt(rate * (1 - rate) / 16)
    assert np.abs(z).max() < 5
    assert abs(z.mean()) < 0.5


def test_after_the_last_step_the_count_is_all_or_nothing() -> None:
    problems = sample_problems(np.random.default_rng(6), 200)
    solver = Solver(problems, CLUMSY, np.random.default_rng(0))
    trace, after = solver.run()
    counts = annotate(solver, after, 16, 2.6)
    last = np.arange(200), trace.n_steps_S - 1
    assert (counts[last] == 16 * trace.correct_ST[last]).all()
    assert 0 < trace.correct_ST[last].mean() < 1


def test_annotation_leaves_the_solver_as_it_was() -> None:
    solver = Solver(sample_problems(np.random.default_rng(7), 8), CLUMSY, np.random.default_rng(0))
    _, after = solver.run()
    annotate(solver, after, 4, 2.6)
    assert solver.skill == CLUMSY
    assert CLUMSY.hotter(2.0).misread == pytest.approx(0.4)
    assert CLUMSY.hotter(2.0).look_again == CLUMSY.look_again


def test_an_illusion_is_hardly_ever_overcome() -> None:
    problems = sample_problems(np.random.default_rng(8), 200)
    shares = []
    for misread in (0.0, 0.1):
        skill = Skill(misread=misread, slip=0.0, look_again=0.5, illusion=1.0)
        solver = Solver(problems, skill, np.random.default_rng(0))
        _, after = solver.run()
        shares.append(annotate(solver, after[:1], 16, 1.0)[:, 0].mean() / 16)
    assert shares[0] == 0
    assert shares[1] < 0.01


def test_a_remark_states_nothing_and_is_not_wrong() -> None:
    problems = sample_problems(np.random.default_rng(9), 200)
    trace, _ = Solver(problems, CLUMSY, np.random.default_rng(0)).run()
    stated = np.arange(trace.item_ST.shape[1]) < trace.n_steps_S[:, None]
    remarks = stated & (trace.item_ST == REMARK)
    assert remarks.sum() > 20
    assert trace.correct_ST[remarks].all()
