"""The world: bar charts, questions about them, and the items that a solution states one after the other.

A problem over M operands has 2M items: M readings ("red is 4."), M-1 partial results ("red 4 + blue 7 = 11.")
and the answer. Everything is kept as arrays over problems, so that millions of
continuations can be simulated at once; texts and pixels are made at the end.

Shape suffixes: P problems, B bar slots (4), O operand slots (4), I item slots (8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (214, 39, 40),
    "blue": (31, 119, 220),
    "green": (44, 160, 44),
    "orange": (255, 140, 0),
    "purple": (130, 60, 170),
    "black": (30, 30, 30),
}
NAMES = tuple(COLOURS)
KINDS = ("sum_of_two", "difference", "sum_of_three", "plus_minus", "total")
KIND_SHARES = (0.24, 0.20, 0.20, 0.16, 0.20)
OPERANDS_OF_KIND = {"sum_of_two": 2, "difference": 2, "sum_of_three": 3, "plus_minus": 3}
BAR_SLOTS = OPERAND_SLOTS = 4
ITEM_SLOTS = 2 * OPERAND_SLOTS
MAX_HEIGHT = 8
PATCH = 14  # pixels of a vision patch in both architectures; a bar is one patch wide
IMAGE_SIZE = BAR_SLOTS * PATCH
GAP = 2  # pixels of white on both sides of a bar
UNIT = IMAGE_SIZE // MAX_HEIGHT  # pixels per unit of height
# Who shows a chart, by a hash of what is on it. There are 61,440 charts with three bars and 1,474,560 with four.
PARTS = (*["pretraining"] * 4, *["corpus"] * 2, "benchmark", "questions")


@dataclass(frozen=True)
class Problems:
    """P charts with one question each."""

    kind_P: np.ndarray  # index into KINDS
    colour_PB: np.ndarray  # index into NAMES, -1 where the chart has no such bar
    height_PB: np.ndarray  # 1..8, 0 where there is no bar
    operand_PO: np.ndarray  # bar that the o-th operand reads, -1 beyond the question's operands
    sign_PO: np.ndarray  # +1 or -1

    def __len__(self) -> int:
        return len(self.kind_P)

    @property
    def n_operands_P(self) -> np.ndarray:
        return (self.operand_PO >= 0).sum(axis=1)

    def take(self, index: np.ndarray) -> Problems:
        return Problems(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def sample_problems(rng: np.random.Generator, count: int) -> Problems:
    """Draw `count` problems: three or four bars of different colours, a question of one of KINDS.

    A difference is asked of the taller bar and `plus_minus` never goes below zero, as a person would ask.
    """
    kind_P = rng.choice(len(KINDS), size=count, p=KIND_SHARES)
    n_bars_P = rng.integers(3, BAR_SLOTS + 1, size=count)
    slot_B = np.arange(BAR_SLOTS)
    present_PB = slot_B < n_bars_P[:, None]
    colour_PB = np.argsort(rng.random((count, len(NAMES))), axis=1)[:, :BAR_SLOTS]
    height_PB = np.where(present_PB, rng.integers(1, MAX_HEIGHT + 1, size=(count, BAR_SLOTS)), 0)
    # A random order of the present bars; `total` reads them from left to right instead.
    order_PB = np.argsort(rng.random((count, BAR_SLOTS)) + ~present_PB, axis=1)
    order_PB = np.where((kind_P == KINDS.index("total"))[:, None], slot_B, order_PB)
    n_operands_P = np.array([OPERANDS_OF_KIND.get(kind, 0) for kind in KINDS])[kind_P]
    n_operands_P = np.where(n_operands_P == 0, n_bars_P, n_operands_P)
    operand_PO = np.where(slot_B < n_operands_P[:, None], order_PB, -1)
    operand_height_PO = np.take_along_axis(height_PB, order_PB, axis=1)
    swap_P = (kind_P == KINDS.index("difference")) & (operand_height_PO[:, 0] < operand_height_PO[:, 1])
    operand_PO[swap_P, :2] = operand_PO[swap_P, 1::-1]
    sign_PO = np.ones((count, OPERAND_SLOTS), dtype=np.int64)
    sign_PO[kind_P == KINDS.index("difference"), 1] = -1
    minus_P = (kind_P == KINDS.index("plus_minus")) & (operand_height_PO[:, :2].sum(1) >= operand_height_PO[:, 2])
    sign_PO[minus_P, 2] = -1
    return Problems(kind_P, np.where(present_PB, colour_PB, -1), height_PB, operand_PO, sign_PO)


def part_of(problems: Problems) -> np.ndarray:
    """Index into PARTS of every chart, (P,): a hash of its colours and heights, so no chart is in two parts."""
    code_P = np.zeros(len(problems), dtype=np.uint64)
    for colour_P, height_P in zip((problems.colour_PB + 1).T, problems.height_PB.T, strict=True):
        code_P = code_P * np.uint64(64) + (8 * colour_P + height_P).astype(np.uint64)
    # The finalizer of MurmurHash3.
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        code_P = (code_P ^ (code_P >> np.uint64(33))) * np.uint64(factor)
    return ((code_P ^ (code_P >> np.uint64(33))) % np.uint64(len(PARTS))).astype(np.int64)


def sample_part(rng: np.random.Generator, count: int, part: str) -> Problems:
    """The first `count` problems of those drawn whose charts are in `part`."""
    indices = np.flatnonzero(np.array(PARTS) == part)
    draws = count * len(PARTS) // len(indices)
    while True:
        draws += draws // 8 + 64  # enough but for a rare chance: then all is drawn again, and more
        drawn = sample_problems(rng, draws)
        rows = np.flatnonzero(np.isin(part_of(drawn), indices))
        if len(rows) >= count:
            return drawn.take(rows[:count])


def true_items(problems: Problems) -> np.ndarray:
    """Right value of every item, (P, I): readings first, then partial results, then the answer; 0 beyond."""
    n_operands_P = problems.n_operands_P
    truth_PI = np.zeros((len(problems), ITEM_SLOTS), dtype=np.int64)
    row_P = np.arange(len(problems))
    running_P = np.zeros(len(problems), dtype=np.int64)
    for operand in range(OPERAND_SLOTS):
        used_P = operand < n_operands_P
        reading_P = problems.height_PB[row_P, problems.operand_PO[:, operand]]
        truth_PI[used_P, operand] = reading_P[used_P]
        running_P = running_P + np.where(used_P, problems.sign_PO[:, operand] * reading_P, 0)
        if operand > 0:
            truth_PI[row_P[used_P], (n_operands_P + operand - 1)[used_P]] = running_P[used_P]
    truth_PI[row_P, 2 * n_operands_P - 1] = running_P
    return truth_PI


def right_answers(problems: Problems) -> np.ndarray:
    """The right answer to every question, (P,)."""
    return true_items(problems)[np.arange(len(problems)), 2 * problems.n_operands_P - 1]


def question_text(problems: Problems, index: int) -> str:
    """The question in words."""
    kind = KINDS[problems.kind_P[index]]
    first, *others = operand_names(problems, index)
    if kind == "total":
        return "What is the sum of all bars?"
    if kind == "difference":
        return f"How much taller is {first} than {others[0]}?"
    words = ["plus" if sign > 0 else "minus" for sign in problems.sign_PO[index, 1:]]
    return f"What is {first}" + "".join(f" {word} {name}" for word, name in zip(words, others, strict=False)) + "?"


def operand_names(problems: Problems, index: int) -> list[str]:
    """Colour names of the operands in the order in which they are read."""
    bars = [bar for bar in problems.operand_PO[index] if bar >= 0]
    return [NAMES[problems.colour_PB[index, bar]] for bar in bars]


def draw(problems: Problems, raised_PB: np.ndarray | int = 0) -> np.ndarray:
    """Pixels of every chart, (P, 56, 56, 3) uint8: coloured bars on white, seven pixels per unit of height.

    raised_PB: pixels by which every bar is drawn too high, negative: too low; a sloppy drawing.
    """
    palette = np.array([(255, 255, 255), *COLOURS.values()], dtype=np.uint8)
    column_W = np.arange(IMAGE_SIZE)
    painted_W = (column_W % PATCH >= GAP) & (column_W % PATCH < PATCH - GAP)
    bar_W = column_W // PATCH
    pixels_PB = np.where(problems.height_PB > 0, UNIT * problems.height_PB + raised_PB, 0)
    pixels_PW = np.where(painted_W, pixels_PB[:, bar_W], 0)
    colour_PW = problems.colour_PB[:, bar_W] + 1
    depth_H = IMAGE_SIZE - 1 - np.arange(IMAGE_SIZE)  # pixels above the lower edge
    filled_PHW = depth_H[None, :, None] < pixels_PW[:, None, :]
    return palette[np.where(filled_PHW, colour_PW[:, None, :], 0)]
