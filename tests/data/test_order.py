"""Orders of training."""

from mprm.data.order import FileOrder, Shuffled


def test_shuffled_is_a_permutation_given_by_seed_and_epoch() -> None:
    order = Shuffled()
    first = order.epoch(50, seed=1, epoch=0).tolist()
    assert sorted(first) == list(range(50))
    assert order.epoch(50, seed=1, epoch=0).tolist() == first
    others = [order.epoch(50, seed=1, epoch=1).tolist(), order.epoch(50, seed=2, epoch=0).tolist()]
    assert all(other != first and sorted(other) == list(range(50)) for other in others)


def test_file_order_is_the_same_every_epoch() -> None:
    assert all(FileOrder().epoch(5, seed, epoch).tolist() == [0, 1, 2, 3, 4] for seed in (0, 1) for epoch in (0, 1))
