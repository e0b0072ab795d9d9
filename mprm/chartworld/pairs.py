"""Pairs of solutions for a judge to compare, some of them hard, some labels wrong, some with a trace of reasoning.

Of an ordinary pair one solution is right throughout and the other has a wrong answer; of some both are wrong, and the
one that goes wrong later is better. The charts of hard pairs are drawn sloppily: a bar ends up to SLOPPY pixels (of 7
per unit) too high or too low, which nobody can read for certain, and the worse solution has misread a bar and
calculated well. Who labels them errs, too: `flipped` and `flipped_hard` are the shares of labels that are the wrong way
round.

Shape suffixes: P problems, B bars, S attempts at solving them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mprm.artifacts import write_json_lines
from mprm.chartworld.corpus import ChartWorldBenchmark, make, write_images
from mprm.chartworld.questions import charts, held_out_charts
from mprm.chartworld.solver import Skill, Solver, step_texts
from mprm.chartworld.world import BAR_SLOTS, KINDS, Problems, draw, question_text, sample_problems
from mprm.data.preferences import Pair, Preferences
from mprm.data.rollouts import Dropped

SLOPPY = 5  # pixels
ORDINARY = Skill(misread=0.12, slip=0.10, look_again=0.10, illusion=0.0)
MISREADING = Skill(misread=0.20, slip=0.0, look_again=0.10, illusion=0.0)
CAREFUL = Skill(misread=0.0, slip=0.0, look_again=0.0, illusion=0.0, doubt=0.0, remark=0.0)
VERDICT = "The better answer is {}."  # as in conf/judge
ATTEMPTS = 6  # at a problem in one go; problems without a pair are attempted again


@dataclass(frozen=True, kw_only=True)
class ChartWorldPairs(Preferences):
    """Component `preferences`: `size` pairs, written on first use; world_seed: of the world.

    Shares: hard pairs; both_wrong, pairs without a right solution; flipped, flipped_hard: wrong labels among the
    ordinary and the hard pairs; traced: pairs with a trace, which tells the truth whatever the label says.
    """

    MOST: ClassVar[int] = 100_000  # the world has about fifteen times as many charts

    size: int = 3_000
    hard: float = 0.4
    both_wrong: float = 0.15
    flipped: float = 0.05
    flipped_hard: float = 0.35
    traced: float = 0.5
    world_seed: int = 4_000

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.MOST:
            raise ValueError(f"{self.GROUP}.size={self.size} is not in 1 to {self.MOST}")
        for name in ("hard", "both_wrong", "flipped", "flipped_hard", "traced"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{self.GROUP}.{name}={getattr(self, name)} is not a share, 0 to 1")

    def pairs(self) -> Iterator[Pair | Dropped]:
        """Pairs, written now if they are not there yet."""
        if self.path is None:
            raise ValueError(f"{self.GROUP}.path is not set; give the file to write, e.g. data/pairs/pairs.jsonl")
        settings = {name: value for name, value in asdict(self).items() if name not in ("path", "images")}
        skills = {"ordinary": asdict(ORDINARY), "misreading": asdict(MISREADING), "sloppy": SLOPPY}
        make(Path(self.path).parent, settings | skills, self._write)
        return super().pairs()

    def _write(self, folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng([self.world_seed, self.size])
        problems = self._problems(rng)
        hard_P = rng.random(self.size) < self.hard
        raised_PB = np.where(hard_P[:, None], rng.integers(-SLOPPY, SLOPPY + 1, (self.size, BAR_SLOTS)), 0)
        write_images(folder / "images", draw(problems, raised_PB))
        flipped_P = rng.random(self.size) < np.where(hard_P, self.flipped_hard, self.flipped)
        traced_P = rng.random(self.size) < self.traced
        better_first_P = rng.random(self.size) < 0.5
        both_wrong_P = rng.random(self.size) < self.both_wrong
        right, _ = Solver(problems, CAREFUL, rng).run()
        records = []
        for row, (better, worse) in enumerate(solutions(problems, hard_P, both_wrong_P, rng)):
            shown = (better, worse) if better_first_P[row] else (worse, better)
            better_name = "a" if better_first_P[row] else "b"
            record = {
                "id": str(row),
                "source": KINDS[problems.kind_P[row]],
                "image": f"images/{row}.png",
                "prompt": question_text(problems, row),
                "answer_a": shown[0].text,
                "answer_b": shown[1].text,
                "label": "a" if better_first_P[row] != flipped_P[row] else "b",
                "flipped": bool(flipped_P[row]),
                "hard": bool(hard_P[row]),
            }
            if traced_P[row]:
                record["trace"] = reasoning(step_texts(problems, right, row), shown, better_name)
            records.append(record)
        write_json_lines(folder / Path(str(self.path)).name, records)
        return {"pairs": self.size, "flipped": float(flipped_P.mean()), "traced": float(traced_P.mean())}

    def _problems(self, rng: np.random.Generator) -> Problems:
        """Charts that pretraining may have shown."""
        drawn = sample_problems(rng, 2 * self.size + 100)  # nearly all of them are allowed
        held_out = held_out_charts()
        allowed = [row for row, chart in enumerate(charts(drawn)) if chart not in held_out]
        return drawn.take(np.array(allowed[: self.size]))


@dataclass(frozen=True, kw_only=True)
class ChartWorldRewardBenchmark(ChartWorldPairs):
    """Component `reward_benchmark`: pairs with right labels, of charts that pretraining has not shown."""

    GROUP: ClassVar[str] = "reward_benchmark"
    MOST: ClassVar[int] = 1_000

    size: int = 1_000
    flipped: float = 0.0
    flipped_hard: float = 0.0
    traced: float = 0.0
    world_seed: int = 5_000

    def _problems(self, rng: np.random.Generator) -> Problems:
        """Of the default benchmark, as it draws them."""
        drawn = sample_problems(np.random.default_rng(ChartWorldBenchmark().world_seed), self.MOST)
        return drawn.take(np.arange(self.size))


@dataclass(frozen=True)
class Attempt:
    """A solution. wrong_line: the first line that is wrong, counted from 1, None: all is right; right_answer: its last
    line is right, whatever went wrong before."""

    lines: list[str]
    wrong_line: int | None
    right_answer: bool

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def solutions(
    problems: Problems, hard_P: np.ndarray, both_wrong_P: np.ndarray, rng: np.random.Generator
) -> list[tuple[Attempt, Attempt]]:
    """A better and a worse solution of every problem, whose answer is wrong."""
    found: dict[int, tuple[Attempt, Attempt]] = {}
    for skill, group in ((ORDINARY, np.flatnonzero(~hard_P)), (MISREADING, np.flatnonzero(hard_P))):
        while len(group):
            for row, tried in zip(group.tolist(), attempts(problems.take(group), skill, rng), strict=True):
                wrong = sorted((one for one in tried if not one.right_answer), key=lambda one: -(one.wrong_line or 0))
                right = [one for one in tried if one.wrong_line is None]
                better = wrong[:1] if both_wrong_P[row] else right
                if better and wrong and better[0].wrong_line != wrong[-1].wrong_line:
                    found[row] = (better[0], wrong[-1])
            group = np.array([row for row in group if row not in found], dtype=np.int64)
    return [found[row] for row in range(len(problems))]


def attempts(problems: Problems, skill: Skill, rng: np.random.Generator) -> list[list[Attempt]]:
    """ATTEMPTS solutions of every problem."""
    repeated = problems.take(np.repeat(np.arange(len(problems)), ATTEMPTS))
    trace, _ = Solver(repeated, skill, rng).run()
    tried = []
    for row, n_steps in enumerate(trace.n_steps_S.tolist()):
        right = trace.correct_ST[row, :n_steps]
        wrong_line = None if right.all() else int(right.argmin()) + 1
        tried.append(Attempt(step_texts(repeated, trace, row), wrong_line, bool(right[-1])))
    return [tried[start : start + ATTEMPTS] for start in range(0, len(tried), ATTEMPTS)]


def reasoning(right_lines: list[str], shown: tuple[Attempt, Attempt], better: str) -> str:
    """The right solution, what is wrong in either answer, and the verdict."""
    findings = [
        f"{name} is right." if one.wrong_line is None else f"{name}: line {one.wrong_line} is wrong."
        for name, one in zip("AB", shown, strict=True)
    ]
    return "\n".join([*right_lines, *findings, VERDICT.format(better.upper())])
