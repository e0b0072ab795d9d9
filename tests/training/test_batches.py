from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.training.batches import BatchPlan, RankBatches

CUTS = [(1, 8), (8, 1), (2, 4), (4, 2)]


def plan_of(n: int, epochs: int, world_size: int, micro: int, fill_last: bool = False) -> BatchPlan:
    order = np.concatenate([np.random.default_rng(epoch).permutation(n) for epoch in range(epochs)])
    return BatchPlan(order, np.arange(n) % 5 + 1, 8, micro, world_size, fill_last)


@given(n=st.integers(1, 40), epochs=st.integers(1, 3), cut=st.sampled_from(CUTS), fill=st.booleans())
def test_every_rollout_counts_once_per_epoch_however_the_batch_is_cut(
    n: int, epochs: int, cut: tuple[int, int], fill: bool
) -> None:
    plan = plan_of(n, epochs, *cut, fill)
    ranks = [list(RankBatches(plan, rank, 0)) for rank in range(plan.world_size)]
    assert {len(batches) for batches in ranks} == {plan.micro_batches}, "ranks wait for each other"
    assert len(RankBatches(plan, 0, 0)) == plan.micro_batches
    seen = Counter(position for batches in ranks for batch in batches for position, weight in batch if weight > 0)
    assert seen == Counter(dict.fromkeys(range(n), epochs))
    assert all(len(batch) == plan.micro_batch_size for batches in ranks for batch in batches)


@given(n=st.integers(1, 40), cut=st.sampled_from(CUTS))
def test_the_steps_of_a_global_batch_weigh_one_together(n: int, cut: tuple[int, int]) -> None:
    plan = plan_of(n, 1, *cut)
    for step in range(plan.optimizer_steps):
        items = [item for micro_batch in plan.cut(step) for rank in micro_batch for item in rank]
        assert sum(weight * plan.n_scored[position] for position, weight in items) == pytest.approx(1)


@given(n=st.integers(2, 40), cut=st.sampled_from(CUTS), data=st.data())
def test_resumed_batches_are_the_tail(n: int, cut: tuple[int, int], data: st.DataObject) -> None:
    plan = plan_of(n, 2, *cut)
    start = data.draw(st.integers(0, plan.optimizer_steps))
    whole, tail = list(RankBatches(plan, 0, 0)), list(RankBatches(plan, 0, start))
    assert tail == whole[start * plan.accumulate :]


def test_published_number_of_optimizer_steps() -> None:
    """565,096 rollouts in batches of 512; 10 % take 110 to 111 steps, all take 1,100 to 1,104."""
    order = np.arange(56_509)
    plan = BatchPlan(order, np.ones(56_509, dtype=int), 512, 4, 4)
    assert plan.optimizer_steps == 111
    assert plan.accumulate == 32
