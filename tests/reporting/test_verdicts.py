from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from mprm.metrics.estimate import Resampled
from mprm.reporting.run_record import run_folders
from mprm.reporting.settings import Group, Setting, compare
from mprm.reporting.verdicts import (
    PUBLISHED,
    Question,
    Verdict,
    published_f1,
    questions,
    verdict,
    verdicts_of,
    verdicts_table,
)

MakeSetting, MakeGroup = Callable[..., Setting], Callable[..., Group]


@pytest.fixture
def ask(make_group: MakeGroup) -> Callable[..., list[tuple[str, str, int, bool]]]:
    def ask(*settings: Setting) -> list[tuple[str, str, int, bool]]:
        return [(q.a.label, q.b.label, q.among, q.said) for q in questions(make_group(*settings))]

    return ask


@pytest.fixture
def known(make_setting: MakeSetting) -> dict[str, Setting]:
    return {
        "BIS10": make_setting("BIS", 0.1, 0.85, alpha=0.2),
        "BIS25": make_setting("BIS", 0.25, 0.88, alpha=0.2),
        "RANDOM10": make_setting("Random", 0.1, 0.84),
        "RANDOM25": make_setting("Random", 0.25, 0.86),
        "FULL": make_setting("Full", 1.0, 0.87),
        "MIXED": make_setting("Mixed", 0.1, 0.7),
    }


def test_the_best_is_asked_about_first_then_every_selection_against_the_baseline_of_its_share(
    ask: Any, known: dict[str, Setting]
) -> None:
    assert ask(*known.values()) == [
        ("BIS (alpha 0.2), 25 %", "Full", 6, True),
        ("BIS (alpha 0.2), 25 %", "Random, 25 %", 1, True),
        ("BIS (alpha 0.2), 10 %", "Random, 10 %", 1, False),
        ("Mixed, 10 %", "Random, 10 %", 1, False),
    ]
    assert ask(*(known[name] for name in ("MIXED", "BIS10", "FULL")))[0] == ("Full", "BIS (alpha 0.2), 10 %", 3, True)


def test_where_a_baseline_is_best_the_best_selection_is_asked_about_too(
    ask: Any, known: dict[str, Setting], make_setting: MakeSetting
) -> None:
    best, second = make_setting("Full", 1.0, 0.9), make_setting("Random", 0.25, 0.89)
    assert ask(best, second, known["BIS10"], known["MIXED"], known["RANDOM10"]) == [
        ("Full", "Random, 25 %", 5, True),
        ("BIS (alpha 0.2), 10 %", "Random, 10 %", 2, True),
        ("BIS (alpha 0.2), 10 %", "Full", 1, True),
        ("Mixed, 10 %", "Random, 10 %", 1, False),
    ]
    assert ask(best, known["BIS10"]) == [("Full", "BIS (alpha 0.2), 10 %", 2, True)]


def test_without_a_selection_random_is_measured_against_full(
    ask: Any, known: dict[str, Setting], make_setting: MakeSetting
) -> None:
    assert ask(known["FULL"], known["RANDOM10"]) == [("Full", "Random, 10 %", 2, True)]
    assert ask(make_setting("Full", 1.0, 0.7), known["RANDOM10"], known["RANDOM25"]) == [
        ("Random, 25 %", "Random, 10 %", 3, True),
        ("Random, 25 %", "Full", 1, True),
    ]


def test_only_settings_with_the_same_rest_or_that_differ_in_one_thing_are_compared(
    ask: Any, make_setting: MakeSetting
) -> None:
    soft, hard = (
        make_setting("BIS", 0.1, auc, other=other, alpha=0.2) for other, auc in (("Soft", 0.9), ("Hard", 0.8))
    )
    assert ask(soft, hard, make_setting("Random", 0.1, 0.85, other="Hard")) == [
        ("BIS (alpha 0.2), 10 %, Soft", "Random, 10 %, Hard", 3, True),
        ("BIS (alpha 0.2), 10 %, Hard", "Random, 10 %, Hard", 1, True),
        ("BIS (alpha 0.2), 10 %, Soft", "BIS (alpha 0.2), 10 %, Hard", 1, False),
    ]


def test_what_has_no_partner_is_not_asked_about_and_a_realised_share_finds_its_baseline(
    ask: Any, known: dict[str, Setting], make_setting: MakeSetting
) -> None:
    assert ask() == ask(known["BIS10"]) == ask(known["BIS10"], make_setting("Random", 0.1, None)) == []
    near = make_setting("BIS", 0.100003, 0.8)
    assert ask(known["BIS25"], near, make_setting("Random", 0.1, 0.7))[1][:2] == ("BIS, 10 %", "Random, 10 %")


@pytest.fixture
def answer(make_group: MakeGroup) -> Callable[..., Verdict]:
    """answer(question, auc=(value, half the width), ...): of differences whose resamples have that interval."""

    def answer(question: Question, **differences: tuple[float, float]) -> Verdict:
        spread, items = np.array([0.0, -1.0, 1.0]) / 1.9607, tuple((str(number), 1) for number in range(10_000))
        for sign, setting in ((1, question.a), (0, question.b)):
            for run in setting.runs:
                for key, (value, half) in differences.items():
                    run.measured.numbers[key] = Resampled(items, sign * (value + half * spread))
        return verdict(question, make_group(question.a, question.b).kind.measures)

    return answer


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (
            (0.012, 0.008),
            "is better than Random, 10 % (AUC +0.012 [0.004, 0.020]; 1 seed; this holds for this training",
        ),
        ((0.012, 0.015), "is not distinguishable from Random, 10 % (AUC +0.012 [-0.003, 0.027]; 1 seed; "),
        ((0.0, 0.0), "is not distinguishable from Random, 10 % "),
        ((-0.012, 0.008), "is worse than Random, 10 % "),
    ],
)
def test_words_follow_the_interval(
    answer: Any, known: dict[str, Setting], difference: tuple[float, float], words: str
) -> None:
    bis, random = known["BIS10"], known["RANDOM10"]
    for setting in (bis, random):
        del setting.runs[0].measured.numbers["f1_fixed"]
    found = answer(Question(a=bis, b=random), auc=difference)
    assert found.words.startswith(f"BIS (alpha 0.2), 10 % {words}")
    assert found.words.endswith(" alone).")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ((0.02, 2, 2, 2), "is better than Random, 10 %, in AUC, F1, optimistic F1 and F1 at 0.5 alike (AUC +0.020 ["),
        ((0, 0, 0, 0), "is not distinguishable from Random, 10 %, in AUC, F1, optimistic F1 and F1 at 0.5 alike ("),
        (
            (-0.02, 0, 0, 12.7),
            "has a higher F1 at 0.5 but a lower AUC than Random, 10 %, and is not distinguishable from it in F1 and "
            "optimistic F1 (AUC -0.020 [-0.028, -0.012], F1 +0.0 [-0.8, 0.8], optimistic F1 +0.0 [-0.8, 0.8], F1 at "
            "0.5 +12.7 [11.9, 13.5]; ",
        ),
        ((0, 0, 0, 5), "has a higher F1 at 0.5 than Random, 10 %, and is not distinguishable from it in AUC, F1 and "),
        ((-0.02, -2, 2, 2), "has a higher optimistic F1 and F1 at 0.5 but a lower AUC and F1 than Random, 10 % ("),
    ],
)
def test_one_sentence_says_the_same_of_all_measures_or_where_they_differ(
    answer: Any, known: dict[str, Setting], differences: tuple[float, ...], words: str
) -> None:
    auc, *points = differences
    f1 = {key: (one / 100, 0.008) for key, one in zip(("f1", "f1_optimistic", "f1_fixed"), points, strict=True)}
    found = answer(Question(a=known["BIS10"], b=known["RANDOM10"]), auc=(auc, 0.008), **f1)
    assert found.words.startswith(f"BIS (alpha 0.2), 10 % {words}")


def test_the_best_is_said_to_flatter_and_seeds_are_counted(answer: Any, make_setting: MakeSetting) -> None:
    three = make_setting("BIS", 0.25, 0.88, 0.88, 0.88), make_setting("Full", 1.0, 0.87, 0.87, 0.87)
    found = answer(Question(a=three[0], b=three[1], best=True, among=12), auc=(0.01, 0.02))
    assert found.words.startswith(
        "BIS, 25 % has the highest mean AUC, 0.010: it is not distinguishable from the second, Full (AUC +0.010 ["
    )
    assert found.words.endswith("; 3 seeds). It was chosen as the best of 12 on these very numbers, which flatters it.")
    two = make_setting("BIS", 0.25, 0.88, 0.88), make_setting("Full", 1.0, 0.87, 0.87)
    found = answer(Question(a=two[0], b=two[1]), auc=(0.01, 0.02))
    assert "(AUC +0.010 (+0.010, +0.010); 2 seeds; this holds for these 2 trainings alone)." in found.words
    assert "flatter" not in found.words


def test_a_pair_that_cannot_be_compared_says_why_and_the_table_has_a_row_per_question(
    answer: Any, known: dict[str, Setting], make_setting: MakeSetting, make_group: MakeGroup
) -> None:
    nobody = Setting(runs=make_setting("Random", 0.1, 0.8, 0.8).runs[1:])
    unknown = answer(Question(a=known["BIS10"], b=nobody), auc=(0.0, 1.0))
    assert unknown.words.startswith("BIS (alpha 0.2), 10 % and Random, 10 % cannot be compared: no seed in common: ")
    assert unknown.differences == {}
    question = Question(a=known["BIS25"], b=known["FULL"], best=True, among=6)
    best = answer(question, auc=(0.01, 0.02), f1_fixed=(0.02, 0.01))
    table = verdicts_table([best, unknown], make_group(*known.values()))
    assert table.columns == ("setting", "compared with", "seeds", "AUC", "F1 at 0.5")
    assert table.rows == (
        (
            *("BIS (alpha 0.2), 25 %", "Full", "1"),
            *("not distinguishable: +0.010 [-0.010, 0.030]", "better: +2.0 [1.0, 3.0]"),
        ),
        ("BIS (alpha 0.2), 10 %", "Random, 10 %", "-", "-", "-"),
    )
    assert (table.main, "flatter" in table.note) == ("BIS (alpha 0.2), 25 %", True)


def test_predictions_answer_and_what_differs_in_solutions_is_not_compared(many_runs: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("bis-0.2-0.5", "random-0.5"):
        for seed in (0, 1):
            copytree(many_runs / f"{name}-{seed}", runs / f"{name}-{seed}")
    (found,) = verdicts_of(compare(run_folders(runs)).groups[0])
    assert list(found.differences["auc"].by_seed) == [0, 1]
    assert set(found.differences) == {"auc", "f1", "f1_fixed", "f1_optimistic"}
    for seed in (0, 1):
        path = runs / f"random-0.5-{seed}" / "predictions.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    (found,) = verdicts_of(compare(run_folders(runs)).groups[0])
    assert "differ (1, e.g. '0')" in found.words
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    left_out = compare(run_folders(runs)).left_out
    assert left_out == {
        "random-0.5-1": "what it was measured on, or its labels, differ from random-0.5-0's, of the same setting"
    }


# ---- published numbers


def config(selector: str = "BIS", **changes: Any) -> dict[str, Any]:
    """A config as the published experiments have it; `changes` by group or of the selector's fields."""
    fields = {"_target_": f"mprm.selection.x.{selector}", "ratio": 0.1, "count": None}
    if selector == "BIS":
        fields["alpha"] = 0.2
    names = ("ratio", "alpha", "count", "labels", "fill", "balance", "random_share", "scope", "ties")
    fields |= {key: changes.pop(key) for key in names if key in changes}
    return {
        "selector": fields,
        "dataset": {"_target_": "mprm.data.visualprm400k.VisualPRM400K"},
        "benchmark": {"_target_": "mprm.data.records.VisualProcessBench"},
        "backbone": {"_target_": "mprm.backbones.internvl.InternVL"},
        "objective": {"_target_": "mprm.training.objectives.Hard", "tau": 0.0, "balance": "none", "ignore": None},
        "recipe": {"epochs": 1},
    } | changes


QWEN = {"_target_": "mprm.backbones.qwen2_5_vl.Qwen2_5_VL"}
SOFT = {"_target_": "mprm.training.objectives.Soft"}


@pytest.mark.parametrize(
    ("given", "internvl", "qwen"),
    [
        (config(), 65.46, 64.63),
        (config(ratio=0.25, alpha=0.05), 65.46, 65.53),
        (config(ratio=0.25, alpha=0.02), 64.84, None),
        (config(ratio=0.25, alpha=0.08), 64.86, None),
        (config(ratio=0.35, alpha=0.7), 64.98, 65.69),  # the published alpha is not known
        (config("Random", ratio=0.05), 63.34, 53.54),
        (config("Mixed", ratio=0.25), 64.70, None),
        (config("Reliable", ratio=0.25), 62.75, None),
        (config("LowMC", ratio=0.25), 64.18, None),
        (config("Full", ratio=1.0), 65.12, 65.57),
        (
            config("Full", ratio=1.0, objective={"_target_": "mprm.training.objectives.Hard", "tau": 0.0625}),
            64.26,
            65.27,
        ),
        (
            config("Full", ratio=1.0, objective={"_target_": "mprm.training.objectives.Hard", "tau": 0.125}),
            63.02,
            62.72,
        ),
        (config("Full", ratio=1.0, objective=SOFT), 61.54, 62.23),
        (config("Mixed", recipe={"epochs": 0}), 52.28, 49.68),
    ],
)
def test_published_numbers(given: dict[str, Any], internvl: float, qwen: float | None) -> None:
    assert published_f1(given) == pytest.approx(internvl / 100)
    of_qwen = published_f1(given | {"backbone": QWEN})
    assert of_qwen == (None if qwen is None else pytest.approx(qwen / 100))


@pytest.mark.parametrize(
    "given",
    [
        config(alpha=0.05),
        config(ratio=0.25, alpha=0.2),
        config(ratio=0.12),
        config("Mixed", ratio=0.1),
        config("Longest"),
        config(ratio=None, count=100),
        config(objective=SOFT),
        config(objective={"_target_": "mine.Focal"}),
        config(objective=config()["objective"] | {"balance": "classes"}),
        config("Full", ratio=1.0, objective=SOFT | {"ignore": [0.125, 0.75]}),
        config(dataset=config()["dataset"] | {"final_step": "drop"}),
        *(config(**option) for option in ({"labels": "posterior"}, {"fill": "random"}, {"balance": "questions"})),
        *(config(**option) for option in ({"random_share": 0.5}, {"scope": "global"}, {"ties": "random"})),
        config("Full", ratio=1.0, objective={"_target_": "mprm.training.objectives.Hard", "tau": 0.25}),
        config(dataset={"_target_": "mprm.chartworld.corpus.ChartWorld"}),
        config(benchmark={"_target_": "mprm.chartworld.corpus.ChartWorldBenchmark"}),
        config(backbone={"_target_": "mine.Other"}),
        config("Mixed", recipe={"epochs": 0}, backbone={"_target_": "mine.Other"}),
        {"seed": 0},
    ],
)
def test_everything_else_was_not_published(given: dict[str, Any]) -> None:
    assert published_f1(given) is None


def test_no_setting_is_listed_twice() -> None:
    lines = [line.split(",") for line in PUBLISHED.read_text().splitlines()[1:]]
    assert len({tuple(conditions) for _, *conditions in lines}) == len(lines) == 2 + 21 + 16
    assert all(49 < float(f1) < 66 for f1, *_ in lines)
