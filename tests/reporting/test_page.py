import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import mprm.reporting
from mprm.metrics.evaluate import evaluate
from mprm.metrics.predictions import read_predictions
from mprm.metrics.results import write_results
from mprm.reporting.collect import read_run
from mprm.reporting.page import write_report
from mprm.reporting.plots import calibration_bins

VOID = {"meta", "br", "hr", "img", "link"}


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in order; collects ids, references and the visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.references += [value for name, value in attrs if name in ("href", "xlink:href", "src") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(path: Path) -> Balanced:
    page = Balanced()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> Path:
    """The page of a finished run, beside which the run still lies."""
    run = make_run(tmp_path_factory.mktemp("written") / "runs" / "bis-demo")
    path = write_report(run)
    assert path == run / "report.html"
    return path


def test_page_is_whole_and_needs_nothing_from_outside(written: Path) -> None:
    page = parse(written)
    assert page.tags.count("svg") == 5
    assert len(page.ids) == len(set(page.ids))
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    text = written.read_text()
    assert set(re.findall(r"https?://[^/\"]+", text)) <= {"http://www.w3.org"}
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert all(f"#{target}" in page.references or target in page.ids for target in re.findall(r"url\(#([^)]*)\)", text))


def test_every_figure_has_a_text_alternative(written: Path) -> None:
    page = parse(written)
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert len(labels) == page.tags.count("figure") == page.tags.count("figcaption") == 5
    assert all(label and len(label) > 40 for label in labels)


def test_page_holds_the_numbers_of_the_results(written: Path) -> None:
    text = parse(written).text
    results = json.loads(written.with_name("results.json").read_text())
    for part in (*results["thresholds"].values(), *results["baselines"].values()):
        for key in ("overall_step_weighted_macro_f1", "pooled_macro_f1"):
            assert f"{100 * part[key]:.1f}" in text
    for source, numbers in results["thresholds"]["fixed"]["per_source"].items():
        low, high = results["thresholds"]["fixed"]["intervals"]["per_source"][source]
        assert f"{100 * numbers['macro_f1']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in text
    for shown in (
        "0.893 [0.882, 0.905]",
        "0.071",
        "0.123",
        "61.2 [58.0, 64.0]",
        "903",
        "0.430",
        "0.471",
        "0.8566",
        "43.21",
    ):
        assert shown in text
    assert "98 of 980 rollouts (10.0 %)" in text
    assert "oracle (optimistic)" in text


def test_headline_says_what_was_found(written: Path) -> None:
    text = parse(written).text
    assert (
        "BIS (alpha 0.2) kept 98 of 980 rollouts (10.0 %). The reward model trained on them reaches an "
        "overall macro-F1 of 80.0 [78.5, 81.4] at the threshold 0.5 and an AUC of "
        "0.893 [0.882, 0.905]; for comparison, majority class 41.2 and position only 55.1." in text
    )


def test_without_a_calibrated_threshold_it_is_not_spoken_of(run: Path) -> None:
    edit(run / "results.json", lambda results: results["thresholds"].update(calibrated=None))
    assert "calibrated on held-out questions" not in parse(write_report(run)).text


def test_results_as_the_evaluation_writes_them(run: Path) -> None:
    predictions = read_predictions(run / "predictions.jsonl")
    results = evaluate(predictions, predictions[:30], seed=0, resamples=50)
    write_results(run / "results.json", results)
    page = parse(write_report(run))
    assert page.tags.count("svg") == 5
    for name in ("fixed", "calibrated", "oracle"):
        assert results.thresholds[name].pooled_macro_f1.points() in page.text
    assert results.auc
    assert results.auc.fraction() in page.text
    assert f"{100 * results.baselines['position_only'].overall_step_weighted_macro_f1.value:.1f}" in page.text


def test_the_bins_shown_are_those_of_the_calibration_error(run: Path) -> None:
    predictions = read_predictions(run / "predictions.jsonl")
    results = evaluate(predictions, None, seed=0, resamples=2)
    scored = read_run(run).scored
    assert scored is not None
    score, share, count = calibration_bins(*scored, results.ece_bins)
    assert float(np.abs(score - share) @ count / count.sum()) == pytest.approx(results.ece)


def test_an_untrained_run_claims_no_training(run: Path) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write("recipe: {epochs: 0}\n")
    text = parse(write_report(run)).text
    assert "The untrained backbone reaches an overall macro-F1" in text
    assert "trained on them" not in text


def test_undefined_numbers_are_a_dash(run: Path) -> None:
    def undefine(results: dict[str, Any]) -> None:
        results.update(auc=None, ece=None, brier=None, intervals={"auc": None})
        results["thresholds"]["fixed"]["intervals"]["per_source"]["bars_sum"] = None

    edit(run / "results.json", undefine)
    page = parse(write_report(run))
    assert "AUC-" in page.text
    assert "bars_sum30077.090.0" in page.text
    assert page.tags.count("svg") == 4


@pytest.mark.parametrize(
    ("gone", "svgs"),
    [
        (["results.json", "predictions.jsonl"], 3),
        (["metrics.jsonl"], 4),
        (["predictions.jsonl"], 4),
        (["subset/kept.parquet"], 3),
        (["subset/manifest.json"], 3),
        (["config.yaml", "versions.json"], 5),
        (["config.yaml", "versions.json", "subset/manifest.json", "results.json", "metrics.jsonl"], 0),
    ],
)
def test_an_unfinished_run_shows_what_it_has(run: Path, gone: list[str], svgs: int) -> None:
    for name in gone:
        (run / name).unlink()
    assert parse(write_report(run)).tags.count("svg") == svgs


def test_a_missing_signals_table_is_said(run: Path) -> None:
    run.with_name(f"{run.name}-signals.parquet").unlink()
    assert "signals table that the manifest names is no longer there" in parse(write_report(run)).text


def test_hostile_texts_are_escaped(run: Path) -> None:
    hostile = "</pre><script>alert('x')</script>\"&"

    def poison(results: dict[str, Any]) -> None:
        for part in (results["thresholds"]["fixed"], results["thresholds"]["calibrated"]):
            part["per_source"][hostile] = part["per_source"].pop("bars_sum")
        results["skipped"] = {hostile: 2}

    edit(run / "results.json", poison)
    edit(run / "subset" / "manifest.json", lambda manifest: manifest["dropped"].update({hostile: 5}))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["selector"]["ties"] = hostile
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    page = parse(write_report(run.rename(run.with_name("<script>"))))
    assert "script" not in page.tags
    assert page.text.count(hostile) >= 3


def test_nothing_here_imports_torch() -> None:
    modules = sorted(path.stem for path in Path(mprm.reporting.__file__).parent.glob("[a-z]*.py"))
    assert "tracking" in modules
    code = "; ".join(f"import mprm.reporting.{module}" for module in modules)
    code += "; import sys; print(sorted({'torch', 'pytorch_lightning', 'transformers', 'wandb'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
