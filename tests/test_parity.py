"""The published tool's answers, through the command line as a user types it."""

import json
from pathlib import Path

import pytest
from program import RUN, run_program

REPOSITORY = Path(__file__).resolve().parents[1]
SELECTION = REPOSITORY / "tests" / "oracle_data" / "selection"
METRICS = REPOSITORY / "tests" / "oracle_data" / "metrics"


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


@pytest.mark.parametrize("threshold", ["0.5", "searched"])
def test_measure_gives_the_published_metrics(threshold: str, tmp_path: Path) -> None:
    predictions, output = METRICS / "predictions.json", tmp_path / "metrics.json"
    run(tmp_path, "task=measure", f"predictions={predictions}", f"threshold={threshold}", f"output={output}")
    entries = json.loads((METRICS / "expected.json").read_text())
    expected = next(entry for name, entry in entries.items() if ("search" in name) == (threshold == "searched"))
    (ours,) = json.loads(output.read_text())["thresholds"].values()
    assert_same(expected, ours)


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
