"""From run folders to verdicts: the predictions of the runs answer the questions that their numbers raise."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from mprm.metrics.evaluate import evaluate
from mprm.metrics.predictions import Prediction, write_predictions
from mprm.metrics.results import write_results
from mprm.reporting.compare import compare, run_folders
from mprm.runs.artifacts import write_json, write_text
from mprm.runs.sweep_state import SweepJob, begin_sweep
from mprm.stages.comparison import compare_pairs, compare_runs

SELECTORS = {
    "BIS": {"_target_": "mprm.selection.bis.BIS", "alpha": 0.2, "ratio": 0.1},
    "Random": {"_target_": "mprm.selection.baselines.Random", "ratio": 0.1},
    "Full": {"_target_": "mprm.selection.baselines.Full", "ratio": 1.0},
}
SHARPNESS = {"BIS": 3.0, "Random": 0.5, "Full": 3.0}  # of the scores: how well they tell right steps from wrong ones


def write_run(folder: Path, selector: str, seed: int) -> None:
    """A finished run whose predictions are drawn, and measured as an evaluation measures them."""
    rng = np.random.default_rng(7)  # one benchmark
    labels = [tuple(int(label) for label in rng.choice([1, 1, -1], 6)) for _ in range(60)]
    noise = np.random.default_rng([seed, len(selector)])
    predictions = [
        Prediction(
            id=str(i),
            source="ab"[i % 2],
            labels=of_one,
            scores=tuple(1 / (1 + np.exp(-SHARPNESS[selector] * np.array(of_one) - noise.normal(0, 1.5, 6)))),
        )
        for i, of_one in enumerate(labels)
    ]
    config = {"seed": seed, "selector": SELECTORS[selector]}
    kept = {"rollouts": 1000 if selector == "Full" else 100, "steps": 1}
    totals = {"eligible": {"rollouts": 1000, "steps": 1}, "kept": kept}
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    write_json(folder / "subset" / "manifest.json", {"totals": totals, "sources": {}, "dropped": {}, "data_hash": "x"})
    write_json(folder / "stages.json", {"config_hash": "", "stages": {}})
    write_results(folder / "results.json", evaluate(predictions, None, seed, resamples=50))
    write_predictions(folder / "predictions.jsonl", predictions)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for selector in SELECTORS:
        for seed in (0, 1, 2):
            write_run(tmp_path / f"{selector}-{seed}", selector, seed)
    return tmp_path


def test_a_real_difference_is_told_from_none(runs: Path) -> None:
    verdicts = compare_pairs(compare(run_folders(runs)))
    outcomes = {
        (one.question.a.selector, one.question.b.selector): (one.outcome, one.differences[0].seeds) for one in verdicts
    }
    seeds = (0, 1, 2)
    between = next(pair for pair in outcomes if set(pair) == {"BIS", "Full"})
    assert outcomes == {("BIS", "Random"): ("better", seeds), between: ("not distinguishable", seeds)}


def test_a_pair_that_can_not_be_compared_is_answered_with_the_reason(runs: Path) -> None:
    lines = (runs / "Random-1" / "predictions.jsonl").read_text().splitlines()
    (runs / "Random-1" / "predictions.jsonl").write_text("\n".join(lines[1:]) + "\n")
    verdicts = compare_pairs(compare(run_folders(runs)))
    (against_random,) = [one for one in verdicts if one.question.b.selector == "Random"]
    assert against_random.outcome == "not comparable"
    assert "differ (1, e.g. '0')" in against_random.words


def test_a_multirun_reports_its_own_points_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = [SweepJob(overrides=f"s={seed}", label="x", name=f"BIS-{seed}", state="done") for seed in (0, 1, 2)]
    begin_sweep(runs, own)

    compare_runs(runs, own=True)
    assert "Random" not in capsys.readouterr().out
    assert (runs / "comparison.csv").read_text().count("\n") == 2
    compare_runs(runs)
    assert "Random" in capsys.readouterr().out
