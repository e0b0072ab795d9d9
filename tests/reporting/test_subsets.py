import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mprm.reporting.compare import compare, run_folders
from mprm.reporting.composition import histogram_exhibit, maps_exhibit
from mprm.reporting.overlap import jaccard
from mprm.reporting.subsets import composition_table, read_corpus, rollout_keys


@pytest.fixture
def runs(many_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(many_runs, tmp_path / "runs"))


def test_a_key_is_one_source_and_line_whatever_the_encoding() -> None:
    numbers: dict[str, int] = {}
    plain = pa.table({"source": ["b", "a", "b"], "line": pa.array([7, 7, 1], pa.int32())})
    coded = pa.table({"source": pa.array(["a", "b"]).dictionary_encode(), "line": pa.array([7, 7], pa.int32())})
    first, second = rollout_keys(plain, numbers), rollout_keys(coded, numbers)
    assert len(set(first.tolist())) == 3
    assert first.tolist() == sorted(first.tolist())
    assert set(second.tolist()) < set(first.tolist())


def test_lines_of_large_files_do_not_run_into_the_next_source() -> None:
    table = pa.table({"source": ["a", "b"], "line": pa.array([2**31 - 1, 0], pa.int32())})
    assert len(set(rollout_keys(table, {}).tolist())) == 2


def test_every_setting_is_a_subset_of_what_its_lowest_seed_kept(runs: Path) -> None:
    corpus = read_corpus(compare(run_folders(runs)).rows)
    assert [subset.label for subset in corpus.subsets][:3] == ["Full", "BIS, alpha 0.05, 50 %", "BIS, alpha 0.2, 50 %"]
    kept = pq.read_table(runs / "bis-0.2-0.5-0" / "subset" / "kept.parquet")
    subset = corpus.subsets[2]
    assert subset.counts.mc.sum() == subset.counts.places.sum() == len(subset.keys) == kept.num_rows
    assert corpus.eligible is not None
    assert corpus.eligible.mc.tolist() == corpus.subsets[0].counts.mc.tolist()  # Full
    assert jaccard([corpus.subsets[0].keys, subset.keys])[0, 1] == pytest.approx(0.5)


def test_settings_that_kept_the_same_are_one_subset(runs: Path) -> None:
    # The invented selections of Random and Mixed are the same, and at 5 % those of both alphas.
    corpus = read_corpus(compare(run_folders(runs)).rows)
    assert {subset.label: subset.also for subset in corpus.subsets} == {
        "Full": (),
        "BIS, alpha 0.05, 50 %": (),
        "BIS, alpha 0.2, 50 %": (),
        "Mixed, 50 % (and 1 more)": ("Random, 50 %",),
        "BIS, alpha 0.05, 5 % (and 1 more)": ("BIS, alpha 0.2, 5 %",),
        "Mixed, 5 % (and 1 more)": ("Random, 5 %",),
    }
    assert "Mixed, 5 % (and 1 more): Random, 5 %." in composition_table(corpus).note


def test_without_the_cache_of_signals_the_subsets_are_still_shown(runs: Path) -> None:
    for path in runs.glob("*/subset/manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"signals": str(runs / "gone.parquet")}))
    corpus = read_corpus(compare(run_folders(runs)).rows)
    assert corpus.eligible is None
    assert "cache of signals is gone" in maps_exhibit(corpus).caption


def test_table_one_has_the_eligible_rollouts_first(runs: Path) -> None:
    corpus = read_corpus(compare(run_folders(runs)).rows)
    table = composition_table(corpus)
    assert table.columns[:3] == ("subset", "rollouts", "steps")
    assert table.rows[0] == ("all eligible", "392", "1,960", "5.62", "27.8", "3.57", "7.67", "0.8566")
    assert table.rows[1][:2] == ("Full", "392")
    assert len(table.rows) == 7


def test_small_panels_are_named_and_count_in_percent(runs: Path) -> None:
    corpus = read_corpus(compare(run_folders(runs)).rows)
    for exhibit in (maps_exhibit(corpus), histogram_exhibit(corpus)):
        assert len(exhibit.figure.axes) == 6
        assert exhibit.figure.axes[1].get_title(loc="left") == "BIS, alpha 0.05, 50 %\n196 rollouts"
        assert exhibit.figure.get_suptitle()
        assert exhibit.figure.get_supxlabel()
        assert exhibit.figure.get_supylabel()
        assert "BIS, alpha 0.05, 50 %" in exhibit.says
    data = histogram_exhibit(corpus).data
    assert data is not None
    assert np.array(data.rows)[:, 1].astype(float).sum() == pytest.approx(100, abs=0.02)
