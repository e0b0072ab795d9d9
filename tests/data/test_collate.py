"""Examples to batches."""

import pytest
import torch

from mprm.data.collate import Example, collate


def example(
    length: int, marks: list[int], mc: list[float] | None = None, weight: float = 1.0, name: str = ""
) -> Example:
    return Example(
        input_ids=torch.arange(10, 10 + length),
        marks=torch.tensor(marks),
        position_ids=torch.arange(length),
        vision={"pixel_values": torch.full((len(marks), 2), float(length))},
        mc=None if mc is None else torch.tensor(mc),
        weight=weight,
        id=name,
    )


def test_rows_are_padded_on_the_right_and_marks_point_into_them() -> None:
    rows = [example(3, [0, 2], [1.0, 0.5], 0.25, "a"), example(5, [4], [0.0], 0.5, "b")]
    batch = collate(rows, pad_id=7)
    assert batch.input_ids_BL.tolist() == [[10, 11, 12, 7, 7], [10, 11, 12, 13, 14]]
    assert batch.mark_row_M.tolist() == [0, 0, 1]
    assert batch.mark_column_M.tolist() == [0, 2, 4]
    assert batch.input_ids_BL[batch.mark_row_M, batch.mark_column_M].tolist() == [10, 12, 14]
    assert batch.mc_M.tolist() == [1.0, 0.5, 0.0]
    assert batch.weight_M.tolist() == [0.25, 0.25, 0.5]
    assert batch.ids == ["a", "b"]
    assert batch.n_marks == [2, 1]
    assert batch.vision["pixel_values"].tolist() == [[3.0, 3.0], [3.0, 3.0], [5.0, 5.0]]


def test_positions_of_padding_go_on_counting() -> None:
    batch = collate([example(2, [1]), example(4, [3])], pad_id=0)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_three_dimensional_positions_keep_rows_in_the_middle() -> None:
    positions = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 1, 2]])
    rows = [Example(torch.arange(3), torch.tensor([2]), positions, {}) for _ in range(2)]
    longer = Example(torch.arange(5), torch.tensor([4]), torch.arange(5).expand(3, -1), {})
    batch = collate([*rows, longer], pad_id=0)
    assert batch.position_ids.shape == (3, 3, 5)
    assert batch.position_ids[:, 0].tolist() == [[0, 1, 1, 2, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_without_scores_every_step_counts_as_not_sampled() -> None:
    batch = collate([example(3, [0, 2]), example(3, [1], [0.5])], pad_id=0)
    assert batch.mc_M.isnan().tolist() == [True, True, False]


def test_a_batch_moves_as_a_whole() -> None:
    batch = collate([example(3, [1], [0.5])], pad_id=0)
    moved = batch.to(torch.device("meta"))
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert all(tensor.is_meta for tensor in [*tensors, *moved.vision.values()])
    assert moved.ids == batch.ids


@pytest.mark.parametrize("pad_id", [0, 3])
def test_padding_has_no_effect_on_what_is_not_padding(pad_id: int) -> None:
    short, long = example(3, [2], [0.5]), example(6, [5], [0.5])
    together, alone = collate([short, long], pad_id), collate([short], pad_id)
    assert together.input_ids_BL[0, :3].equal(alone.input_ids_BL[0])
    assert together.input_ids_BL[0, 3:].eq(pad_id).all()
    assert together.position_ids[0, :3].equal(alone.position_ids[0])
