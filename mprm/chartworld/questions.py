"""Questions about charts that neither the default corpus nor the default benchmark shows; and pairs of answers for a
judge to compare, some of them hard, some labels wrong, some with a trace of reasoning.

Two solvers answer a chart's question, one rightly and one wrongly. The charts of hard pairs are drawn sloppily: a bar
ends up to SLOPPY pixels (of 7 per unit) too high or too low, which nobody can read for certain, and the wrong solver
has misread a bar and calculated well. Who labels the pairs errs, too: `flipped` and `flipped_hard` are the shares of
labels that are the wrong way round.

Shape suffixes: P problems, B bars, S attempts at solving them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mprm.chartworld.corpus import ROLLOUTS_PER_PROBLEM, SOLVERS, ChartWorld, ChartWorldBenchmark, make, write_images
from mprm.chartworld.solver import CLAIM, Skill, Solver, step_texts
from mprm.chartworld.world import BAR_SLOTS, KINDS, Problems, draw, question_text, right_answers, sample_problems
from mprm.data.lines import Dropped
from mprm.data.questions import Pair, PairFile, Question, QuestionFile
from mprm.runs.artifacts import write_json_lines

HELD_OUT_SEED = 2_000
Chart = tuple[int, ...]  # colours and heights of all bars, from left to right
SLOPPY = 5  # pixels
ORDINARY = Skill(misread=0.12, slip=0.10, look_again=0.10, illusion=0.0)
MISREADING = Skill(misread=0.20, slip=0.0, look_again=0.10, illusion=0.0)
CAREFUL = Skill(misread=0.0, slip=0.0, look_again=0.0, illusion=0.0, doubt=0.0, remark=0.0)
VERDICT = "The better answer is {}."  # as in conf/judge
ATTEMPTS = 6  # at a problem in one go; problems without a wrong answer are attempted again


@dataclass(frozen=True, kw_only=True)
class ChartWorldQuestions(QuestionFile):
    """`size` questions, written on first use. The charts of another seed than the default one are none of the default
    questions' either."""

    size: int = 500
    world_seed: int = HELD_OUT_SEED

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"questions.size={self.size} is not positive; try 500")

    def records(self) -> Iterator[Question | Dropped]:
        if self.path is None:
            raise ValueError("questions.path is not set; give the file to write, e.g. data/questions/questions.jsonl")
        make(Path(self.path).parent, {"size": self.size, "world_seed": self.world_seed}, self._write)
        return super().records()

    def _write(self, folder: Path) -> dict[str, Any]:
        problems = self.problems()
        write_images(folder / "images", draw(problems))
        records = [
            {
                "id": str(row),
                "source": KINDS[problems.kind_P[row]],
                "image": f"images/{row}.png",
                "question": question_text(problems, row),
                "answer": str(answer),
            }
            for row, answer in enumerate(right_answers(problems))
        ]
        write_json_lines(folder / Path(str(self.path)).name, records)
        return {"questions": self.size}

    def problems(self) -> Problems:
        """The charts and questions, drawn."""
        # A small part of what is drawn is in use: twice as many, and a few more, are enough whatever the size.
        drawn = sample_problems(np.random.default_rng(self.world_seed), 2 * self.size + 100)
        seen = charts_in_use()
        if self.world_seed != HELD_OUT_SEED:  # e.g. to be annotated and trained on
            seen |= set(charts(ChartWorldQuestions().problems()))
        new = [row for row, chart in enumerate(charts(drawn)) if chart not in seen]
        assert len(new) >= self.size
        return drawn.take(np.array(new[: self.size]))


def charts(problems: Problems) -> list[Chart]:
    """What every chart shows."""
    return [tuple(row) for row in np.hstack([problems.colour_PB, problems.height_PB]).tolist()]


def charts_in_use() -> set[Chart]:
    """The charts of the default corpus and the default benchmark, which their generators draw first of all."""
    corpus, benchmark = ChartWorld(), ChartWorldBenchmark()
    n_problems = corpus.rollouts // len(SOLVERS) // ROLLOUTS_PER_PROBLEM
    draws: list[tuple[Any, int]] = [([corpus.world_seed, number], n_problems) for number in range(len(SOLVERS))]
    draws.append((benchmark.world_seed, benchmark.size))
    return {chart for seed, count in draws for chart in charts(sample_problems(np.random.default_rng(seed), count))}


def held_out_charts() -> set[Chart]:
    """The charts of the default benchmark and of the default questions: pretraining shows none of them."""
    benchmark = ChartWorldBenchmark()
    shown = sample_problems(np.random.default_rng(benchmark.world_seed), benchmark.size)
    return {*charts(shown), *charts(ChartWorldQuestions().problems())}


@dataclass(frozen=True, kw_only=True)
class ChartWorldPairs(PairFile):
    """`size` pairs, written on first use."""

    MOST: ClassVar[int] = 100_000  # the world has about fifteen times as many charts

    size: int = 6_000
    hard: float = 0.4  # share of hard pairs
    flipped: float = 0.05  # of wrong labels among the ordinary ones
    flipped_hard: float = 0.35  # and among the hard ones
    traced: float = 0.5  # of pairs with a trace, which tells the truth whatever the label says
    world_seed: int = 4_000

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.MOST:
            raise ValueError(f"{self.group}.size={self.size} is not in 1 to {self.MOST}")
        for name in ("hard", "flipped", "flipped_hard", "traced"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{self.group}.{name}={getattr(self, name)} is not a share, 0 to 1")

    def records(self) -> Iterator[Pair | Dropped]:
        if self.path is None:
            raise ValueError(f"{self.group}.path is not set; give the file to write, e.g. data/pairs/pairs.jsonl")
        settings = {name: value for name, value in asdict(self).items() if name not in ("path", "images")}
        skills = {"ordinary": asdict(ORDINARY), "misreading": asdict(MISREADING), "sloppy": SLOPPY}
        make(Path(self.path).parent, settings | skills, self._write)
        return super().records()

    def _write(self, folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng([self.world_seed, self.size])
        problems = self._problems(rng)
        hard_P = rng.random(self.size) < self.hard
        raised_PB = np.where(hard_P[:, None], rng.integers(-SLOPPY, SLOPPY + 1, (self.size, BAR_SLOTS)), 0)
        write_images(folder / "images", draw(problems, raised_PB))
        flipped_P = rng.random(self.size) < np.where(hard_P, self.flipped_hard, self.flipped)
        traced_P = rng.random(self.size) < self.traced
        right_first_P = rng.random(self.size) < 0.5
        wrong_P = wrong_answers(problems, hard_P, rng)
        right, _ = Solver(problems, CAREFUL, rng).run()
        records = []
        for row in range(self.size):
            lines = step_texts(problems, right, row)
            answers = [lines[-1], f"The answer is {wrong_P[row]}."]
            if not right_first_P[row]:
                answers.reverse()
            record = {
                "id": str(row),
                "source": KINDS[problems.kind_P[row]],
                "image": f"images/{row}.png",
                "prompt": question_text(problems, row),
                "answer_a": answers[0],
                "answer_b": answers[1],
                "label": "a" if right_first_P[row] != flipped_P[row] else "b",
                "flipped": bool(flipped_P[row]),
                "hard": bool(hard_P[row]),
            }
            if traced_P[row]:
                record["trace"] = reasoning(lines, answers)
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
    """Pairs with right labels, of charts that pretraining has not shown."""

    group = "reward_benchmark"
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


def wrong_answers(problems: Problems, hard_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wrong answer that a solver gives to every problem, (P,): the last of what it has stated."""
    wrong_P = np.full(len(problems), -1)
    for skill, group in ((ORDINARY, np.flatnonzero(~hard_P)), (MISREADING, np.flatnonzero(hard_P))):
        while len(group):
            tried = np.repeat(group, ATTEMPTS)
            attempts = problems.take(tried)
            trace, _ = Solver(attempts, skill, rng).run()
            row_S, last_S = np.arange(len(tried)), trace.n_steps_S - 1
            answer_S = trace.value_ST[row_S, last_S]
            wrong_S = answer_S != right_answers(attempts)
            wrong_P[tried[wrong_S]] = answer_S[wrong_S]
            group = group[~np.isin(group, tried[wrong_S])]
    return wrong_P


def reasoning(right_lines: list[str], answers: list[str]) -> str:
    """The right solution, which of the two answers is its, and the verdict."""
    found = [answer == right_lines[-1] for answer in answers]
    checks = [
        f"{name}: {answer}{CLAIM} {'Yes' if right else 'No'}"
        for name, answer, right in zip("AB", answers, found, strict=True)
    ]
    return "\n".join([*right_lines, *checks, VERDICT.format("AB"[found.index(True)])])
