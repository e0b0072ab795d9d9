"""The subset folder; and the validation split, which shares neither question nor image with what is trained on."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mprm.selection.examples
import mprm.selection.scan
from mprm.data.rollouts import question_hash
from mprm.data.visualprm400k import VisualPRM400K
from mprm.runs.manifest import AllPositive, Chosen, SourceCounts, Statistics, read_manifest
from mprm.selection.examples import EXAMPLES, export_published, read_examples, write_examples
from mprm.selection.selectors import BIS, Full, LowMC, Random, Reliable, Selector
from mprm.selection.signals import build_signals
from mprm.selection.subset import all_positive, held_out, keep, statistics, write_subset

SOURCES = {"a": [[1.0, 0.0], [None], [0.5, None], [], [0.0, 0.0]], "b": [[0.75]], "c": [[]]}


@pytest.fixture
def corpus(dataset: Callable[..., VisualPRM400K]) -> VisualPRM400K:
    return dataset(SOURCES)


def test_manifest(corpus: VisualPRM400K, tmp_path: Path) -> None:
    signals = build_signals(corpus, tmp_path / "cache")
    manifest = write_subset(tmp_path / "subset", corpus, signals, LowMC(ratio=0.67), seed=0)
    file = tmp_path / "subset" / "manifest.json"
    assert read_manifest(file) == manifest
    assert manifest.seed == 0
    settings = {"ratio": 0.67, "count": None, "scope": "source", "ties": "file_order", "seed": 0}
    settings |= {"balance": "none", "random_share": None}
    assert manifest.selector == Chosen(name="LowMC", label="Low MC", baseline=False, settings=settings)
    assert manifest.dataset.settings["annotations"] == corpus.annotations
    assert manifest.sources == {
        "a": SourceCounts(records=5, dropped=2, eligible=3, kept=2, realised_ratio=2 / 3),
        "b": SourceCounts(records=1, dropped=0, eligible=1, kept=1, realised_ratio=1.0),
        "c": SourceCounts(records=1, dropped=1, eligible=0, kept=0, realised_ratio=0.0),
    }
    assert manifest.dropped == {"no_steps": 2, "no_usable_score": 1}
    assert manifest.totals.eligible.rollouts == 4
    assert manifest.totals.kept.rollouts == 3
    assert Path(manifest.signals).exists()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": "0.1.0"}))
    with pytest.raises(ValueError, match=r"manifest\.json was written by another version; .* redo=select "):
        read_manifest(file)


def test_kept_dropped_and_examples(corpus: VisualPRM400K, tmp_path: Path) -> None:
    write_subset(tmp_path / "subset", corpus, build_signals(corpus, tmp_path / "cache"), LowMC(ratio=0.67), seed=0)
    kept = pq.read_table(tmp_path / "subset" / "kept.parquet").to_pylist()
    assert [(row["source"], row["line"], row["score"], row["rank"]) for row in kept] == [
        ("a", 0, -0.5, 2),
        ("a", 4, 0.0, 1),
        ("b", 0, -0.75, 1),
    ]
    dropped = (tmp_path / "subset" / "dropped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in dropped] == [
        {"source": "a", "line": 1, "reason": "no_usable_score"},
        {"source": "a", "line": 3, "reason": "no_steps"},
        {"source": "c", "line": 0, "reason": "no_steps"},
    ]
    write_examples(tmp_path / "examples", corpus, pq.read_table(tmp_path / "subset" / "kept.parquet"))
    examples = datasets.load_from_disk(str(tmp_path / "examples"))
    assert examples.column_names == EXAMPLES.names
    assert examples["id"][:] == ["a:0", "a:4", "b:0"]
    assert examples["question_hash"][:] == [row["question_hash"] for row in kept]
    assert examples[0] | {"question_hash": 0} == {
        "id": "a:0",
        "source": "a",
        "question": "Question 0?",
        "images": ["0.png"],
        "image_names": ["0.png"],
        "steps": ["Step 0.", "Step 1."],
        "scores": [1.0, 0.0],
        "n_correct": [None, None],
        "n_total": [None, None],
        "question_hash": 0,
        "entropy": None,
    }
    assert {path.name for path in (tmp_path / "subset").iterdir()} == {
        "manifest.json",
        "kept.parquet",
        "dropped.jsonl",
    }


def test_batches_do_not_show(corpus: VisualPRM400K, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signals = keep(build_signals(corpus, tmp_path / "cache"), Full())
    write_examples(tmp_path / "whole", corpus, signals)
    monkeypatch.setattr(mprm.selection.examples, "BATCH_BYTES", 100)
    monkeypatch.setattr(mprm.selection.scan, "BYTES_PER_PROCESS", 1)
    write_examples(tmp_path / "batches", corpus, signals)
    whole, batches = (datasets.load_from_disk(str(tmp_path / name)) for name in ("whole", "batches"))
    assert whole.to_list() == batches.to_list()


def test_a_second_selection_takes_the_place_of_the_first(corpus: VisualPRM400K, tmp_path: Path) -> None:
    signals = build_signals(corpus, tmp_path / "cache")
    for selector, rollouts in ((LowMC(ratio=0.67), 3), (Full(), 4)):
        write_subset(tmp_path / "subset", corpus, signals, selector, seed=0)
        assert pq.read_metadata(tmp_path / "subset" / "kept.parquet").num_rows == rollouts


def test_annotations_that_changed_are_noticed(corpus: VisualPRM400K, tmp_path: Path) -> None:
    signals = build_signals(corpus, tmp_path / "cache")
    file = tmp_path / "annotations" / "b.jsonl"
    file.write_text(file.read_text().replace("Question 0", "Question 1"))
    with pytest.raises(ValueError, match=r"b.jsonl line 0 .* changed since the selection"):
        write_examples(tmp_path / "examples", corpus, keep(signals, Full()))
    assert not (tmp_path / "examples").exists()


def test_nothing_to_train_on(dataset: Callable[..., VisualPRM400K], tmp_path: Path) -> None:
    corpus = dataset({"a": [[], [None]]})
    with pytest.raises(ValueError, match=r"none of 2 records is left .*no_steps 1, no_usable_score 1"):
        write_subset(tmp_path / "subset", corpus, build_signals(corpus, tmp_path / "cache"), Full(), seed=0)


def test_statistics(signals_of: Callable[..., pa.Table]) -> None:
    assert statistics(signals_of({"a": [[1.0, 0.0, 0.5], [1.0], [None, 0.0]]})) == Statistics(
        rollouts=3,
        steps=6,
        steps_per_rollout=2.0,
        words_per_step=2.0,
        error_step_share=pytest.approx(2 / 5),
        mean_mc=0.5,
        mixed_share=pytest.approx(1 / 3),
        unsampled_share=0.0,
        unsampled_negative_share=0.0,
    )


@pytest.mark.parametrize(
    ("settings", "negative", "line"),
    [
        ({}, 2 / 8, "37.50% of the steps have 0 of 0 continuations: 25.00% are taken for negatives, 12.50% for no ev"),
        (
            {"unsampled": "negative"},
            3 / 8,
            "37.50% are taken for negatives, 0.00% for no evidence (dataset.unsampled=n",
        ),
        (
            {"unsampled": "ignore"},
            0.0,
            "0.00% are taken for negatives, 37.50% for no evidence (dataset.unsampled=ignore",
        ),
        (
            {"cleaning": "published"},
            3 / 8,
            "37.50% are taken for negatives, 0.00% for what their score says (dataset.cl",
        ),
    ],
)
def test_steps_of_0_of_0_are_told(
    settings: dict[str, str], negative: float, line: str, dataset: Callable[..., VisualPRM400K], tmp_path: Path
) -> None:
    rollouts = [[(16, 16), (0, 16), (0, 0), (0, 0)], [(0, 0), (8, 16)], [1.0, 0.0]]
    corpus = dataset({"a": rollouts}, **settings)
    manifest = write_subset(tmp_path / "subset", corpus, build_signals(corpus, tmp_path / "cache"), Full(), seed=0)
    assert manifest.totals.kept.unsampled_share == 3 / 8
    assert manifest.totals.eligible.unsampled_negative_share == negative
    assert line in manifest.unsampled_words()
    examples = pa.Table.from_batches(read_examples(corpus, pq.read_table(tmp_path / "subset" / "kept.parquet")))
    scores = [score for row in examples["scores"].to_pylist() for score in row]
    assert scores.count(0.0) == 2 + negative * 8
    counts = export_published(tmp_path / "export.jsonl", examples.to_pylist(), float)
    assert counts["skipped"] == {3 / 8: 0, 2 / 8: 1, 0.0: 2}[negative]  # the format has no place for no evidence


Rollouts = Sequence[tuple[str, Sequence[str]]]  # question and images


def signals(rollouts: Rollouts, unranked: Sequence[int] = ()) -> pa.Table:
    """Rows that are not ranked have null signals."""
    ranked = [number not in unranked for number in range(len(rollouts))]
    usable = [rollout if ok else None for rollout, ok in zip(rollouts, ranked, strict=True)]
    hashes = [row and question_hash(row[0], list(row[1])) for row in usable]
    images = [row and [question_hash("", [name]) for name in row[1]] for row in usable]
    return pa.table(
        {
            "line": pa.array(range(len(rollouts)), pa.int32()),
            "question_hash": pa.array(hashes, pa.int64()),
            "image_hashes": pa.array(images, pa.list_(pa.int64())),
            "ranked": ranked,
            "drop_reason": pa.array([None if ok else "no_steps" for ok in ranked], pa.string()),
        }
    )


def lines(table: pa.Table) -> list[int]:
    found: list[int] = table["line"].to_pylist()
    return found


def test_rollouts_that_are_connected_by_question_or_image_go_together() -> None:
    rollouts = [
        ("How many?", ["a"]),
        ("Which?", ["b"]),
        ("What colour?", ["a"]),  # another question about the picture of 0
        ("Alike?", ["a", "c"]),
        ("Who?", ["c"]),  # of 3, and so of 0
        ("Which?", ["b"]),  # the question of 1
        ("Without a picture?", []),
        ("Without a picture?", []),
    ]
    groups = [{0, 2, 3, 4}, {1, 5}, {6, 7}]
    for count in range(1, 9):
        found = set(lines(held_out(signals(rollouts), count)))
        assert all(group <= found or not group & found for group in groups)
        assert len(found) >= min(count, 8) if count >= 4 else found
    assert lines(held_out(signals(rollouts), 8)) == list(range(8))
    assert lines(held_out(signals(rollouts), 0)) == []
    assert lines(held_out(signals(rollouts, unranked=range(8)), 4)) == []


def test_a_picture_of_everything_does_not_hold_out_everything() -> None:
    """A group of more rollouts than are asked for stays in training, were it the first by its hash."""
    rollouts = [(f"Question {number}?", ["the same"]) for number in range(50)]
    rollouts += [(f"Question {number}?", [f"{number}"]) for number in range(6)]
    assert lines(held_out(signals(rollouts), 10)) == list(range(50, 56))
    assert len(held_out(signals(rollouts), 4)) == 4
    assert len(held_out(signals(rollouts[:50]), 4)) == 50  # there is nothing smaller


def test_the_split_does_not_depend_on_what_is_not_connected() -> None:
    rollouts = [(f"Question {number // 2}?", [f"{number // 2}"]) for number in range(40)]
    few, more = held_out(signals(rollouts), 6), held_out(signals(rollouts), 12)
    assert len(few) == 6
    assert set(lines(few)) < set(lines(more))
    assert lines(held_out(signals(rollouts, unranked=lines(few)), 6)) == sorted(set(lines(more)) - set(lines(few)))


def test_jobs_of_a_sweep_share_the_table_and_what_is_found_in_it(corpus: VisualPRM400K, tmp_path: Path) -> None:
    one, other = (build_signals(corpus, tmp_path / "cache") for _ in range(2))
    assert other is one
    assert held_out(other, 2) is held_out(one, 2)
    assert len(held_out(one, 4)) > len(held_out(one, 1))
    Path(str(corpus.annotations), "c.jsonl").unlink()
    changed = build_signals(corpus, tmp_path / "cache")
    assert changed.num_rows == one.num_rows - 1
    assert held_out(changed, 2) is not held_out(one, 2)


@pytest.mark.parametrize("length", [1_000])
def test_a_long_chain_is_one_group(length: int) -> None:
    order = np.random.default_rng(0).permutation(length)
    chain = [(f"{number}?", [f"{number}", f"{number + 1}"]) for number in order.tolist()]
    assert len(held_out(signals([*chain, ("Alone?", ["x"])]), 1)) == 1
    assert len(held_out(signals(chain), 1)) == length


@given(
    st.lists(st.tuples(st.sampled_from("pqrs"), st.lists(st.sampled_from("abcdefgh"), max_size=3)), max_size=25),
    st.integers(1, 10),
)
def test_nothing_is_shared_with_what_is_left(rollouts: list[tuple[str, list[str]]], count: int) -> None:
    found = set(lines(held_out(signals(rollouts), count)))
    assert bool(found) == bool(rollouts)
    held, left = ([r for number, r in enumerate(rollouts) if (number in found) == side] for side in (True, False))
    assert not {image for _, images in held for image in images} & {image for _, images in left for image in images}
    assert not {(q, *images) for q, images in held} & {(q, *images) for q, images in left}


SHORT, LONG = [1.0, 1.0], [0.5] * 6


def test_what_the_all_positive_rollouts_are_like(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": [[1.0, 1.0], [0.5, 0.5, 0.5, (0, 0)], [1.0, 0.0]], "b": [[0.0]]})
    kept = keep(signals, LowMC(ratio=1.0))
    assert all_positive(kept) == AllPositive(
        rollouts=2,
        steps=3.0,
        steps_deviation=1.0,
        question_words=2.0,
        question_words_deviation=0.0,
        unsampled_share=1 / 6,
        tie_size=1.5,  # the mean MC of line 1 is that of line 2
        sources={"a": 2},
    )
    assert all_positive(signals.filter(signals["ranked"])).tie_size is None  # type: ignore[union-attr]
    assert all_positive(kept.slice(2)) is None


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (
            BIS(ratio=0.2),
            "The subset is easier than its corpus: its rollouts without a wrong step (95% of it) have on average 2.0 "
            "steps instead of 4.0; selector.fill=random draws them.",
        ),
        (
            Reliable(ratio=0.2),
            "The subset is easier than its corpus: its rollouts without a wrong step (100% of it) have on average 2.0 "
            "steps instead of 4.0.",
        ),
        (BIS(ratio=0.2, fill="random"), ""),
        (LowMC(ratio=0.2), ""),  # harder
    ],
)
def test_an_easier_subset_is_told(
    selector: Selector, expected: str, dataset: Callable[..., VisualPRM400K], tmp_path: Path
) -> None:
    corpus = dataset({"a": [*[SHORT, LONG] * 50, [1.0, 0.0]]})
    signals = build_signals(corpus, tmp_path / "cache")
    manifest = write_subset(tmp_path / "subset", corpus, signals, selector, seed=0)
    assert manifest.easier_words() == expected
    assert read_manifest(tmp_path / "subset" / "manifest.json") == manifest


# ---- places that are dealt out by more than a score

ALL_POSITIVE = [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]]
CORPUS = {"a": [*ALL_POSITIVE * 20, *[[1.0, 0.0]] * 4, *[[0.0, 0.0]] * 4, *[[0.0625, 0.0]] * 4], "b": ALL_POSITIVE * 25}


def chosen(signals: pa.Table, **settings: Any) -> list[tuple[str, int]]:
    rows = keep(signals, BIS(**settings))
    return list(zip(rows["source"].to_pylist(), rows["line"].to_pylist(), strict=True))


def test_all_positive_rollouts_at_random_the_others_by_bis(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of(CORPUS)
    for ties in ("file_order", "random"):
        by_score, filled = (chosen(signals, ratio=0.2, ties=ties, fill=fill) for fill in ("score", "random"))
        # Mixed ones, then a tie at alpha of all-negative ones and of all-positive ones with R = 1.
        assert [row for row in filled if row[1] >= 80 and row[0] == "a"] == [
            row for row in by_score if row[1] >= 80 and row[0] == "a"
        ]
        assert Counter(source for source, _ in filled) == Counter(source for source, _ in by_score)
    reliable = sum(line % 4 == 0 for _, line in by_score if line < 80)
    assert sum(line % 4 == 0 for _, line in filled if line < 80) < reliable / 2
    assert filled != chosen(signals, ratio=0.2, ties="random", fill="random", seed=1)


def test_the_score_is_that_of_the_selector_and_the_rank_of_the_place(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of(CORPUS)
    rows = keep(signals, BIS(ratio=1.0, fill="random"))
    np.testing.assert_array_equal(rows["score"].to_numpy(), BIS().score(signals))
    assert sorted(rows["rank"].to_pylist()[:92]) == list(range(1, 93))
    assert rows["rank"].to_pylist()[:80] != keep(signals, BIS(ratio=1.0))["rank"].to_pylist()[:80]
    np.testing.assert_array_equal(rows["tie_group"], keep(signals, BIS(ratio=1.0))["tie_group"])


def test_a_share_of_the_places_is_drawn(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of(CORPUS)
    whole = chosen(signals, ratio=0.2)
    half = chosen(signals, ratio=0.2, random_share=0.5)
    assert Counter(source for source, _ in half) == Counter(source for source, _ in whole)
    assert set(chosen(signals, ratio=0.1)) <= set(half)
    assert set(half) != set(whole)
    drawn = keep(signals, Reliable(ratio=0.5, random_share=1.0))  # all: neither score nor file order
    assert drawn["line"].to_pylist() != keep(signals, Reliable(ratio=0.5))["line"].to_pylist()
    np.testing.assert_allclose(np.mean(drawn["reliability"]), np.mean(signals["reliability"]), atol=0.05)


def test_balance_of_questions(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": [[1.0, 0.0]] * 30})
    questions = pa.array([i // 3 for i in range(30)], pa.int64())
    signals = signals.set_column(signals.column_names.index("question_hash"), "question_hash", questions)
    assert [line for _, line in chosen(signals, ratio=0.4, balance="questions")] == sorted([*range(0, 30, 3), 1, 4])
    drawn = keep(signals, Random(ratio=0.4, balance="questions"))["question_hash"].to_pylist()
    assert set(drawn) == set(range(10))


def test_balance_of_question_length(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": [[1.0 - i / 100] * 2 for i in range(100)]})
    words = pa.array([10 + i for i in range(100)], pa.int32())
    signals = signals.set_column(signals.column_names.index("n_question_words"), "n_question_words", words)
    lines = [line for _, line in chosen(signals, ratio=0.1, balance="question_length")]
    assert lines == [0, 1, 20, 21, 40, 41, 60, 61, 80, 81]


@pytest.mark.parametrize("scope", ["source", "global"])
@pytest.mark.parametrize("balance", ["none", "questions", "question_length"])
@pytest.mark.parametrize("random_share", [None, 0.5])
def test_a_smaller_ratio_keeps_a_part_of_what_a_larger_one_keeps(
    scope: str, balance: str, random_share: float | None, signals_of: Callable[..., pa.Table]
) -> None:
    settings = {"scope": scope, "balance": balance, "random_share": random_share, "fill": "random", "ties": "random"}
    signals = signals_of(CORPUS)
    small, large = (set(chosen(signals, ratio=ratio, **settings)) for ratio in (0.1, 0.3))
    assert small < large


def test_pairs_have_no_questions_to_balance() -> None:
    pairs = pa.table(
        {
            "source": pa.array(["a"], pa.string()).dictionary_encode(),
            "ranked": [True],
            "drop_reason": pa.array([None], pa.string()),
        }
    )
    with pytest.raises(ValueError, match="needs question_hash, which pairs do not have"):
        keep(pairs, Random(balance="questions"))
