from functools import partial

import pytest

from mprm.metrics.estimate import Difference
from mprm.reporting.compare import Comparison, Row
from mprm.reporting.tables import Estimate
from mprm.reporting.verdicts import Question, questions, verdict, verdicts_table

Measured = partial(Difference, seeds=(0, 1, 2, 3, 4), resamples=1000)


def row(selector: str, ratio: float, auc: float | None, other: str = "", alpha: float | None = None) -> Row:
    return Row(
        selector=selector,
        alpha=alpha,
        ratio=ratio,
        other=other,
        kept=100,
        seeds=(0, 1),
        folders=(),
        auc=None if auc is None else Estimate(auc),
        f1_fixed=Estimate(0.6),
        f1_calibrated=None,
        f1_oracle=None,
        published=None,
    )


BIS10, BIS25 = row("BIS", 0.1, 0.85, alpha=0.2), row("BIS", 0.25, 0.88, alpha=0.2)
RANDOM10, RANDOM25, FULL = row("Random", 0.1, 0.84), row("Random", 0.25, 0.86), row("Full", 1.0, 0.87)
MIXED = row("Mixed", 0.1, 0.7)


def asked(*rows: Row) -> list[tuple[str, str, str, int]]:
    return [(q.kind, q.a.label, q.b.label, q.among) for q in questions(Comparison(rows, {}))]


def test_the_best_is_asked_about_first_then_every_selection_against_random() -> None:
    assert asked(FULL, BIS25, RANDOM25, BIS10, MIXED, RANDOM10) == [
        ("best", "BIS, alpha 0.2, 25 %", "Full", 6),
        ("best_random", "BIS, alpha 0.2, 25 %", "Random, 25 %", 1),
        ("random", "BIS, alpha 0.2, 10 %", "Random, 10 %", 1),
        ("random", "Mixed, 10 %", "Random, 10 %", 1),
    ]


def test_the_best_is_asked_against_full_where_full_is_not_second() -> None:
    assert asked(row("Full", 1.0, 0.6), BIS10, MIXED) == [
        ("best", "BIS, alpha 0.2, 10 %", "Mixed, 10 %", 3),
        ("best_full", "BIS, alpha 0.2, 10 %", "Full", 1),
    ]


def test_where_a_baseline_is_best_the_best_selection_is_asked_about_too() -> None:
    assert asked(row("Full", 1.0, 0.9), row("Random", 0.25, 0.89), BIS10, MIXED, RANDOM10) == [
        ("best", "Full", "Random, 25 %", 5),
        ("best_random", "BIS, alpha 0.2, 10 %", "Random, 10 %", 2),
        ("best_full", "BIS, alpha 0.2, 10 %", "Full", 1),
        ("random", "Mixed, 10 %", "Random, 10 %", 1),
    ]
    assert asked(row("Full", 1.0, 0.9), BIS10) == [("best", "Full", "BIS, alpha 0.2, 10 %", 2)]


def test_without_a_selection_random_is_measured_against_full() -> None:
    assert asked(FULL, RANDOM10) == [("best", "Full", "Random, 10 %", 2)]
    assert asked(row("Full", 1.0, 0.7), RANDOM10, RANDOM25) == [
        ("best", "Random, 25 %", "Random, 10 %", 3),
        ("best_full", "Random, 25 %", "Full", 1),
    ]


def test_settings_that_differ_otherwise_are_asked_about_apart() -> None:
    soft = row("BIS", 0.1, 0.9, "objective Soft", 0.2)
    hard, random = row("BIS", 0.1, 0.8, "objective Hard", 0.2), row("Random", 0.1, 0.7, "objective Hard")
    assert asked(soft, hard, random) == [
        ("best", "BIS, alpha 0.2, objective Hard, 10 %", "Random, objective Hard, 10 %", 2)
    ]


def test_what_has_no_auc_or_no_partner_is_not_asked_about() -> None:
    assert asked(BIS10) == []
    assert asked(BIS10, row("Random", 0.1, None)) == []
    assert asked() == []


def test_a_realised_ratio_finds_its_random() -> None:
    assert asked(BIS25, row("BIS", 0.100003, 0.8), row("Random", 0.1, 0.7))[1][:3] == (
        "random",
        "BIS, 10 %",
        "Random, 10 %",
    )


@pytest.mark.parametrize(
    ("low", "high", "outcome", "words"),
    [
        (0.003, 0.020, "better", "is better than Random, 10 %: AUC +0.012 [0.003, 0.020], 5 seeds"),
        (-0.003, 0.020, "not distinguishable", "is not distinguishable from Random, 10 %: AUC +0.012 [-0.003, 0.020]"),
        (0.0, 0.0, "not distinguishable", "is not distinguishable from Random, 10 %"),
        (-0.02, -0.003, "worse", "is worse than Random, 10 %"),
    ],
)
def test_words_follow_the_interval(low: float, high: float, outcome: str, words: str) -> None:
    answer = verdict(Question(kind="random", a=BIS10, b=RANDOM10), [Measured("auc", 0.012, low, high)])
    assert answer.outcome == outcome
    assert answer.words.startswith(f"BIS, alpha 0.2, 10 % {words}")
    assert "seed:" not in answer.words


def test_every_measure_has_its_own_verdict() -> None:
    differences = [
        Measured("auc", -0.012, -0.02, -0.004),
        Measured("f1_fixed", 0.127, 0.04, 0.214),
        Measured("f1_calibrated", -0.032, -0.14, 0.08),
    ]
    answer = verdict(Question(kind="random", a=BIS10, b=RANDOM10), differences)
    assert answer.words == (
        "BIS, alpha 0.2, 10 % is worse than Random, 10 %: AUC -0.012 [-0.020, -0.004], 5 seeds; "
        "F1 at 0.5 +12.7 [4.0, 21.4], better; F1 calibrated -3.2 [-14.0, 8.0], not distinguishable"
    )
    assert answer.outcome == "worse"


def test_the_best_is_said_to_flatter_and_one_seed_to_hold_for_itself() -> None:
    question = Question(kind="best", a=BIS25, b=FULL, among=12)
    assert verdict(question, [Measured("auc", 0.01, -0.01, 0.03, seeds=(4,))]).words == (
        "BIS, alpha 0.2, 25 % has the highest mean AUC, 0.880. It is not distinguishable from the second, Full: AUC "
        "+0.010 [-0.010, 0.030], 1 seed. Chosen as the best of 12 on these very numbers, so they flatter it "
        "(the interval is over the benchmark's solutions: it holds for these trainings only)"
    )
    two = Measured("auc", 0.01, -0.01, 0.03, seeds=(0, 1), each=(0.005, 0.015))
    assert "AUC +0.010 [-0.010, 0.030], 2 seeds (+0.005, +0.015)" in verdict(question, [two]).words
    later = verdict(Question(kind="best_random", a=BIS25, b=RANDOM25), [Measured("auc", 0.02, 0.01, 0.03)])
    assert "flatter" not in later.words
    ours = verdict(Question(kind="best_full", a=BIS25, b=FULL, among=2), [Measured("auc", 0.02, 0.01, 0.03)])
    assert ours.words == (
        "BIS, alpha 0.2, 25 % is better than Full: AUC +0.020 [0.010, 0.030], 5 seeds. "
        "Chosen as the best of 2 on these very numbers, so they flatter it"
    )


def test_a_pair_that_can_not_be_compared_says_why() -> None:
    answer = verdict(Question(kind="random", a=BIS10, b=RANDOM10), [], "no seed in common")
    assert answer.words == "BIS, alpha 0.2, 10 % and Random, 10 % can not be compared: no seed in common"
    assert (answer.outcome, answer.differences) == ("not comparable", ())


def test_the_table_has_a_row_per_question_and_stresses_the_best() -> None:
    best = verdict(
        Question(kind="best", a=BIS25, b=FULL, among=6),
        [Measured("auc", 0.01, -0.01, 0.03), Measured("f1_fixed", 0.02, 0.01, 0.03)],
    )
    unknown = verdict(Question(kind="random", a=BIS10, b=RANDOM10), [], "no seed in common")
    table = verdicts_table([best, unknown])
    assert table.columns == ("setting", "compared with", "seeds", "AUC", "F1 at 0.5")
    assert table.rows == (
        (
            *("BIS, alpha 0.2, 25 %", "Full", "5"),
            *("not distinguishable: +0.010 [-0.010, 0.030]", "better: +2.0 [1.0, 3.0]"),
        ),
        ("BIS, alpha 0.2, 10 %", "Random, 10 %", "-", "-", "-"),
    )
    assert table.main == "BIS, alpha 0.2, 25 %"
    assert "flatter" in table.note
    assert "flatter" not in verdicts_table([unknown]).note
