"""The published tool's answers, through the command line as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
from program import RUN, run_program

REPOSITORY = Path(__file__).resolve().parents[1]
SELECTION = REPOSITORY / "tests" / "oracle_data" / "selection"
METRICS = REPOSITORY / "tests" / "oracle_data" / "metrics"
OVERALL = "overall_step_weighted_macro_f1"


def run(place: Path, *overrides: str) -> None:
    done = run_program(RUN, f"cache={place / 'cache'}", *overrides, cwd=place)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("alpha", "ratio"), [("0.2", "0.1"), ("0.0", "0.5")])
def test_export_is_the_published_subset_byte_for_byte(alpha: str, ratio: str, tmp_path: Path) -> None:
    settings = (
        "dataset=visualprm400k",
        f"dataset.annotations={SELECTION / 'annotations'}",
        "dataset.cleaning=published",
    )
    choice = ("selector=bis", f"selector.alpha={alpha}", f"selector.ratio={ratio}")
    run(tmp_path, "task=select", f"runs={tmp_path / 'runs'}", *settings, *choice, f"export={tmp_path / 'subset.jsonl'}")
    expected = SELECTION / "expected" / f"bis_alpha{alpha}_ratio{ratio}.jsonl"
    assert (tmp_path / "subset.jsonl").read_bytes() == expected.read_bytes()


def measure(place: Path, threshold: object) -> dict[str, Any]:
    output = place / f"{threshold}.json"
    predictions = METRICS / "predictions.json"
    run(place, "task=measure", f"predictions={predictions}", f"threshold={threshold}", f"output={output}")
    (measured,) = json.loads(output.read_text())["thresholds"].values()
    return dict(measured)


def test_measure_gives_the_published_metrics(tmp_path: Path) -> None:
    """The published tool searches among scores rounded to four digits, we among all scores."""
    for entry in json.loads((METRICS / "expected.json").read_text()).values():
        assert_same(entry, measure(tmp_path, entry["threshold"]))
    published, ours = measure(tmp_path, entry["threshold"]), measure(tmp_path, "searched")
    assert ours[OVERALL]["value"] >= published[OVERALL]["value"]


def assert_same(expected: object, ours: object) -> None:
    """Every expected key, within 1e-9; ours may have an interval."""
    if isinstance(ours, dict) and "value" in ours:
        ours = ours["value"]
    if isinstance(expected, dict):
        assert isinstance(ours, dict)
        for key, value in expected.items():
            assert_same(value, ours[key])
    elif isinstance(expected, float):
        assert ours == pytest.approx(expected, abs=1e-9)
    else:
        assert ours == expected
