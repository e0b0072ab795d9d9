"""The published training format, byte for byte."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.examples import export_published, write_examples
from mprm.selection.selectors import BIS, Full, Selector
from mprm.selection.signals import build_signals
from mprm.selection.subset import write_subset
from mprm.training.objectives import Hard

ORACLE = Path(__file__).parents[1] / "oracle_data" / "selection"
SUBSETS = sorted((ORACLE / "expected").glob("bis_*.jsonl"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def export(dataset: VisualPRM400K, cache: Path, selector: Selector, target: Callable[[float], float]) -> bytes:
    folder = cache / "subset"
    manifest = write_subset(folder, dataset, build_signals(dataset, cache), selector, seed=0)
    write_examples(cache / "examples", dataset, pq.read_table(folder / "kept.parquet"))
    examples = datasets.load_from_disk(str(cache / "examples"))
    counts = export_published(cache / "export.jsonl", examples, target)
    assert counts == {"written": manifest.totals.kept.rollouts, "skipped": 0}
    return (cache / "export.jsonl").read_bytes()


def hard(score: float) -> float:
    return float(score > 0)


def test_there_are_seven_published_subsets() -> None:
    assert len(SUBSETS) == 7


@pytest.mark.parametrize("expected", SUBSETS, ids=lambda path: path.stem)
def test_published_subsets(expected: Path, cache: Path) -> None:
    alpha, ratio = map(float, expected.stem.removeprefix("bis_alpha").split("_ratio"))
    dataset = VisualPRM400K(annotations=str(ORACLE / "annotations"), cleaning="published")
    assert export(dataset, cache, BIS(alpha=alpha, ratio=ratio), hard) == expected.read_bytes()


@pytest.mark.parametrize("cleaning", ["strict", "published"])
@pytest.mark.parametrize(("name", "target"), [("full_hard", hard), ("full_soft", float)])
def test_published_full_data(
    name: str, target: Callable[[float], float], cleaning: str, cache: Path, tmp_path: Path
) -> None:
    """Its full-data converter, on the four sources without malformed records; the cleaning does not matter there."""
    shutil.copytree(ORACLE / "annotations", tmp_path / "annotations", ignore=shutil.ignore_patterns("zz_*"))
    dataset = VisualPRM400K(annotations=str(tmp_path / "annotations"), cleaning=cleaning)
    assert export(dataset, cache, Full(), target) == (ORACLE / "expected" / f"{name}.jsonl").read_bytes()


def test_strict_cleaning_fills_every_place(cache: Path) -> None:
    """Dropped before ranking, bad records take no place: exactly k of every source's rollouts are kept."""
    dataset = VisualPRM400K(annotations=str(ORACLE / "annotations"))
    manifest = write_subset(cache / "strict", dataset, build_signals(dataset, cache), BIS(ratio=0.25), seed=0)
    for source in manifest.sources.values():
        assert source.records == source.dropped + source.eligible
        assert source.kept == max(1, int(source.eligible * 0.25))
    assert manifest.dropped == {
        "no_steps": 9,
        "empty_step": 7,
        "not_json": 5,
        "no_image": 3,  # five more name none: they are text
        "no_question": 3,
        "bad_score": 2,  # six more are numbers as text
    }
    assert manifest.sources["zz_mixed_quality"].eligible == 120 - 29


def test_a_step_that_the_objective_ignores_has_no_place(tmp_path: Path) -> None:
    band = Hard(tau=0.125, ignore=[0.125, 0.75])
    examples = [{"question": "q", "image_names": ["a.png"], "steps": ["s"], "scores": [mc]} for mc in (0.125, 0.5, 1.0)]
    counts = export_published(
        tmp_path / "out.jsonl", examples, lambda mc: None if band.ignored(mc) else band.target(mc)
    )
    assert counts == {"written": 2, "skipped": 1}
    written = [json.loads(line)["conversations"][1]["value"] for line in (tmp_path / "out.jsonl").open()]
    assert written == [[0.0], [1.0]]


def test_several_images_and_unmeasured_steps(tmp_path: Path) -> None:
    example = {"question": "q", "image_names": ["a.png", "b.png"], "steps": ["s", "t"], "scores": [0.5, 0.0]}
    counts = export_published(tmp_path / "out.jsonl", [example, example | {"scores": [0.5, None]}], hard)
    assert counts == {"written": 1, "skipped": 1}
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "image": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "Question: q\nProcess: s<prm>\n\nt<prm>"},
            {"from": "gpt", "value": [1.0, 0.0]},
        ],
    }
