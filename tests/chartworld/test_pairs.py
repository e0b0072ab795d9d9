"""Pairs of the world: shares near the settings, one answer nearer to the truth by two or more, traces that tell the
truth whatever the label says.

Shape suffixes: P pairs, B bars.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mprm.chartworld.questions import (
    APART,
    SLOPPY,
    ChartWorldPairs,
    ChartWorldRewardBenchmark,
    wrong_answers,
)
from mprm.chartworld.world import KINDS, NAMES, Problems, draw, question_text, sample_part, true_items
from mprm.data.questions import Pair
from mprm.judge.judge import JudgeSettings

SIZE = 400


def component(folder: Path, **settings: Any) -> ChartWorldPairs:
    return ChartWorldPairs(path=str(folder / "pairs.jsonl"), **{"size": SIZE, "traced": 0.5} | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "pairs"
    component(folder).records()
    return folder


@pytest.fixture(scope="module")
def pairs(folder: Path) -> list[Pair]:
    """Those that the reader makes of the file; none may be dropped."""
    read = list(component(folder).records())
    assert all(isinstance(pair, Pair) for pair in read)
    return read  # type: ignore[return-value]


@pytest.fixture(scope="module")
def hard_P(folder: Path) -> np.ndarray:
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["hard"] for line in lines])


@pytest.fixture(scope="module")
def problems() -> Problems:
    """What the pairs are about: the first that the world's generator draws."""
    return sample_part(np.random.default_rng([4000, SIZE]), SIZE, "corpus")


def share(of: Any) -> Any:
    """Within three and a half standard deviations."""
    of = np.asarray(of, dtype=float)
    return lambda expected: abs(of.mean() - expected) < 3.5 * np.sqrt(max(expected * (1 - expected), 1e-9) / len(of))


def test_shares_are_near_the_settings(pairs: list[Pair], hard_P: np.ndarray, off_P2: np.ndarray) -> None:
    assert [pair.id for pair in pairs] == [str(number) for number in range(SIZE)]
    assert {pair.source for pair in pairs} == set(KINDS)
    flipped_P, traced_P = (np.array(of) for of in zip(*((p.flipped, p.trace is not None) for p in pairs), strict=True))
    assert share(traced_P)(0.5)
    assert share(hard_P[~traced_P])(0.6)
    assert not (hard_P & traced_P).any()
    assert share(flipped_P[~hard_P])(0.02)
    assert share(flipped_P[hard_P])(0.3)
    assert share(off_P2.min(axis=1)[~hard_P] > 0)(0.2)
    assert not off_P2.min(axis=1)[hard_P].any()
    assert share([pair.label == "a" for pair in pairs])(0.5)


@pytest.fixture(scope="module")
def off_P2(pairs: list[Pair], problems: Problems) -> np.ndarray:
    """How far both answers are from the truth."""
    truth_P = true_items(problems)[np.arange(SIZE), 2 * problems.n_operands_P - 1]
    given = [[int(answer.removesuffix(".")) for answer in (pair.answer_a, pair.answer_b)] for pair in pairs]
    return np.abs(np.array(given) - truth_P[:, None])


def test_the_better_answer_is_nearer_by_two_and_the_label_errs_where_it_is_said(
    pairs: list[Pair], problems: Problems, off_P2: np.ndarray
) -> None:
    assert set(off_P2.min(axis=1)) == {0, 1}
    assert (off_P2.max(axis=1) - off_P2.min(axis=1)).min() == APART == 2
    for row, pair in enumerate(pairs):
        assert pair.prompt == question_text(problems, row)
        assert pair.source == KINDS[problems.kind_P[row]]
        assert ("ab"[off_P2[row].argmin()] == pair.label) != pair.flipped


def test_a_trace_tells_the_truth_whatever_the_label_says(
    pairs: list[Pair], problems: Problems, off_P2: np.ndarray
) -> None:
    judge, flipped, nearer = JudgeSettings(), 0, 0
    for row, pair in enumerate(pairs):
        if pair.trace is None:
            continue
        flipped += bool(pair.flipped)
        *solution, verdict = pair.trace.split("\n")
        better = "AB"[off_P2[row].argmin()]
        assert judge.verdict_of(pair.trace) == better
        assert verdict == f"The better answer is {better}."
        if off_P2[row].all():
            nearer += 1
            assert solution.pop() == f"{better} is nearer."
        for name, answer, off in zip("BA", (pair.answer_b, pair.answer_a), reversed(off_P2[row]), strict=True):
            assert solution.pop() == f"{name}: The answer is {answer} ? {'No' if off else 'Yes'}"
        names, heights = problems.colour_PB[row], problems.height_PB[row]
        read = [f"{NAMES[names[bar]]} is {heights[bar]}." for bar in problems.operand_PO[row] if bar >= 0]
        assert solution[: len(read)] == read
        assert solution[-1] == f"The answer is {true_items(problems)[row, 2 * problems.n_operands_P[row] - 1]}."
    assert flipped > 0
    assert nearer > 10


def test_only_the_charts_of_hard_pairs_are_drawn_sloppily(
    folder: Path, pairs: list[Pair], hard_P: np.ndarray, problems: Problems
) -> None:
    exact = draw(problems)
    lifts = []
    for row, pair in enumerate(pairs):
        pixels = np.asarray(Image.open(component(folder).image_folder.path(pair.images[0])))
        heights_B, exact_B = ((image[:, 7::14] < 255).any(axis=-1).sum(axis=0) for image in (pixels, exact[row]))
        assert (pixels == exact[row]).all() or hard_P[row]
        lifts += (heights_B - exact_B)[exact_B > 0].tolist() if hard_P[row] else []
    assert set(lifts) == set(range(-SLOPPY, SLOPPY + 1))
    assert np.mean(lifts) == pytest.approx(0, abs=0.35)


def test_wrong_answers_of_hard_pairs_come_from_readings_alone(plus_minus: Problems) -> None:
    """red 4 plus blue 7 minus green 2: misread at most 7 + 8 - 1, at least 2 + 2 - 7; with a minus for the plus -5."""
    many, off_P = plus_minus.take(np.zeros(600, int)), np.full(600, 2)
    hard_P, ordinary_P = (
        wrong_answers(many, np.full(600, hard), off_P, np.random.default_rng(0)) for hard in (True, False)
    )
    for answers_P in (hard_P, ordinary_P):
        assert not {8, 9, 10} & {*answers_P}
        assert set(answers_P) >= {7, 11}
    assert set(hard_P) <= {*range(-3, 15)}
    assert -5 in ordinary_P


def test_the_benchmark_asks_about_charts_of_its_own_part_and_its_labels_are_right(tmp_path: Path) -> None:
    benchmark = ChartWorldRewardBenchmark(path=str(tmp_path / "benchmark" / "pairs.jsonl"), size=40)
    asked = sample_part(np.random.default_rng([5000, 40]), 40, "benchmark")
    read = [pair for pair in benchmark.records() if isinstance(pair, Pair)]
    assert [pair.prompt for pair in read] == [question_text(asked, row) for row in range(40)]
    assert {(pair.trace, pair.flipped) for pair in read} == {(None, False)}
    assert {pair.label for pair in read} == {"a", "b"}


def test_the_same_settings_write_the_same_bytes_and_others_are_refused(folder: Path, tmp_path: Path) -> None:
    def written(name: str, **settings: Any) -> list[bytes]:
        component(tmp_path / name, size=30, **settings).records()
        return [(tmp_path / name / file).read_bytes() for file in ("pairs.jsonl", "images/0.png", "images/29.png")]

    first = written("first")
    assert written("again") == first
    assert all(one != other for one, other in zip(written("other", world_seed=4_001), first, strict=True))
    traced = written("traced", traced=1.0)
    assert traced[0].count(b'"trace"') == 30
    assert written("certain", hard=0.0, flipped=0.0)[0].count(b'"flipped": true') == 0
    for settings in ({"size": 20}, {"hard": 0.5}, {"world_seed": 1}):
        with pytest.raises(
            ValueError, match=r"\A.*pairs holds a world of other settings; delete it, or give another .*"
        ):
            component(folder, **settings).records()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"size": 0}, r"size=0 is not positive; try 1000"),
        ({"hard": -0.1}, r"hard=-0\.1 is not a share, 0 to 1"),
        ({"flipped": 1.5}, r"flipped=1\.5 is not a share, 0 to 1"),
        ({"flipped_hard": float("nan")}, r"flipped_hard=nan is not a share, 0 to 1"),
        ({"neither": 1.1}, r"neither=1\.1 is not a share, 0 to 1"),
        ({"traced": 2}, r"traced=2 is not a share, 0 to 1"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], line: str) -> None:
    for group, of in (("preferences", ChartWorldPairs), ("reward_benchmark", ChartWorldRewardBenchmark)):
        with pytest.raises(ValueError, match=rf"\A{group}\.{line}\Z"):
            of(path="unused.jsonl", **settings)
    with pytest.raises(ValueError, match=r"\Apreferences\.path is not set; give the file to write"):
        ChartWorldPairs().records()
