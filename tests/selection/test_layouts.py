"""Every public layout through its choice of `dataset`: the counts add up, and what is exported is read again."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from benchmarks.read_layouts import LAYOUTS, write_corpus

from mprm.config import Config
from mprm.data.rollouts import read_rollout
from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.examples import export_published, write_examples
from mprm.selection.selectors import BIS, Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import write_subset

RECORDS = 400  # 8 of them malformed
CHOICES = {"vl_prm300k": ["dataset=vl_prm300k", "dataset.labels=monte_carlo"]}


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("processbench", "visualprm400k")])
def test_a_corpus_with_malformed_records(layout: str, load: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    write_corpus(tmp_path / "corpus.jsonl", layout, RECORDS)
    given = CHOICES.get(layout, [f"dataset={layout}"])
    dataset = load(*given, f"dataset.path={tmp_path / 'corpus.jsonl'}").dataset
    signals = build_signals(dataset, tmp_path / "cache")
    manifest = write_subset(tmp_path / "subset", dataset, signals, Full(), seed=0)
    dropped = sum(manifest.dropped.values())
    assert (manifest.totals.kept.rollouts, dropped) == (RECORDS - 8, 8)
    assert {"not_json", "not_an_object", "not_utf8"} < manifest.dropped.keys()
    if layout != "vl_prm300k":  # R = 1 and BIS ranks by the mixture of labels alone
        assert set(pq.read_table(tmp_path / "subset" / "kept.parquet")["reliability"].to_pylist()) == {1.0}
    few = write_subset(tmp_path / "few", dataset, signals, BIS(ratio=0.1), seed=0)
    assert few.totals.kept.rollouts == int((RECORDS - 8) * 0.1)

    write_examples(tmp_path / "examples", dataset, pq.read_table(tmp_path / "subset" / "kept.parquet"))
    examples = datasets.load_from_disk(str(tmp_path / "examples"))
    (tmp_path / "exported").mkdir()
    written = export_published(tmp_path / "exported" / "x.jsonl", examples, float)
    assert written == {"written": RECORDS - 8, "skipped": 0}
    again = VisualPRM400K(annotations=str(tmp_path / "exported"), images=str(tmp_path))
    lines = (tmp_path / "exported" / "x.jsonl").read_bytes().splitlines()
    for line, example in zip(lines, examples, strict=True):
        rollout = read_rollout(again, line, "x").rollout
        assert (rollout.question, list(rollout.images)) == (example["question"], example["image_names"])
        assert list(zip(rollout.steps, rollout.scores, strict=True)) == list(
            zip(example["steps"], example["scores"], strict=True)
        )
