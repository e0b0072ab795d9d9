"""Charts, questions and their right values."""

import numpy as np
import pytest

from mprm.chartworld.world import (
    BAR_SLOTS,
    COLOURS,
    GAP,
    IMAGE_SIZE,
    KIND_SHARES,
    KINDS,
    MAX_HEIGHT,
    NAMES,
    PARTS,
    PATCH,
    UNIT,
    Problems,
    draw,
    part_of,
    question_text,
    sample_part,
    sample_problems,
    true_items,
)


@pytest.fixture(scope="module")
def many() -> Problems:
    return sample_problems(np.random.default_rng(0), 4000)


def test_the_right_items_are_readings_then_partial_results_then_the_answer(
    plus_minus: Problems, difference: Problems
) -> None:
    assert true_items(plus_minus).tolist() == [[4, 7, 2, 11, 9, 9, 0, 0]]  # red, blue, green, 4 + 7, 11 - 2, answer
    assert true_items(difference).tolist() == [[8, 3, 5, 5, 0, 0, 0, 0]]  # black, orange, 8 - 3, answer


def test_questions_in_words(plus_minus: Problems, difference: Problems, many: Problems) -> None:
    assert question_text(plus_minus, 0) == "What is red plus blue minus green?"
    assert question_text(difference, 0) == "How much taller is black than orange?"
    total = int(np.flatnonzero(many.kind_P == KINDS.index("total"))[0])
    assert question_text(many, total) == "What is the sum of all bars?"


def test_sampled_charts_have_three_or_four_bars_of_different_colours(many: Problems) -> None:
    present_PB = many.height_PB > 0
    assert set(present_PB.sum(1)) == {3, 4}
    assert ((many.colour_PB >= 0) == present_PB).all()
    assert many.height_PB.max() == MAX_HEIGHT
    for colours, present in zip(many.colour_PB[:200], present_PB, strict=False):
        assert len(set(colours[present])) == present.sum()


def test_sampled_questions_are_about_bars_that_are_there_each_at_most_once(many: Problems) -> None:
    for row in range(200):
        operands = [bar for bar in many.operand_PO[row] if bar >= 0]
        assert len(set(operands)) == len(operands) == many.n_operands_P[row]
        assert (many.height_PB[row, operands] > 0).all()
        if KINDS[many.kind_P[row]] == "total":
            assert operands == sorted(operands)
            assert len(operands) == (many.height_PB[row] > 0).sum()


def test_no_right_item_is_negative_and_kinds_have_their_shares(many: Problems) -> None:
    assert true_items(many).min() >= 0
    shares = np.bincount(many.kind_P, minlength=len(KINDS)) / len(many)
    assert shares == pytest.approx(KIND_SHARES, abs=0.03)


def test_problems_depend_on_the_seed_alone() -> None:
    first, second, other = (sample_problems(np.random.default_rng(seed), 50) for seed in (3, 3, 4))
    for name in Problems.__dataclass_fields__:
        assert (getattr(first, name) == getattr(second, name)).all()
    assert (first.height_PB != other.height_PB).any()


def test_colours_and_heights_can_be_read_from_the_pixels(many: Problems) -> None:
    some = many.take(np.arange(100))
    images = draw(some)
    assert images.shape == (100, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert images.dtype == np.uint8
    for row, pixels in enumerate(images):
        for bar in range(BAR_SLOTS):
            slot = pixels[:, bar * PATCH : (bar + 1) * PATCH]
            painted = (slot != 255).any(axis=2)
            assert not painted[:, :GAP].any()
            assert not painted[:, -GAP:].any()
            inside = painted[:, GAP:-GAP]
            heights = inside.sum(axis=0)
            assert (heights == UNIT * some.height_PB[row, bar]).all()
            # Bars stand on the lower edge: nothing is painted above the first white pixel.
            assert (inside == (np.arange(IMAGE_SIZE)[::-1, None] < heights)).all()
            if some.height_PB[row, bar]:
                colour = COLOURS[NAMES[some.colour_PB[row, bar]]]
                assert (slot[:, GAP:-GAP][inside] == colour).all()


def test_no_chart_is_in_two_parts_and_every_part_has_its_share(many: Problems) -> None:
    shown = {}
    for part in sorted(set(PARTS)):
        problems = sample_part(np.random.default_rng(0), 3000, part)
        assert len(problems) == 3000
        assert {PARTS[index] for index in part_of(problems)} == {part}
        shown[part] = {image.tobytes() for image in draw(problems)}
    assert sum(map(len, shown.values())) == len(set().union(*shown.values()))
    assert np.bincount(part_of(many), minlength=len(PARTS)) / len(many) == pytest.approx(1 / len(PARTS), abs=0.02)


def test_the_part_is_the_charts_and_not_the_questions(plus_minus: Problems, many: Problems) -> None:
    other = Problems(many.kind_P[::-1], many.colour_PB, many.height_PB, many.operand_PO[::-1], many.sign_PO[::-1])
    assert (part_of(other) == part_of(many)).all()
    assert part_of(plus_minus).tolist() == [3]  # the shipped weights stand on it: another hash needs new ones
