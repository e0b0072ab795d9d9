"""Curation: the table of a pool, what is kept of it, and what is said of that, by hand.

Shape suffixes: P pairs.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mprm.data.questions import Pair
from mprm.judge.curation import held_out, read_kept, signals_of, summarise, write_curated, wrong_labels
from mprm.judge.judge import in_seeded_order, present
from mprm.metrics.results import Curation, read_part
from mprm.selection.selectors import Agreement, Entropy, Full, Random
from mprm.selection.subset import keep


def pair(name: str, source: str = "s", flipped: bool | None = False) -> Pair:
    return Pair(name, source, (f"{name}.png",), "How?", "4", "5", "a", flipped=flipped)


def record(name: str, better: str, *responses: tuple[str | None, float]) -> dict[str, Any]:
    said = [{"text": "", "verdict": verdict, "entropy": entropy, "n_tokens": 3} for verdict, entropy in responses]
    return {"id": name, "swapped": better == "B", "better": better, "responses": said}


def table(entropy_P: list[float], agrees_P: list[float], flipped_P: list[bool | None], sources: str) -> pa.Table:
    """Eligible pairs, one of each letter of `sources`."""
    return pa.table(
        {
            "id": [str(number) for number in range(len(sources))],
            "source": pa.array(list(sources)).dictionary_encode(),
            "ranked": [True] * len(sources),
            "drop_reason": pa.array([None] * len(sources), pa.string()),
            "entropy": entropy_P,
            "entropy_sum": [3 * entropy for entropy in entropy_P],
            "agrees": agrees_P,
            "flipped": pa.array(flipped_P, pa.bool_()),
        }
    )


def test_a_row_per_pair_source_after_source() -> None:
    pool = [pair("1", "z"), pair("2", "a", flipped=True), pair("3", "z"), pair("4", "a", flipped=None), pair("5", "z")]
    records = [
        record("5", "B", ("A", 0.5), ("A", 0.7)),
        record("1", "A", ("A", 0.1), (None, 0.3)),
        record("2", "B", ("B", 0.25), ("B", 0.75)),
        record("4", "A", (None, 1.0), ("B", 2.0)),
    ]
    rows = signals_of(pool, {"3": "refused_image"}, records).to_pylist()
    assert [row["id"] for row in rows] == ["2", "4", "1", "3", "5"]
    assert [row["source"] for row in rows] == ["a", "a", "z", "z", "z"]
    assert [row["entropy"] for row in rows] == [0.5, 1.5, pytest.approx(0.2), None, pytest.approx(0.6)]
    assert [row["entropy_sum"] for row in rows] == [1.5, 4.5, pytest.approx(0.6), None, pytest.approx(1.8)]
    assert [row["agrees"] for row in rows] == [1.0, 0.0, 0.5, None, 0.0]
    assert [row["flipped"] for row in rows] == [True, None, False, False, False]
    assert [row["ranked"] for row in rows] == [True, True, True, False, True]
    assert [row["drop_reason"] for row in rows] == [None, None, None, "refused_image", None]


def test_the_least_entropy_of_every_source_is_kept_and_random_keeps_as_many() -> None:
    """Of ten pairs of one source and six of another, two of which have an image that cannot be used."""
    rng = np.random.default_rng(0)
    pool = [pair(str(number), "ab"[number % 8 < 3], flipped=number % 5 == 0) for number in range(16)]
    entropy = dict(zip([one.id for one in pool], rng.permutation(16) / 10, strict=True))
    unusable = {"0": "refused_image", "9": "unreadable_image"}
    records = [record(one.id, "A", ("A", entropy[one.id])) for one in pool if one.id not in unusable]
    signals = signals_of(pool, unusable, records)
    kept = keep(signals, Entropy(ratio=0.5))
    expected = set()
    for source in "ab":
        names = sorted((p.id for p in pool if p.source == source and p.id not in unusable), key=entropy.__getitem__)
        expected |= set(names[: len(names) // 2])
    assert set(kept["id"].to_pylist()) == expected
    drawn = [keep(signals, Random(ratio=0.5, seed=seed)) for seed in range(3)]
    for other in drawn:
        assert not {*other["id"].to_pylist()} & {*unusable}
        assert sorted(other["source"].to_pylist()) == sorted(kept["source"].to_pylist())
    assert len({tuple(other["id"].to_pylist()) for other in drawn}) > 1

    summary = summarise(signals, kept, Entropy(ratio=0.5), traced=7, seed=0)
    assert (summary.eligible, summary.kept, summary.selector) == (14, len(expected), "Entropy")
    assert summary.settings["ratio"] == 0.5
    assert summary.dropped == {"refused_image": 1, "unreadable_image": 1, "traced": 7}
    rest = [value for name, value in entropy.items() if name not in expected and name not in unusable]
    means = {"kept": np.mean([entropy[name] for name in expected]), "left_out": np.mean(rest)}
    assert summary.entropy == pytest.approx(means)
    assert [one.pairs for one in summary.bins] == [3, 3, 3, 3, 2]
    wrong = [int(name) % 5 == 0 for name in expected]
    assert summary.flipped.kept == pytest.approx(np.mean(wrong))
    everything = summarise(signals, keep(signals, Entropy(ratio=1.0)), Entropy(ratio=1.0), traced=7, seed=0)
    assert everything.entropy["left_out"] is None
    difference = everything.flipped.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_pairs_held_out_take_all_that_share_question_and_images_with_them() -> None:
    """Of 20 questions with three pairs each, of which three have a trace: whoever else is there, in whatever order."""
    pool = [replace(pair(str(n)), prompt=f"{n % 4}?", images=(f"{n % 5}.png", "0.png")) for n in range(60)]
    pool = [replace(one, trace="A." if one.id in ("3", "18", "27") else None) for one in pool]
    question = {one.id: (one.prompt, one.images) for one in pool}
    traced = {question[one.id] for one in pool if one.trace}
    of_seed = []
    for seed in range(3):
        before: set[str] = set()
        for n in range(49):
            found = set(held_out(pool, n, seed))
            assert before <= found
            assert n <= len(found) < n + 3
            of_found = {question[name] for name in found}
            assert found == {one.id for one in pool if question[one.id] in of_found}
            assert not of_found & traced
            before = found
        assert set(held_out(pool[::-1], 20, seed)) == set(held_out(pool, 20, seed))
        of_seed.append(frozenset(held_out(pool, 20, seed)))
    assert len(set(of_seed)) == 3
    for n in (49, 1000):
        with pytest.raises(ValueError, match=rf"^grpo\.held_out={n} leaves none of 51 pairs .*; lower it$"):
            held_out(pool, n, 0)


def test_wrong_labels_against_random_subsets_of_the_same_sources() -> None:
    """Of source a 4 of 20 labels are wrong and 5 pairs are kept, none of them wrong; of b none is wrong and 5 are kept.

    A random five of a has 1 wrong one on average: 0.1 of all ten. It has none in 28 %, and 3 or less in 99.9 %, 2 or
    less in 96.7 %, so that the middle 95 % of the subsets go from 0 to 3 wrong ones.
    """
    flipped_P = np.array([1.0] * 4 + [0.0] * 36)
    source_P = np.array([*"a" * 20, *"b" * 20])
    is_kept_P = np.isin(np.arange(40), [4, 5, 6, 7, 8, 20, 21, 22, 23, 24])
    found = wrong_labels(source_P, is_kept_P, flipped_P, seed=0)
    assert found.kept == 0.0
    assert found.random == pytest.approx(0.1, abs=0.003)
    assert found.difference.value == -found.random
    assert (found.difference.low, found.difference.high) == (pytest.approx(-0.3), 0.0)
    all_wrong = wrong_labels(source_P, np.arange(40) < 4, flipped_P, seed=0)
    assert all_wrong.kept == 1.0
    assert all_wrong.difference.value == pytest.approx(0.8, abs=0.01)


def test_signals_that_differ_keep_different_pairs() -> None:
    """The long response of pair 0 is surer per token than the short one of pair 1, and less sure in all. The judge is
    sure of its verdict on pair 2, which is not the label's."""
    said = {"0": (0.2, 30, "A"), "1": (0.5, 4, "A"), "2": (0.1, 10, "B")}
    records = [record(name, "A", (verdict, entropy)) for name, (entropy, _, verdict) in said.items()]
    for one in records:
        one["responses"][0]["n_tokens"] = said[one["id"]][1]
    signals = signals_of([pair(name, flipped=name == "2") for name in said], {}, records)

    def order(selector: Any) -> list[str]:
        names: list[str] = keep(signals, selector).sort_by("rank")["id"].to_pylist()
        return names

    assert order(Entropy(ratio=1.0)) == ["2", "0", "1"]
    assert order(Entropy(ratio=1.0, signal="sum")) == ["2", "1", "0"]
    drawn = [order(Agreement(ratio=1.0, seed=seed)) for seed in range(8)]
    assert {names[-1] for names in drawn} == {"2"}
    assert {names[0] for names in drawn} == {"0", "1"}
    told = summarise(signals, keep(signals, Full()), Full(), traced=0, seed=0).told
    assert told == {"entropy": 0.0, "entropy_sum": 0.0, "disagreement": 1.0}
    with pytest.raises(ValueError, match=r"^selector.signal=max is unknown; choose mean or sum$"):
        Entropy(signal="max")


def test_wrong_labels_are_counted_where_all_are_known() -> None:
    known, unknown = (table([0.5, 0.1], [0.0, 1.0], flipped, "ab") for flipped in ([True, False], [None, False]))
    found = summarise(known, keep(known, Full()), Full(), traced=0, seed=0).flipped
    assert found is not None
    assert found.kept == 0.5
    assert summarise(unknown, keep(unknown, Full()), Full(), traced=0, seed=0).flipped is None


def test_the_order_of_answers_is_by_seed_and_pair_alone() -> None:
    images = (Path("0.png"),)
    pool = [present(pair(str(number)), images, swapped=False) for number in range(400)]
    orders = {seed: [in_seeded_order(one, seed).swapped for one in pool] for seed in (0, 1)}
    for order in orders.values():
        assert np.mean(order) == pytest.approx(0.5, abs=0.1)
    assert np.mean(np.array(orders[0]) == orders[1]) == pytest.approx(0.5, abs=0.1)
    for number, one in enumerate(pool[:20]):
        other = replace(one.pair, source="t", prompt="Else?", answer_a="7", label="b")
        again = in_seeded_order(present(other, (), swapped=True), 0)
        assert again == present(other, (), swapped=orders[0][number])


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    signals = table([0.4, 0.1, 0.3, 0.2], [1.0] * 4, [False] * 4, "aabb")
    kept = keep(signals, Entropy(ratio=0.5))
    summary = summarise(signals, kept, Entropy(ratio=0.5), traced=0, seed=0)
    write_curated(tmp_path / "curated", signals, kept, summary)
    ids, entropy_N, held = read_kept(tmp_path / "curated")
    assert (ids, held) == (["1", "3"], [])
    assert entropy_N.tolist() == [0.1, 0.2]
    assert read_part(tmp_path / "curated" / "manifest.json", Curation) == summary
    assert pq.read_table(tmp_path / "curated" / "signals.parquet").num_rows == 4
    assert pq.read_table(tmp_path / "curated" / "kept.parquet")["rank"].to_pylist() == [1, 1]
