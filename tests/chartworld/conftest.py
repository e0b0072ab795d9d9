"""Problems whose answers can be worked out by hand."""

import numpy as np
import pytest

from mprm.chartworld.world import BAR_SLOTS, KINDS, NAMES, OPERAND_SLOTS, Problems


def problem(kind: str, bars: dict[str, int], operands: list[str], signs: list[int]) -> Problems:
    """One chart with these bars from left to right, and one question about the named ones."""
    colours, heights = list(bars), list(bars.values())
    empty = BAR_SLOTS - len(bars)
    unused = OPERAND_SLOTS - len(operands)
    return Problems(
        kind_P=np.array([KINDS.index(kind)]),
        colour_PB=np.array([[NAMES.index(colour) for colour in colours] + [-1] * empty]),
        height_PB=np.array([heights + [0] * empty]),
        operand_PO=np.array([[colours.index(operand) for operand in operands] + [-1] * unused]),
        sign_PO=np.array([signs + [1] * unused]),
    )


@pytest.fixture
def plus_minus() -> Problems:
    """blue 7, red 4, green 2: what is red plus blue minus green?"""
    return problem("plus_minus", {"blue": 7, "red": 4, "green": 2}, ["red", "blue", "green"], [1, 1, -1])


@pytest.fixture
def difference() -> Problems:
    """black 8, orange 3, purple 5: how much taller is black than orange?"""
    return problem("difference", {"black": 8, "orange": 3, "purple": 5}, ["black", "orange"], [1, -1])
