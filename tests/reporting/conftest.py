"""A run folder as the other rooms write it, from invented numbers."""

import base64
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import ndtri

from mprm.metrics.estimate import Estimate
from mprm.metrics.results import SourceResults, StepResults, ThresholdResults, write_results
from mprm.reporting.kinds import KINDS, Measured
from mprm.reporting.run_record import Example
from mprm.reporting.settings import Group, Run, Selection, Setting
from mprm.reporting.style import styled
from mprm.runs.manifest import AllPositive, Chosen, Manifest, SourceCounts, Statistics, Totals

SOURCES = ("bars_sum", "bars_diff", "pie_share")
SelectorFields = dict[str, Any]
BIS: SelectorFields = {"_target_": "mprm.selection.bis.BIS", "alpha": 0.2, "ratio": 0.1, "count": None}


def invented_signals(n: int, rng: np.random.Generator) -> pa.Table:
    """n rollouts of steps with MC scores K/16, about one in twelve mixed; every fiftieth record is dropped."""
    n_steps = rng.integers(3, 10, n)
    rate = rng.beta(9, 1.3, n)
    fails = np.where(rng.random(n) < 0.1, (n_steps * rng.random(n)).astype(int), n_steps)
    rows: dict[str, list[Any]] = {name: [] for name in ("n", "n_pos", "p_pos", "reliability", "mean_mc")}
    for steps, chance, first_wrong in zip(n_steps, rate, fails, strict=True):
        scores = rng.binomial(16, np.where(np.arange(steps) < first_wrong, chance, 0.01)) / 16
        positive = scores[scores > 0]
        rows["n"].append(int(steps))
        rows["n_pos"].append(len(positive))
        rows["p_pos"].append(len(positive) / steps)
        rows["reliability"].append(positive.mean() if len(positive) else 1.0)
        rows["mean_mc"].append(scores.mean())
    reasons = pa.array([None if i % 50 else "no_steps" for i in range(n)], pa.string())
    source = pa.array([SOURCES[i * len(SOURCES) // n] for i in range(n)])
    return pa.table(
        {"source": source, "line": np.arange(n, dtype=np.int32), **rows, "drop_reason": reasons.dictionary_encode()}
    ).append_column("ranked", reasons.is_null())


def invented_manifest(selector: SelectorFields, signals: pa.Table, kept: pa.Table, path: Path) -> Manifest:
    """The manifest of a selection; the statistics beside the counts are constants."""
    candidates = signals.num_rows - signals.num_rows // 50
    constants = {
        "steps_per_rollout": 5.62,
        "words_per_step": 27.8,
        "error_step_share": 0.0357,
        "mean_mc": 0.8566,
        "unsampled_share": 0.0,
        "unsampled_negative_share": 0.0,
    }
    name = str(selector["_target_"]).rpartition(".")[2]
    label = f"{name} (alpha {selector['alpha']:g})" if "alpha" in selector else name
    counts = SourceCounts(
        records=signals.num_rows,
        dropped=signals.num_rows // 50,
        eligible=candidates,
        kept=kept.num_rows,
        realised_ratio=kept.num_rows / candidates,
    )
    return Manifest(
        seed=0,
        data_hash="3fa9",
        dataset=Chosen(name="VisualPRM400K", label="VisualPRM400K", settings={}),
        selector=Chosen(name=name, label=label, baseline=name in ("Full", "Random"), settings=selector),
        sources={"all_bars": counts},
        dropped={"no_steps": signals.num_rows // 50},
        totals=Totals(
            eligible=Statistics(rollouts=candidates, steps=5 * candidates, mixed_share=0.0767, **constants),
            kept=Statistics(rollouts=kept.num_rows, steps=6 * kept.num_rows, mixed_share=0.4321, **constants),
            eligible_all_positive=all_positive(candidates // 2, 5.0),
            kept_all_positive=all_positive(kept.num_rows // 2, 3.0, tie_size=7),
        ),
        signals=str(path),
    )


def all_positive(rollouts: int, steps: float, tie_size: float | None = None) -> AllPositive:
    return AllPositive(
        rollouts=rollouts,
        steps=steps,
        steps_deviation=2.0,
        question_words=20.0,
        question_words_deviation=5.0,
        unsampled_share=0.01,
        tie_size=tie_size,
        sources={"all_bars": rollouts},
    )


def estimate(value: float, spread: float = 0.015) -> Estimate:
    return Estimate(value, value - spread, value + spread)


def at_threshold(threshold: float, f1: float, auc: float) -> ThresholdResults:
    """What an evaluation says at one threshold, with an overall macro-F1 of `f1`; sources lie 3 points apart."""
    per_source = {
        source: SourceResults(
            macro_f1=estimate(f1 + 0.03 * (i - 1), 0.03),
            f1_positive=f1 + 0.1,
            f1_negative=f1 - 0.1,
            counts={},
            n=300 + i,
        )
        for i, source in enumerate(SOURCES)
    }
    return ThresholdResults(
        threshold=threshold,
        threshold_from="invented",
        auc=estimate(auc, 0.011),
        overall_step_weighted_macro_f1=estimate(f1),
        pooled_macro_f1=estimate(f1 - 0.002),
        pooled_f1_positive=f1 + 0.1,
        pooled_f1_negative=f1 - 0.1,
        classical_micro_f1=f1,
        first_error_accuracy=estimate(0.612, 0.03),
        first_error_f1=0.6,
        confusion={"tp": 700, "fp": 0, "fn": 203, "tn": 0},
        total_steps=903,
        per_source=per_source,
    )


def invented_results(f1: float, auc: float, benchmark: str = "b" * 64) -> StepResults:
    """Results with this F1 at the fitted threshold and this AUC; at 0.5 it is 0.01 less, at the best one 0.02 more."""
    thresholds = {"fitted": (0.43, f1), "fixed": (0.5, f1 - 0.01), "optimistic": (0.4712, f1 + 0.02)}
    return StepResults(
        n_solutions=120,
        n_steps=903,
        n_neutral_steps=0,
        auc=estimate(auc, 0.011),
        average_precision=estimate(0.7),
        ece=0.0712,
        ece_bins=15,
        brier=0.1234,
        resamples=1000,
        error_rate=None,
        thresholds={name: at_threshold(*at, auc) for name, at in thresholds.items()},
        baselines={"majority": at_threshold(0.5, 0.4123, auc), "position_only": at_threshold(0.5, 0.5512, auc)},
        benchmark_hash=benchmark,
    )


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    selector: SelectorFields = BIS,
    f1: float = 0.8,
    auc: float = 0.893,
    n: int = 1000,
    benchmark: str = "b" * 64,
    **groups: Any,
) -> Path:
    """Write a finished run folder; its signals table lies beside it, as the cache does. groups: of its config."""
    rng = np.random.default_rng(seed)
    signals = invented_signals(n, rng)
    eligible = signals.filter(signals["ranked"])
    p, r = eligible["p_pos"].to_numpy(), eligible["reliability"].to_numpy()
    score = (p * (1 - p) + selector["alpha"]) * r if "alpha" in selector else rng.random(len(p))
    chosen = np.sort(np.argsort(-score, kind="stable")[: int(len(p) * (selector["ratio"] or 1))])
    kept = eligible.take(chosen).append_column("score", pa.array(score[chosen]))
    (folder / "subset").mkdir(parents=True)
    cache = folder.with_name(f"{folder.name}-signals.parquet")
    pq.write_table(signals, cache)
    pq.write_table(kept, folder / "subset" / "kept.parquet")
    config = {
        "seed": seed,
        "name": folder.name,
        "selector": selector,
        "objective": {"_target_": "mprm.x.Hard", "tau": 0.0},
    } | groups
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "versions.json").write_text(json.dumps({"mprm": "0.1.0", "torch": "2.13.0"}))
    invented_manifest(selector, signals, kept, cache).write(folder / "subset" / "manifest.json")
    write_results(folder / "results.json", invented_results(f1, auc, benchmark))
    _write_lines(folder / "metrics.jsonl", _invented_metrics(rng))
    for name, of_labels in (("predictions", 7), ("validation_predictions", 8)):
        _write_lines(folder / f"{name}.jsonl", _invented_predictions(of_labels, seed, auc))
    (folder / "examples.json").write_text(json.dumps([asdict(one) for one in invented_examples()]))
    return folder


def _invented_metrics(rng: np.random.Generator) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, 121):
        done = 1 - np.exp(-step / 40)
        noise = float(rng.normal(0, 0.02))
        lines.append({"step": step, "rollouts": 8 * step, "train/loss": 0.7 - 0.4 * done + noise, "lr": 1e-3})
        lines[-1]["train/step_accuracy"] = 0.55 + 0.3 * done - noise
        if step % 20 == 0:
            validation = {"val/loss": 0.72 - 0.38 * done, "val/step_accuracy": 0.53 + 0.3 * done}
            lines.append({"step": step, "rollouts": 8 * step, **validation, "val/auc": 0.5 + 0.39 * done})
    return lines


def _invented_predictions(of_labels: int, seed: int, auc: float) -> list[dict[str, Any]]:
    """About the AUC; of two runs with one seed the higher one has the higher AUC."""
    lines, labels_rng, rng = [], np.random.default_rng(of_labels), np.random.default_rng([seed, of_labels])
    apart = 2**0.5 * float(ndtri(auc))
    for i in range(120):
        labels = np.where(labels_rng.random(7) < 0.3, -1, 1)
        scores = 1 / (1 + np.exp(-(apart * labels / 2 + 0.5 + rng.normal(0, 1, 7))))
        lines.append({"id": str(i), "source": SOURCES[i % 3], "labels": labels.tolist(), "scores": scores.tolist()})
    return lines


def invented_examples() -> list[Example]:
    """Two solutions with a picture each."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "white").save(buffer, "WEBP")
    picture = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return [
        Example(
            why=why,
            id=str(number),
            source="bars_sum",
            question="What is <5> + 5?",
            steps=["The bars are 5 and 5.", "So the sum is 11.", "The answer is 11."],
            labels=[1, -1, 0],
            scores=scores,
            pictures=[picture],
        )
        for number, (why, scores) in enumerate(
            (("First error found", [0.9, 0.1, 0.2]), ("False alarm", [0.2, 0.8, 0.7]))
        )
    ]


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One finished run folder."""
    return write_run(tmp_path / "runs" / "bis-demo")


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """write_run, for tests that need several."""
    return write_run


BASELINES = "mprm.selection.baselines."


@pytest.fixture(scope="session")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a sweep could leave: Full, and BIS with two alphas, Random and Mixed at two ratios; two seeds.

    Read only: tests that write copy it first.
    """
    runs = tmp_path_factory.mktemp("many") / "runs"
    settings: list[tuple[str, SelectorFields, float]] = [("full", {"_target_": f"{BASELINES}Full", "ratio": 1.0}, 0.9)]
    for ratio in (0.05, 0.5):
        for name in ("Random", "Mixed"):
            fields = {"_target_": BASELINES + name, "ratio": ratio}
            settings.append((f"{name.lower()}-{ratio}", fields, 0.85 - 0.1 * (name == "Mixed") + 0.05 * ratio))
        for alpha in (0.05, 0.2):
            settings.append((f"bis-{alpha}-{ratio}", BIS | {"alpha": alpha, "ratio": ratio}, 0.86 + alpha / 10))
    for name, fields, auc in settings:
        for seed in (0, 1):
            _finish(write_run(runs / f"{name}-{seed}", seed=seed, selector=fields, f1=auc - 0.1, auc=auc, n=400))
    return runs


def _finish(run: Path) -> None:
    """Give an invented run the seconds of its training and its stages."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    _write_lines(run / "metrics.jsonl", [line | {"seconds": 0.5 * line["step"]} for line in lines])
    stages = {
        "select": {"seconds": 0.25},
        "train": {"optimizer_steps": 120, "rollouts": 960, "seconds": 60.5},
        "evaluate": {"seconds": 1030.0},
    }
    (run / "stages.json").write_text(json.dumps({"format": 3, "config_hash": "x", "stages": stages}))


MakeSetting = Callable[..., Setting]


@pytest.fixture(scope="session")
def make_setting() -> MakeSetting:
    """make_setting("BIS", 0.1, 0.85, alpha=0.2): a setting with a run per AUC, without a folder."""

    def make(name: str, ratio: float | None, *aucs: float | None, other: str = "", **fields: float) -> Setting:
        words = "".join(f" ({key} {value:g})" for key, value in fields.items())
        selection = Selection(
            name=name,
            label=f"{name}{words}",
            baseline=name in ("Random", "Full"),
            fields=fields,
            kept=100,
            eligible=1000,
        )
        asked = {"_target_": f"mine.{name}", "ratio": ratio, **fields}
        runs = []
        for seed, auc in enumerate(aucs):
            numbers = {} if auc is None else {"auc": estimate(auc), "f1_fixed": estimate(auc - 0.1)}
            measured = Measured(content={"benchmark": "b"}, numbers=dict(numbers))
            config = {"seed": seed, "selector": asked} | ({"objective": {"_target_": other}} if other else {})
            folder = Path(f"{name}-{seed}")
            results = invented_results(0.8, 0.8)
            runs.append(
                Run(
                    folder=folder,
                    name=folder.name,
                    trained=folder,
                    config=config,
                    results=results,
                    measured=measured,
                    selection=selection,
                )
            )
        return Setting(runs=tuple(runs), other=other)

    return make


@pytest.fixture(scope="session")
def make_group() -> Callable[..., Group]:
    """make_group(setting, ...): of step scorers."""

    def make(*settings: Setting) -> Group:
        return Group(kind=KINDS["steps"], content={"benchmark": "b"}, settings=settings)

    return make


@pytest.fixture(scope="session")
def assert_readable() -> Callable[[Figure], None]:
    """Fails where something leaves a figure, or a title of a panel covers another."""

    def check(figure: Figure) -> None:
        with styled(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="constrained_layout")
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0) > -0.03, box
        assert box.x1 < width + 0.03, (box, width)
        assert box.y1 < height + 0.03, (box, height)
        titles = [title.get_window_extent() for axes in figure.axes for title in (axes.title, axes._left_title)]
        titles = [title for title in titles if title.width > 0]
        assert not any(one.overlaps(other) for one, other in combinations(titles, 2))

    return check
