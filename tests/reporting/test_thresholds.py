"""F1 against the threshold (thresholds.py)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from mprm.metrics.evaluate import evaluate
from mprm.metrics.predictions import Prediction
from mprm.metrics.step_metrics import labelled_steps
from mprm.reporting.settings import compare, run_folders
from mprm.reporting.thresholds import Scored, selectors_figure, threshold_figure


def scored(shift: float) -> Scored:
    """Two hundred steps whose log odds are shifted: the same ranking at another threshold."""
    rng = np.random.default_rng(0)
    predictions = []
    for number in range(40):
        labels = np.where(rng.random(5) < 0.3, -1, 1)
        scores = 1 / (1 + np.exp(-(labels + rng.normal(0, 1, 5) + shift)))
        predictions.append(Prediction(str(number), "s", tuple(labels.tolist()), tuple(scores.tolist())))
    return Scored(labelled_steps(predictions), evaluate(predictions, predictions, resamples=10).thresholds)


def test_the_same_ranking_is_the_same_line_elsewhere(assert_readable: Callable[[Drawing], None]) -> None:
    lines = {"low": [scored(0.0)], "high": [scored(3.0)]}
    looks = {"low": {"color": "#000000", "marker": "o"}, "high": {"color": "#888888", "marker": "s"}}
    figure = threshold_figure(lines, looks, {"majority class": 41.2})
    axes = figure.drawing.axes[0]
    drawn = {str(line.get_label()): line for line in axes.lines}
    low, high = (np.asarray(drawn[name].get_ydata()) for name in lines)
    assert max(low) == pytest.approx(max(high), abs=1.5)
    at_half = int(np.abs(np.asarray(drawn["low"].get_xdata())).argmin())
    assert low[at_half] > high[at_half] + 10, "at 0.5 the shifted one looks worse"
    assert list(drawn["threshold 0.5"].get_xdata()) == [0, 0]
    assert list(drawn["majority class"].get_ydata()) == [41.2, 41.2]
    for name, (one,) in lines.items():
        # The marker stands at the fitted threshold, on the line.
        x, y = (np.asarray(values) for values in drawn[name].get_data())
        (mark,) = drawn[name].get_markevery()
        assert y[mark] == pytest.approx(100 * one.f1("fitted"), abs=1.5)
        assert 1 / (1 + np.exp(-x[mark])) == pytest.approx(one.thresholds["fitted"].threshold, abs=0.03)
        assert f"{name}: {100 * one.f1('fixed'):.1f} at 0.5, {100 * one.f1('fitted'):.1f} at the fitted" in figure.alt
    assert_readable(figure.drawing)


def test_one_line_per_selector_of_its_best_setting(many_runs: Path) -> None:
    (group,) = compare(run_folders(many_runs)).groups
    figure = selectors_figure(group)
    assert figure is not None
    assert figure.data is not None
    ranked = [one.label for one in group.ranked(group.measures[0])]
    names = list(dict.fromkeys(row[0] for row in figure.data.rows))
    assert sorted(name.split(",")[0].split(" ")[0] for name in names) == ["BIS", "Full", "Mixed", "Random"]
    assert names == sorted(names, key=ranked.index)
    assert names[0] == ranked[0]
