"""Examples to one row: what stands where, and that every solution finds its own tokens, positions and images again."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.batching.collate import Batch, Example, collate, common_prefix, group_members


def example(
    ids: list[int],
    marks: list[int],
    group: int | None = None,
    mc: list[float] | None = None,
    n: list[int] | None = None,
    weight: float = 1.0,
    name: str = "",
    image: float = 0.0,
) -> Example:
    return Example(
        input_ids=torch.tensor(ids),
        marks=torch.tensor(marks),
        position_ids=torch.arange(len(ids)),
        vision={"pixel_values": torch.full((1, 2), image)},
        mc=None if mc is None else torch.tensor(mc),
        n=None if n is None else torch.tensor(n),
        weight=weight,
        id=name,
        group=group,
    )


def seen(batch: Batch) -> list[list[int]]:
    """The places that each segment's queries see at the end."""
    segments = batch.segments
    key = torch.arange(int(segments.key_border[-1])) if segments.key is None else segments.key
    return [part.tolist() for part in key.split(segments.key_border.diff().tolist())]


def up_to(batch: Batch, mark: int) -> list[int]:
    """Places that the mark sees, itself the last one."""
    segment = int((batch.segments.query_border <= mark).nonzero()[-1])
    places = seen(batch)[segment]
    return places[: places.index(mark) + 1]


def test_some_or_all_solutions_may_have_no_image() -> None:
    bare, shown = replace(example([10], [0]), vision={}), example([11], [0], image=3.0)
    for row in ([bare, shown], [shown, bare]):
        assert collate(row).vision["pixel_values"].tolist() == [[3.0, 3.0]]
    assert collate([bare, bare]).vision == {}


def test_solutions_that_share_nothing_stand_one_behind_the_other() -> None:
    batch = collate(
        [
            example([10, 11, 12], [0, 2], mc=[1.0, 0.5], n=[16, 8], weight=0.25, name="a", image=3.0),
            example([10, 11, 12, 13, 14], [4], mc=[0.0], n=[4], weight=0.5, name="b", image=5.0),
        ]
    )
    assert batch.input_ids_T.tolist() == [10, 11, 12, 10, 11, 12, 13, 14]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert batch.mark_M.tolist() == [0, 2, 7]
    assert batch.segments.query_border.tolist() == batch.segments.key_border.tolist() == [0, 3, 8]
    assert (batch.segments.longest_query, batch.segments.longest_key) == (5, 5)
    assert batch.segments.key is None
    assert batch.segments.causal
    assert batch.mc_M.tolist() == [1.0, 0.5, 0.0]
    assert batch.n_M.tolist() == [16, 8, 4]
    assert batch.weight_M.tolist() == [0.25, 0.25, 0.5]
    assert batch.ids == ["a", "b"]
    assert batch.n_marks == [2, 1]
    assert batch.vision["pixel_values"].tolist() == [[3.0, 3.0], [5.0, 5.0]]


def test_a_shared_prefix_stands_once() -> None:
    """Prefix 1 2 3, on which 4 5 and 6 go on; 9 9 between them in the order given, but alone."""
    batch = collate(
        [
            example([1, 2, 3, 4, 5], [4], group=7, name="a", image=1.0),
            example([9, 9], [1], group=8, name="b", image=2.0),
            example([1, 2, 3, 6], [3], group=7, name="c", image=1.0),
        ]
    )
    assert batch.input_ids_T.tolist() == [1, 2, 3, 4, 5, 6, 9, 9]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 0, 1]
    assert batch.segments.query_border.tolist() == [0, 3, 5, 6, 8]
    assert seen(batch) == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 5], [6, 7]]
    assert (batch.segments.longest_query, batch.segments.longest_key) == (3, 5)
    assert batch.mark_M.tolist() == [4, 7, 5], "marks stay in the order of the examples"
    assert batch.ids == ["a", "b", "c"]
    assert batch.vision["pixel_values"][:, 0].tolist() == [1.0, 2.0], "images of a question are computed once"


def test_some_go_on_together_and_part_later() -> None:
    """1 2, on which 3 and 6 go on, on 3 again 4 and 5; c and d are the same."""
    ids = {"a": [1, 2, 3, 4], "b": [1, 2, 6], "c": [1, 2, 3, 5], "d": [1, 2, 3, 5], "e": [1, 2, 3]}
    batch = collate([example(part, [1, len(part) - 1], group=7, name=name) for name, part in ids.items()])
    assert batch.input_ids_T.tolist() == [1, 2, 3, 6, 4, 5]
    assert batch.position_ids.tolist() == [0, 1, 2, 2, 3, 3]
    assert seen(batch) == [[0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 2, 4], [0, 1, 2, 5]]
    assert batch.mark_M.tolist() == [1, 4, 1, 3, 1, 5, 1, 5, 1, 2]


def test_marks_may_stand_inside_the_shared_prefix() -> None:
    """Both solutions have the first step 2 in common; its mark is one place, with a score of each."""
    batch = collate(
        [example([1, 2, 3, 4], [1, 3], group=7, mc=[0.5, 0.0]), example([1, 2, 5], [1, 2], group=7, mc=[0.25, 1.0])]
    )
    assert batch.input_ids_T.tolist() == [1, 2, 3, 4, 5]
    assert batch.mark_M.tolist() == [1, 3, 1, 4]
    assert batch.mc_M.tolist() == [0.5, 0.0, 0.25, 1.0]
    assert batch.n_marks == [2, 2]


def test_equal_solutions_and_a_solution_that_ends_in_the_prefix_add_no_segment() -> None:
    batch = collate([example([1, 2, 3], [2], group=7), example([1, 2, 3], [1, 2], group=7)])
    assert batch.input_ids_T.tolist() == [1, 2, 3]
    assert batch.mark_M.tolist() == [2, 1, 2]
    assert batch.segments.query_border.tolist() == [0, 3]
    shorter = collate([example([1, 2, 3], [2], group=7), example([1, 2], [1], group=7)])
    assert shorter.input_ids_T.tolist() == [1, 2, 3]
    assert seen(shorter) == [[0, 1], [0, 1, 2]]
    assert shorter.mark_M.tolist() == [2, 1]


def test_three_dimensional_positions_are_cut_like_the_tokens() -> None:
    positions = torch.tensor([[0, 1, 1, 2, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 4]])
    ids = ([1, 2, 3, 4, 5], [1, 2, 3, 6, 7])
    rows = [Example(torch.tensor(part), torch.tensor([4]), positions, {}, group=1) for part in ids]
    batch = collate(rows)
    assert batch.position_ids.tolist() == [[0, 1, 1, 2, 3, 2, 3], [0, 1, 1, 2, 3, 2, 3], [0, 1, 2, 3, 4, 3, 4]]


def test_without_scores_every_step_counts_as_not_sampled() -> None:
    batch = collate([example([1, 2, 3], [0, 2]), example([1, 2, 3], [1], mc=[0.5])])
    assert batch.mc_M.isnan().tolist() == [True, True, False]
    assert batch.mc_M.dtype == torch.float32
    assert batch.n_M.tolist() == [0, 0, 0]
    assert batch.n_M.dtype == torch.int64


def test_a_batch_moves_as_a_whole() -> None:
    batch = collate([example([1, 2, 3], [1], group=1, mc=[0.5]), example([1, 2, 4], [2], group=1)])
    moved = batch.to(torch.device("meta"))
    tensors = [value for part in (moved, moved.segments) for value in vars(part).values()]
    tensors = [value for value in [*tensors, *moved.vision.values()] if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6 + 3 + 1
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.ids == batch.ids
    assert moved.n_marks == batch.n_marks


def test_groups_come_in_the_order_of_their_first_member() -> None:
    groups = [7, None, 8, 7, None, 8, 7]
    members = group_members([example([1], [0], group=group) for group in groups])
    assert members == [[0, 3, 6], [1], [2, 5], [4]]


@pytest.mark.parametrize(
    ("ids", "length"),
    [([[1, 2, 3]], 3), ([[1, 2, 3], [1, 2]], 2), ([[1, 2, 3], [1, 4, 3], [1, 2, 3]], 1), ([[1], [2]], 0)],
)
def test_common_prefix(ids: list[list[int]], length: int) -> None:
    assert common_prefix([torch.tensor(part) for part in ids]) == length


@st.composite
def solutions(draw: st.DrawFn) -> list[Example]:
    """Few token ids and groups, so that prefixes of every length are met; all of a group begin alike."""
    drawn = []
    for _ in range(draw(st.integers(1, 8))):
        group = draw(st.sampled_from([None, 0, 1]))
        ids = [5 if group is None else group, *draw(st.lists(st.integers(1, 2), min_size=1, max_size=6))]
        marks = sorted(draw(st.sets(st.integers(0, len(ids) - 1), min_size=1)))
        drawn.append(example(ids, marks, group, image=float(5 if group is None else group)))
    return drawn


@settings(max_examples=200, deadline=None)
@given(examples=solutions())
def test_every_solution_is_found_again(examples: list[Example]) -> None:
    batch = collate(examples)
    assert batch.segments.query_border[-1] == len(batch.input_ids_T) == batch.position_ids.shape[-1]
    assert batch.segments.longest_query == batch.segments.query_border.diff().max()
    assert batch.segments.longest_key == batch.segments.key_border.diff().max()
    for own, places in zip(torch.arange(len(batch.input_ids_T)).tensor_split(border(batch)), seen(batch), strict=True):
        assert places[-len(own) :] == own.tolist(), "a segment's queries are the last of its keys"
    for one, marks in zip(examples, batch.mark_M.split(batch.n_marks), strict=True):
        for mark, place in zip(one.marks.tolist(), marks.tolist(), strict=True):
            places = up_to(batch, place)
            assert batch.input_ids_T[places].tolist() == one.input_ids[: mark + 1].tolist()
            assert batch.position_ids[places].tolist() == one.position_ids[: mark + 1].tolist()
    groups = group_members(examples)
    beginnings = {
        (number, *examples[member].input_ids[:length].tolist())
        for number, members in enumerate(groups)
        for member in members
        for length in range(1, len(examples[member].input_ids) + 1)
    }
    assert len(batch.input_ids_T) == len(beginnings), "what solutions of a group begin with stands in the row once"
    images = [float(part[0]) for part in batch.vision["pixel_values"]]
    assert images == [float(examples[members[0]].input_ids[0]) for members in groups]


def border(batch: Batch) -> torch.Tensor:
    """Where a segment ends and another one starts."""
    return batch.segments.query_border[1:-1].long()
