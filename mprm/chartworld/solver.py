"""The stochastic solver: it misreads bars, slips in arithmetic, and sometimes looks again and recovers.

All simulations advance in lockstep. The state of one simulation is the value stated last for every item and the
item to state next, so that a prefix of a solution can be copied N times and continued: true Monte-Carlo
annotation, as Math-Shepherd and VisualPRM400K do it with a language model.

Shape suffixes: S simulations, I item slots (8), T steps.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from mprm.chartworld.world import ITEM_SLOTS, MAX_HEIGHT, Problems, operand_names, true_items

MAX_STEPS = 16  # beyond this many steps a solver no longer doubts itself
ILLUSION = 3  # further off than any misreading, so that no single one undoes it
REMARK = -1  # the item of a step that states nothing
CLAIM = " ?"  # behind a line that a model is asked to judge
REMARKS = ("I look at the chart.", "I combine the bars.")


@dataclass(frozen=True)
class Skill:
    """Chances per step. misread, slip: a wrong reading, a wrong result;
    other_bar: share of the misreadings that give the height of another bar; wrong_operation: share of the slips that
    add for subtract, or subtract for add; all others are off by one, seldom by two;
    look_again: a wrong item is noticed and stated again; doubt: a right one is stated again; remark: an empty step.
    look_back: factor on look_again once a partial result is stated.
    illusion: chance per problem that one bar looks three units off, however often the solver looks: such a problem is
    beyond it, and a prefix is continued rightly only where other errors happen to cancel."""

    misread: float
    slip: float
    look_again: float
    look_back: float = 1.0
    illusion: float = 0.008
    doubt: float = 0.02
    remark: float = 0.055
    other_bar: float = 0.5
    wrong_operation: float = 0.4

    def hotter(self, factor: float) -> Skill:
        """The same solver sampled at a higher temperature: errors are `factor` times as frequent."""
        return replace(self, misread=factor * self.misread, slip=factor * self.slip)


@dataclass
class State:
    """Simulations in lockstep. value_SI: the value stated last; next_S: the item to state next, 2M when finished."""

    value_SI: np.ndarray
    next_S: np.ndarray
    steps_S: np.ndarray

    def take(self, index: np.ndarray) -> State:
        return State(self.value_SI[index], self.next_S[index], self.steps_S[index])


@dataclass(frozen=True)
class Trace:
    """Solutions as arrays, (S, T): the item stated (REMARK for none), its value, whether it is stated again,
    the operand values of a partial result (left, right), and whether the value is the item's right one. Steps beyond
    n_steps_S are void."""

    item_ST: np.ndarray
    value_ST: np.ndarray
    again_ST: np.ndarray
    left_ST: np.ndarray
    right_ST: np.ndarray
    correct_ST: np.ndarray
    n_steps_S: np.ndarray


class Solver:
    """One skill working on given problems (one simulation per problem row)."""

    def __init__(self, problems: Problems, skill: Skill, rng: np.random.Generator) -> None:
        self.truth_SI = true_items(problems)
        self.height_SB = problems.height_PB
        self.n_operands_S = problems.n_operands_P
        self.sign_SI = np.ones((len(problems), ITEM_SLOTS), dtype=np.int64)
        # The sign of the i-th partial result is the sign of its right operand.
        row, operand = np.nonzero(problems.operand_PO[:, 1:] >= 0)
        self.sign_SI[row, self.n_operands_S[row] + operand] = problems.sign_PO[row, operand + 1]
        self.seen_SI = self.truth_SI.copy()
        fooled = np.flatnonzero(rng.random(len(problems)) < skill.illusion)
        bar = rng.integers(0, self.n_operands_S[fooled])
        height = self.truth_SI[fooled, bar]
        self.seen_SI[fooled, bar] += np.where(height > ILLUSION, -ILLUSION, ILLUSION)
        self.skill = skill
        self.rng = rng

    def advance(self, state: State, who: np.ndarray) -> tuple[np.ndarray, ...]:
        """One step of the unfinished simulations `state` (rows `who` of the problems), in place.

        Returns item, value, again, left, right, correct, each (S,).
        """
        skill, rng, row = self.skill, self.rng, np.arange(len(who))
        n_S, truth_SI = self.n_operands_S[who], self.truth_SI[who]
        stated_SI = np.arange(ITEM_SLOTS) < state.next_S[:, None]
        remark_S = (rng.random(len(who)) < skill.remark) & ((state.next_S == 0) | (state.next_S == n_S))
        wrong_SI = stated_SI & (state.value_SI != truth_SI)
        any_wrong_S = wrong_SI.any(axis=1)
        notices_S = skill.look_again * np.where(state.next_S > n_S, skill.look_back, 1.0)
        chance_S = np.where(any_wrong_S, notices_S, np.where(state.next_S > 0, skill.doubt, 0.0))
        again_S = (rng.random(len(who)) < chance_S) & (state.steps_S < MAX_STEPS) & ~remark_S
        # It looks again at what went wrong first, or, without a reason, at what it stated last.
        redo_S = np.where(any_wrong_S, wrong_SI.argmax(axis=1), state.next_S - 1)
        item_S = np.where(again_S, redo_S, state.next_S)

        reading_S, answer_S = item_S < n_S, item_S == 2 * n_S - 1
        # A partial result works on the running result (or the first reading) and on the next reading.
        left_S = np.where(item_S == n_S, state.value_SI[:, 0], state.value_SI[row, np.maximum(item_S - 1, 0)])
        right_S = state.value_SI[row, np.clip(item_S - n_S + 1, 0, ITEM_SLOTS - 1)]
        exact_S = np.where(reading_S, self.seen_SI[who, item_S], left_S + self.sign_SI[who, item_S] * right_S)
        # The answer repeats the last partial result.
        exact_S = np.where(answer_S, state.value_SI[row, item_S - 1], exact_S)
        fails_S = rng.random(len(who)) < np.where(reading_S, skill.misread, np.where(answer_S, 0.0, skill.slip))
        value_S = exact_S.copy()
        failed = np.flatnonzero(fails_S & reading_S)
        value_S[failed] = self.misread(who[failed], item_S[failed])
        failed = np.flatnonzero(fails_S & ~reading_S)
        value_S[failed] = self.slip(exact_S[failed], left_S[failed])

        item_S = np.where(remark_S, REMARK, item_S)
        value_S = np.where(remark_S, 0, value_S)
        says = np.flatnonzero(~remark_S)
        state.value_SI[says, item_S[says]] = value_S[says]
        # A new reading makes the partial results stale: they are worked out again.
        after_S = np.where(again_S, np.where(reading_S, np.minimum(state.next_S, n_S), item_S + 1), state.next_S + 1)
        state.next_S = np.where(remark_S, state.next_S, after_S)
        state.steps_S += 1
        return item_S, value_S, again_S, left_S, right_S, remark_S | (value_S == truth_SI[row, item_S])

    def misread(self, who: np.ndarray, item_S: np.ndarray) -> np.ndarray:
        """What is read instead of the seen height, (S,): never that, and never the right one under an illusion."""
        seen_S, height_SB = self.seen_SI[who, item_S], self.height_SB[who]
        near_S = self.near(len(who))
        near_S = np.where((seen_S + near_S < 1) | (seen_S + near_S > MAX_HEIGHT), -near_S, near_S)
        known_SB = np.stack([seen_S, self.truth_SI[who, item_S], np.zeros_like(seen_S)], axis=1)
        other_SB = (height_SB[:, :, None] != known_SB[:, None]).all(axis=2)
        bar_S = (self.rng.random(other_SB.shape) * other_SB).argmax(axis=1)
        takes_S = (self.rng.random(len(who)) < self.skill.other_bar) & other_SB.any(axis=1)
        return np.where(takes_S, height_SB[np.arange(len(who)), bar_S], seen_S + near_S)

    def slip(self, result_S: np.ndarray, left_S: np.ndarray) -> np.ndarray:
        """What is worked out instead of result_S, (S,), from left_S and a right operand: never result_S."""
        # left - right for left + right, and the other way round.
        wrong_S = np.where(self.rng.random(len(result_S)) < self.skill.wrong_operation, 2 * left_S - result_S, result_S)
        return np.where(wrong_S == result_S, result_S + self.near(len(result_S)), wrong_S)

    def near(self, count: int) -> np.ndarray:
        return self.rng.choice((-2, -1, 1, 2), p=(0.1, 0.4, 0.4, 0.1), size=count)

    def run(self) -> tuple[Trace, list[tuple[np.ndarray, State]]]:
        """Solve every problem once. Also returns, per step, who took it and their states after it."""
        who, zeros_SI = np.arange(len(self.n_operands_S)), np.zeros_like(self.truth_SI)
        state = State(zeros_SI, zeros_SI[:, 0].copy(), zeros_SI[:, 0].copy())
        columns: list[tuple[np.ndarray, ...]] = []
        after: list[tuple[np.ndarray, State]] = []
        n_steps_S = np.zeros(len(who), dtype=np.int64)
        while len(who):
            told = self.advance(state, who)
            n_steps_S[who] += 1
            padded = [np.zeros(len(n_steps_S), dtype=np.int64) for _ in told]
            for full, part in zip(padded, told, strict=True):
                full[who] = part
            columns.append(tuple(padded))
            after.append((who, State(state.value_SI.copy(), state.next_S.copy(), state.steps_S.copy())))
            going = np.flatnonzero(state.next_S < 2 * self.n_operands_S[who])
            state, who = state.take(going), who[going]
        item, value, again, left, right, correct = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
        return Trace(item, value, again.astype(bool), left, right, correct.astype(bool), n_steps_S), after

    def count_right(self, who: np.ndarray, state: State, continuations: int) -> np.ndarray:
        """Right final answers, (S,), where every state is continued `continuations` times."""
        copies = np.repeat(np.arange(len(who)), continuations)
        running, owner, rows = state.take(copies), who[copies], copies
        right_S = np.zeros(len(who), dtype=np.int64)
        while len(owner):
            finished = running.next_S == 2 * self.n_operands_S[owner]
            last = 2 * self.n_operands_S[owner[finished]] - 1
            hit = running.value_SI[finished, last] == self.truth_SI[owner[finished], last]
            np.add.at(right_S, rows[finished], hit)
            going = np.flatnonzero(~finished)
            running, owner, rows = running.take(going), owner[going], rows[going]
            if len(owner):
                self.advance(running, owner)
        return right_S


def annotate(
    solver: Solver, after: list[tuple[np.ndarray, State]], continuations: int, temperature: float
) -> np.ndarray:
    """Right answers out of `continuations` from every prefix, (S, T), continued by the solver at `temperature`."""
    hot = copy(solver)
    hot.skill = solver.skill.hotter(temperature)
    counts_ST = np.zeros((len(solver.n_operands_S), len(after)), dtype=np.int64)
    for step, (who, state) in enumerate(after):
        counts_ST[who, step] = hot.count_right(who, state, continuations)
    return counts_ST


def step_texts(problems: Problems, trace: Trace, index: int) -> list[str]:
    """The solution of problem `index` in words, one string per step."""
    names = operand_names(problems, index)
    n, signs = len(names), problems.sign_PO[index]
    texts = []
    for step in range(trace.n_steps_S[index]):
        item, value, again = trace.item_ST[index, step], trace.value_ST[index, step], trace.again_ST[index, step]
        left, right = trace.left_ST[index, step], trace.right_ST[index, step]
        before = "Again: " if again else ""
        if item == REMARK:
            texts.append(REMARKS[int(step > 0)])
        elif item < n:
            texts.append(f"{before}{names[item]} is {value}.")
        elif item < 2 * n - 1:
            k = item - n + 1
            first = f"{names[0]} {left}" if k == 1 else str(left)
            texts.append(f"{before}{first} {'+' if signs[k] > 0 else '-'} {names[k]} {right} = {value}.")
        else:
            texts.append(f"The answer is {value}.")
    return texts
