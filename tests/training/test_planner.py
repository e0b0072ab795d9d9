"""Which rollouts share a forward pass of which rank, and what their steps weigh."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.batching import loading
from mprm.batching.order import Lengths, LowToHigh, Shuffled
from mprm.training.lengths import Measured, measure
from mprm.training.module import StepScoring
from mprm.training.objectives import Hard
from mprm.training.planner import BatchPlan, Loaders, Part, RankBatches, plan_parts
from mprm.training.recipe import Machine, Recipe, Schedule

RANKS = st.sampled_from([1, 2, 3, 4, 8])
# Of 4 rollouts to a question, with 20 to 29 tokens of which 12 are shared: 29 hold one, 400 a global batch.
TOKENS = st.sampled_from([29, 40, 61, 100, 400])


def lengths_of(n: int) -> Lengths:
    number = np.arange(n)
    return Lengths(tokens=20 + 7 * number % 10, shared=np.full(n, 12), question=number // 4)


def plan_of(n: int, epochs: int = 1, world_size: int = 1, max_tokens: int = 400) -> BatchPlan:
    order = np.concatenate([np.random.default_rng(epoch).permutation(n) for epoch in range(epochs)])
    return BatchPlan(order, np.arange(n) % 5 + 1, lengths_of(n), 8, max_tokens, world_size)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), epochs=st.integers(1, 3), world_size=RANKS, max_tokens=TOKENS)
def test_every_rollout_counts_once_per_epoch_however_the_batch_is_cut(
    n: int, epochs: int, world_size: int, max_tokens: int
) -> None:
    plan = plan_of(n, epochs, world_size, max_tokens)
    ranks = [list(RankBatches(plan, rank, 0)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {plan.micro_batches}, "ranks wait for each other"
    assert len(RankBatches(plan, 0, 0)) == plan.micro_batches == plan.optimizer_steps * plan.accumulate
    assert all(row for rows in ranks for row in rows), "every rank has something to do"
    for step in range(plan.optimizer_steps):
        rows = [row for micro_batch in plan.cut(step) for row in micro_batch]
        assert [len(micro_batch) for micro_batch in plan.cut(step)] == [world_size] * plan.accumulate
        seen = Counter(position for row in rows for position, weight in row if weight > 0)
        assert seen == Counter(plan.order[8 * step : 8 * step + 8].tolist())
        assert all(plan.lengths.cost([position for position, _ in row]) <= max_tokens for row in rows)
    read = Counter(position for rows in ranks for row in rows for position, weight in row if weight > 0)
    assert read == Counter(dict.fromkeys(range(n), epochs))


@given(n=st.integers(1, 40), world_size=RANKS, max_tokens=TOKENS)
def test_the_steps_of_a_global_batch_weigh_one_together(n: int, world_size: int, max_tokens: int) -> None:
    plan = plan_of(n, 1, world_size, max_tokens)
    for step in range(plan.optimizer_steps):
        items = [item for micro_batch in plan.cut(step) for row in micro_batch for item in row]
        assert sum(weight * plan.terms[position] for position, weight in items) == pytest.approx(1)
        assert len({weight for _, weight in items if weight > 0}) == 1


@given(n=st.integers(2, 40), world_size=RANKS, max_tokens=TOKENS, data=st.data())
def test_resumed_batches_are_the_tail(n: int, world_size: int, max_tokens: int, data: st.DataObject) -> None:
    plan = plan_of(n, 2, world_size, max_tokens)
    start = data.draw(st.integers(0, plan.optimizer_steps))
    rank = data.draw(st.integers(0, world_size - 1))
    whole, tail = list(RankBatches(plan, rank, 0)), list(RankBatches(plan, rank, start))
    assert tail == whole[start * plan.accumulate :]


@given(
    n=st.integers(1, 20),
    steps=st.integers(1, 12),
    size=st.integers(1, 16),
    seed=st.integers(0, 3),
    updates=st.integers(1, 3),
)
def test_so_many_steps_are_whole_global_batches_of_epoch_after_epoch(
    n: int, steps: int, size: int, seed: int, updates: int
) -> None:
    """With n rollouts of one step each: all batches are full, and of every n rollouts that follow each other from an
    epoch's begin none is twice. Each batch is that of as many optimizer steps as it has updates."""
    module: Any = SimpleNamespace(terms=lambda part: np.ones(n, dtype=int), micro_batch_size=None, updates=updates)
    recipe = Recipe(epochs=None, steps=steps, global_batch_size=size)
    module.schedule = Schedule(recipe, Machine(), Shuffled(), seed)
    part = Measured(SimpleNamespace(entropy=np.full(n, np.nan)), lengths_of(n), np.arange(n), {})
    plan = plan_parts(module, part, None)[0].plan
    assert plan.optimizer_steps == steps * updates
    assert len(plan.order) == steps * size
    batches = plan.order.reshape(steps, size).tolist()
    assert [plan.chosen(step) for step in range(plan.optimizer_steps)] == [
        one for one in batches for _ in range(updates)
    ]
    assert [plan.seen(step) for step in range(plan.optimizer_steps + 1)] == [
        0,
        *(number * size for number in range(1, steps + 1) for _ in range(updates)),
    ]
    for epoch in range(-(-steps * size // n)):
        seen = plan.order[epoch * n : epoch * n + n]
        expected = Shuffled().epoch(part.lengths.question, np.full(n, np.nan), seed, epoch)
        assert seen.tolist() == expected[: len(seen)].tolist()


def test_the_weights_of_steps_stand_for_their_number() -> None:
    """Rollouts whose steps weigh .5, 1.5 and 2: a step of weight 1 has a quarter of the loss."""
    plan = BatchPlan(np.arange(3), np.array([0.5, 1.5, 2.0]), lengths_of(3), 8, 400, 1)
    assert {weight for rows in plan.cut(0) for row in rows for _, weight in row} == {0.25}


def test_a_row_left_empty_gets_the_shortest_rollout_without_weight() -> None:
    """Two questions on three ranks: 15 and 14 tokens in two rows, the third row has nothing to do."""
    lengths = Lengths(tokens=np.array([12, 13, 14]), shared=np.array([10, 10, 14]), question=np.array([1, 1, 2]))
    plan = BatchPlan(np.array([2, 1, 0]), np.array([2, 1, 5]), lengths, 3, 100, 3)
    assert plan.accumulate == 1
    assert plan.cut(0) == [[[(1, 1 / 8), (0, 1 / 8)], [(2, 1 / 8)], [(0, 0.0)]]]


def test_published_weights_are_those_of_means_of_means() -> None:
    """Micro-batches of two rollouts with 1 + 2, 3 + 4 and 5 scored steps: 1/3 of 1/3, 1/7 and 1/5."""
    plan = BatchPlan(np.arange(5), np.array([1, 2, 3, 4, 5]), lengths_of(5), 8, 400, 1, micro_batch_size=2)
    weights = dict(item for rows in plan.cut(0) for row in rows for item in row)
    assert weights == pytest.approx({0: 1 / 9, 1: 1 / 9, 2: 1 / 21, 3: 1 / 21, 4: 1 / 15})


def test_a_rollout_that_is_twice_in_a_batch_has_both_its_weights() -> None:
    """At the border of two epochs; micro-batches (0, 1), (1, 2): 1 + 2 and 2 + 3 scored steps."""
    plan = BatchPlan(np.array([0, 1, 1, 2]), np.array([1, 2, 3]), lengths_of(3), 8, 400, 1, micro_batch_size=2)
    weights = [item for rows in plan.cut(0) for row in rows for item in row]
    assert sorted(weights) == [(0, 1 / 6), (1, 1 / 10), (1, 1 / 6), (2, 1 / 10)]


def test_shared_memory_that_is_too_small_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 4,000 bytes for training and validation: eight workers of two ranks hold 2 x (2 x 8 + 1) of each."""
    vision = {"pixel_values": torch.zeros(4000, dtype=torch.uint8)}

    class Shown:
        def __getitems__(self, keys: Any) -> list[Any]:
            return [SimpleNamespace(vision=vision) for _ in keys]

    part = Part(Shown(), plan_of(8, world_size=2))
    free = 2 * 17 * 8000

    def loaders(num_workers: int) -> Loaders:
        monkeypatch.setattr(loading.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        return Loaders(part, part, 0, Machine(devices=2, num_workers=num_workers))

    assert loaders(8).num_workers == 8
    free -= 1
    with pytest.raises(ValueError, match=r"num_workers=8: [^\n]* give trainer\.num_workers=7, [^\n]*--shm-size=1g\)$"):
        loaders(8)


def test_a_batch_without_a_scored_step_has_finite_weights() -> None:
    plan = BatchPlan(np.array([0]), np.array([0]), lengths_of(1), 8, 100, 2)
    assert plan.cut(0) == [[[(0, 1.0)], [(0, 0.0)]]]


def test_every_step_has_the_rows_of_the_fullest() -> None:
    """Steps of 4 + 1 rollouts of 20 tokens that share nothing, two in a row: 2 rows and 1."""
    lengths = Lengths(np.full(5, 20), np.full(5, 20), np.arange(5))
    plan = BatchPlan(np.arange(5), np.ones(5, dtype=int), lengths, 4, 40, 1)
    assert (plan.optimizer_steps, plan.accumulate, plan.micro_batches) == (2, 2, 4)
    assert [sorted(len(row) for (row,) in plan.cut(step)) for step in range(2)] == [[2, 2], [1, 1]]
    assert replace(plan, world_size=2).accumulate == 1
    assert replace(plan, max_tokens=80).accumulate == 1
    assert replace(plan, max_tokens=20).accumulate == 4
    assert replace(plan, max_tokens=20, world_size=3).accumulate == 2


def test_three_ranks_share_a_global_batch_of_eight() -> None:
    """8 rollouts of 20 to 29 tokens: no rank has more than the mean and the longest one."""
    plan = plan_of(40, world_size=3, max_tokens=100)
    assert plan.accumulate == 1
    for step in range(plan.optimizer_steps):
        (micro_batch,) = plan.cut(step)
        assert all(weight > 0 for row in micro_batch for _, weight in row)
        loads = [plan.lengths.cost([position for position, _ in row]) for row in micro_batch]
        assert loads == sorted(loads, reverse=True)
        assert loads[0] - loads[-1] <= 29


def test_nothing_to_validate_is_no_row() -> None:
    empty = Lengths(*(np.empty(0, dtype=np.int64) for _ in range(3)))
    plan = BatchPlan(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), empty, 1, 400, 2)
    assert (plan.optimizer_steps, plan.accumulate, plan.micro_batches) == (0, 0, 0)
    assert list(RankBatches(plan, 1, 0)) == []


def test_published_number_of_optimizer_steps() -> None:
    """565,096 rollouts in batches of 512; 10 % take 110 to 111 steps, all take 1,100 to 1,104."""
    lengths = Lengths(np.full(56_509, 500), np.full(56_509, 500), np.arange(56_509))
    plan = BatchPlan(np.arange(56_509), np.ones(56_509, dtype=int), lengths, 512, 2_000, 4)
    assert plan.optimizer_steps == 111
    assert plan.accumulate == 32


def test_the_sampler_tells_its_batch_size() -> None:
    assert RankBatches(plan_of(8), 0, 0).batch_size == 1


@pytest.mark.parametrize("devices", [1, 2])
def test_low_to_high_is_one_sequence_for_any_number_of_ranks(
    backbone: Any, part: Any, devices: int, tmp_path: Path
) -> None:
    """Entropies fall with the position; that of rollout 5 was not computed, 0 is left out as too long."""
    processor, model = backbone.load()
    train, validation = part(processor, range(12)), part(processor, range(20, 22))
    entropy = [None if position == 5 else 1.0 - position / 12 for position in range(12)]
    entropy[9] = entropy[10]  # in file order
    train.records = train.records.remove_columns("entropy").add_column("entropy", entropy)
    lengths = [len(train.layout(position).input_ids) for position in range(12)]
    machine = Machine(max_tokens=256, devices=devices, strategy="ddp" if devices > 1 else "auto")
    parts = [measure(one, max(lengths) - 1, 0, tmp_path)[0] for one in (train, validation)]
    schedule = Schedule(Recipe(epochs=2, global_batch_size=4), machine, LowToHigh(), seed=0)
    plan = plan_parts(StepScoring(model, Hard(), schedule), *parts)[0].plan
    usable = [position for position in [11, 9, 10, 8, 7, 6, 4, 3, 2, 1, 0, 5] if lengths[position] < max(lengths)]
    assert len(usable) == 12 - parts[0].left_out["too_long"] < 12
    sequence = usable * 2
    steps = range(plan.optimizer_steps)
    assert [plan.chosen(step) for step in steps] == [sequence[4 * step : 4 * step + 4] for step in steps]
    for start in steps:
        batches = [list(RankBatches(plan, rank, start)) for rank in range(devices)]
        read = Counter(position for rows in batches for row in rows for position, weight in row if weight > 0)
        assert read == Counter(sequence[4 * start :])
