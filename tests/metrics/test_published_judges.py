"""The published measures against the published rules, written out once more as loops over random verdicts."""

import random
from collections import defaultdict
from typing import Any

import pytest

from mprm.data.reward_benchmarks import MMRLHFRewardBench, MultimodalRewardBench, Published, VLRewardBench
from mprm.metrics.pairwise import judgements
from mprm.metrics.published_judges import as_published, presented
from mprm.metrics.results import PublishedAccuracy

Records = dict[tuple[str, bool], dict[str, Any]]


class Verdicts:
    """Random ones, on pairs of three sources and of items with one to four pairs."""

    def __init__(self, seed: int, n_pairs: int, votes: int, silent: float) -> None:
        rng = random.Random(seed)
        self.source: dict[str, str] = {}
        self.item: dict[str, str] = {}
        self.records: Records = {}
        while len(self.source) < n_pairs:
            source, item = rng.choice(["general", "hallucination", "reasoning"]), f"item {len(self.source)}"
            for _ in range(rng.randint(1, 4)):
                name = f"pair {len(self.source)}"
                self.source[name], self.item[name], first = source, item, rng.choice("AB")
                for swapped in (False, True):
                    better = "BA"[first == "B"] if swapped else first
                    said = [self._said(rng, better, silent) for _ in range(1 + votes)]
                    record = {"id": name, "swapped": swapped, "better": better}
                    self.records[name, swapped] = record | {"responses": said[:1], "votes": said[1:]}

    @staticmethod
    def _said(rng: random.Random, better: str, silent: float) -> dict[str, Any]:
        verdict = None if rng.random() < silent else better if rng.random() < 0.7 else "AB"[better == "A"]
        return {"verdict": verdict, "entropy": 0.1, "n_tokens": 5, "in_format": True}

    def measured(self, rule: Published | None) -> tuple[PublishedAccuracy, ...]:
        assert rule
        return as_published(judgements([*self.records.values()], self.source, self.item), rule)


def near(found: Any, wanted: float) -> None:
    assert found.value == pytest.approx(wanted, abs=1e-12, rel=0)
    assert found.low - 1e-12 <= found.value <= found.high + 1e-12


@pytest.mark.parametrize(("seed", "votes", "silent"), [(0, 9, 0.02), (1, 9, 0.3), (2, 6, 0.0), (3, 0, 0.2)])
def test_vl_rewardbench_as_cal_py_counts(seed: int, votes: int, silent: float) -> None:
    """A pair's first K responses agree, reject or do not match, each in an order of its own; a pair in which one does
    not match is filtered out, and the majority of the others' decides."""
    verdicts = Verdicts(seed, 80, votes, silent)
    found = {one.votes: one for one in verdicts.measured(VLRewardBench.rule)}
    assert [*found] == [k for k in (1, 3, 5, 7, 9) if k <= max(votes, 1)]
    orders = presented(len(verdicts.source), max(votes, 1)).tolist()
    for k, one in found.items():
        agreed, counted, left_out = defaultdict[str, int](int), defaultdict[str, int](int), 0
        for row, (name, source) in enumerate(verdicts.source.items()):
            status = []
            for response in range(k):
                record = verdicts.records[name, orders[row][response] == 1]
                verdict = (record["votes"] or record["responses"])[response]["verdict"]
                status.append("none" if verdict is None else "agree" if verdict == record["better"] else "reject")
            if "none" in status:
                left_out += 1
                continue
            counted[source] += 1
            agreed[source] += status.count("agree") > k / 2
        assert one.left_out == left_out
        near(one.accuracy, sum(agreed.values()) / sum(counted.values()))
        for source, part in one.sources.items():
            near(part.accuracy, agreed[source] / counted[source])
        macro = sum(agreed[source] / counted[source] for source in one.sources) / 3
        assert one.macro_accuracy == pytest.approx(macro, abs=1e-12, rel=0)


@pytest.mark.parametrize("seed", range(3))
def test_multimodal_rewardbench_as_2_get_accuracy_py_counts_with_a_fair_coin(seed: int) -> None:
    """Output1 is shown first; without a verdict both falls of the coin are counted, a half each."""
    verdicts = Verdicts(seed, 80, 3 * (seed == 0), 0.3)
    (found,) = verdicts.measured(MultimodalRewardBench.rule)
    hits = defaultdict[str, list[float]](list)
    for name, source in verdicts.source.items():
        record = verdicts.records[name, False]
        verdict = record["responses"][0]["verdict"]
        falls = ["A", "B"] if verdict is None else [verdict]
        for task in ("all", source):
            hits[task].append(sum(fall == record["better"] for fall in falls) / len(falls))
    assert (found.votes, found.left_out) == (1, 0)
    near(found.accuracy, sum(hits["all"]) / len(hits["all"]))
    for source, part in found.sources.items():
        near(part.accuracy, sum(hits[source]) / len(hits[source]))


@pytest.mark.parametrize("seed", range(3))
def test_mm_rlhf_rewardbench_as_get_acc_py_counts(seed: int) -> None:
    """The answers are shown as they stand; no verdict is a reward of 0 for the chosen and 1 for the rejected one."""
    verdicts = Verdicts(seed, 80, 0, 0.1)
    (found,) = verdicts.measured(MMRLHFRewardBench.rule)
    items = defaultdict[str, list[str]](list)
    for name, item in verdicts.item.items():
        items[item].append(name)
    right, plus = defaultdict[str, list[bool]](list), defaultdict[str, list[bool]](list)
    for names in items.values():
        all_correct = True
        for name in names:
            record = verdicts.records[name, False]
            rewards = (1, 0) if record["responses"][0]["verdict"] == record["better"] else (0, 1)
            all_correct = all_correct and rewards[0] > rewards[1]
            for group in ("all", verdicts.source[name]):
                right[group].append(rewards[0] > rewards[1])
        for group in ("all", verdicts.source[names[0]]):
            plus[group].append(all_correct)
    near(found.accuracy, sum(right["all"]) / len(right["all"]))
    near(found.acc_plus, sum(plus["all"]) / len(items))
    for source, part in found.sources.items():
        near(part.accuracy, sum(right[source]) / len(right[source]))
        near(part.acc_plus, sum(plus[source]) / len(plus[source]))


def test_where_no_pair_is_left_there_is_no_number() -> None:
    assert Verdicts(0, 12, 0, 1.0).measured(VLRewardBench.rule) == ()
    assert len(Verdicts(0, 12, 0, 1.0).measured(MMRLHFRewardBench.rule)) == 1


def test_every_judge_is_shown_the_same_orders() -> None:
    assert (presented(500, 9) == presented(500, 9)).all()
    assert 0.45 < presented(500, 9).mean() < 0.55
