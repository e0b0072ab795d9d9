"""ProcessBench's F1, against an implementation of its own that looks at one solution after the other."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.metrics.evaluate import evaluate, measure, step_measures
from mprm.metrics.first_errors import FirstErrors, first_error_shares
from mprm.metrics.predictions import Prediction
from mprm.metrics.results import read_results, write_results
from mprm.metrics.step_metrics import labelled_steps

Given = tuple[str, int, list[float]]  # source, index of the first wrong step or -1, scores


def prediction(number: int, source: str, first: int, scores: list[float]) -> Prediction:
    labels = [1] * len(scores) if first == -1 else [1] * first + [-1] + [0] * (len(scores) - first - 1)
    return Prediction(f"{number:03d}", source, tuple(labels), tuple(scores))


def by_hand(solutions: list[Given], threshold: float) -> tuple[float | None, dict[str, float | None]]:
    """The mean F1, and that of every source: prediction = index of the first step below the threshold, or -1."""
    of_sources = {}
    for source in sorted({source for source, _, _ in solutions}):
        matches: dict[bool, list[bool]] = {True: [], False: []}
        for name, label, scores in solutions:
            if name == source:
                below = [place for place, score in enumerate(scores) if score < threshold]
                matches[label != -1].append((below[0] if below else -1) == label)
        if not matches[True] or not matches[False]:
            of_sources[source] = None
            continue
        wrong, right = (sum(found) / len(found) for found in (matches[True], matches[False]))
        of_sources[source] = 2 * wrong * right / (wrong + right) if wrong + right else 0.0
    known = [f1 for f1 in of_sources.values() if f1 is not None]
    return sum(known) / len(known) if known else None, of_sources


@st.composite
def solution(draw: st.DrawFn) -> Given:
    scores = draw(st.lists(st.integers(0, 4).map(lambda k: k / 4), min_size=1, max_size=5))  # many ties
    return draw(st.sampled_from("xyz")), draw(st.integers(-1, len(scores) - 1)), scores


def found_at(results: object, name: str = "fixed") -> FirstErrors:
    found = results.thresholds[name].first_errors  # type: ignore[attr-defined]
    assert found is not None
    return found


@settings(max_examples=60)
@given(st.lists(solution(), min_size=1, max_size=12), st.sampled_from([0.0, 0.25, 0.5, 0.6, 1.0]))
def test_it_is_what_counting_by_hand_gives(solutions: list[Given], threshold: float) -> None:
    predictions = [prediction(number, *one) for number, one in enumerate(solutions)]
    # a solution of which nothing is judged counts nowhere
    more = [*predictions, Prediction("~", "x", (0, 0), (0.1, 0.9))]
    results = measure(more, threshold, resamples=3)
    if all(first == -1 for _, first, _ in solutions):
        assert results.thresholds["fixed"].first_errors is None
        return
    mean, of_sources = by_hand(solutions, threshold)
    found = found_at(results)
    assert (found.f1 and found.f1.value) == (None if mean is None else pytest.approx(mean, abs=1e-12))
    assert found.per_source.keys() == of_sources.keys()
    for name, f1 in of_sources.items():
        part = found.per_source[name]
        assert (part.f1 and part.f1.value) == (None if f1 is None else pytest.approx(f1, abs=1e-12))
        assert part.n_wrong == sum(source == name and first != -1 for source, first, _ in solutions)
        assert part.n_right == sum(source == name and first == -1 for source, first, _ in solutions)


WORKED = [
    ("a", 1, [0.9, 0.2, 0.9]),  # found
    ("a", 1, [0.2, 0.2]),  # too early
    ("a", -1, [0.9, 0.5]),  # accepted
    ("b", 0, [0.9, 0.1]),  # too late
    ("b", -1, [0.9]),  # accepted
    ("b", -1, [0.4]),  # false alarm
]


def test_worked(tmp_path: object) -> None:
    predictions = [prediction(number, *one) for number, one in enumerate(WORKED)]
    results = measure(predictions, 0.5, resamples=50)
    found = found_at(results)
    a, b = found.per_source["a"], found.per_source["b"]
    assert (a.found.value, a.accepted.value, a.f1.value) == (0.5, 1.0, pytest.approx(2 / 3))
    assert (b.found.value, b.accepted.value, b.f1.value) == (0.0, 0.5, 0.0)
    assert found.f1.value == pytest.approx(1 / 3)
    assert found.f1.low <= found.f1.value <= found.f1.high
    write_results(f"{tmp_path}/results.json", results)
    assert read_results(f"{tmp_path}/results.json") == results


def test_other_benchmarks_have_none() -> None:
    predictions = [prediction(number, *one) for number, one in enumerate(WORKED)]
    for labels in ((1, -1, 1), (-1, 0, 1), (1, -1, -1)):
        other = [*predictions, Prediction("~", "a", labels, (0.9, 0.9, 0.9))]
        assert measure(other, 0.5, resamples=2).thresholds["fixed"].first_errors is None
        assert not any(name.startswith("first_error_f1") for name in step_measures(other, None, None, 2))


def test_at_every_threshold_and_in_every_resample() -> None:
    rng = np.random.default_rng(0)
    solutions = [("xy"[k % 2], int(rng.integers(-1, 3)), rng.random(3).round(1).tolist()) for k in range(40)]
    predictions = [prediction(number, *one) for number, one in enumerate(solutions)]
    results = evaluate(predictions, predictions[:20], resamples=20)
    for name, part in results.thresholds.items():
        mean, _ = by_hand(solutions, part.threshold)
        assert found_at(results, name).f1.value == pytest.approx(mean)
    measures = step_measures(predictions, predictions[:20], None, 20)
    assert measures["first_error_f1"].value == found_at(results, "fitted").f1.value
    assert measures["first_error_f1_fixed"].value == found_at(results, "fixed").f1.value
    # a resample is its solutions written out again
    weights_BS = np.stack([np.ones(40), rng.multinomial(40, np.full(40, 1 / 40))])
    shares_BG2 = first_error_shares(labelled_steps(predictions), np.full(2, 0.5), weights_BS)
    drawn = [
        replace(one, id=f"{one.id}-{k}")
        for one, times in zip(predictions, weights_BS[1].astype(int), strict=True)
        for k in range(times)
    ]
    again = first_error_shares(labelled_steps(drawn), np.full(1, 0.5), np.ones((1, len(drawn))))
    assert np.allclose(shares_BG2[1], again[0])
    assert not math.isnan(shares_BG2.sum())
