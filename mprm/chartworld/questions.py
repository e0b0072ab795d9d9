"""Questions about charts of a part of the world of their own; and pairs of answers for a judge to compare, some of
them hard, some labels wrong, some with a trace of reasoning.

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

from mprm.chartworld.corpus import make, write_images
from mprm.chartworld.solver import CLAIM, Skill, Solver, step_texts
from mprm.chartworld.world import BAR_SLOTS, KINDS, Problems, draw, question_text, right_answers, sample_part
from mprm.data.lines import Dropped
from mprm.data.questions import Pair, PairFile, Question, QuestionFile
from mprm.runs.artifacts import write_json_lines

HELD_OUT_SEED = 2_000
SLOPPY = 5  # pixels
ORDINARY = Skill(misread=0.12, slip=0.10, look_again=0.10, illusion=0.0)
MISREADING = Skill(misread=0.20, slip=0.0, look_again=0.10, illusion=0.0)
CAREFUL = Skill(misread=0.0, slip=0.0, look_again=0.0, illusion=0.0, doubt=0.0, remark=0.0)
VERDICT = "The better answer is {}."  # as in conf/judge
ATTEMPTS = 6  # at a problem in one go; problems without a wrong answer are attempted again


@dataclass(frozen=True, kw_only=True)
class ChartWorldQuestions(QuestionFile):
    """`size` questions, written on first use. With another seed than the default one they are, e.g., annotated and
    trained on, and ask about charts of the corpus's part: never about one of the default questions'."""

    size: int = 500
    world_seed: int = HELD_OUT_SEED

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"questions.size={self.size} is not positive; try 500")

    def records(self) -> Iterator[Question | Dropped]:
        if self.path is None:
            raise ValueError("questions.path is not set; give the file to write, e.g. data/questions/questions.jsonl")
        make(Path(self.path).parent, {"size": self.size, "world_seed": self.world_seed, "part": self.part}, self._write)
        return super().records()

    def _write(self, folder: Path) -> dict[str, Any]:
        problems = sample_part(np.random.default_rng(self.world_seed), self.size, self.part)
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

    @property
    def part(self) -> str:
        """Of the world, whose charts are asked about."""
        return "questions" if self.world_seed == HELD_OUT_SEED else "corpus"


@dataclass(frozen=True, kw_only=True)
class ChartWorldPairs(PairFile):
    """`size` pairs, written on first use."""

    part: ClassVar[str] = "corpus"  # of the world, whose charts are asked about

    size: int = 6_000
    hard: float = 0.4  # share of hard pairs
    flipped: float = 0.05  # of wrong labels among the ordinary ones
    flipped_hard: float = 0.35  # and among the hard ones
    traced: float = 0.5  # of pairs with a trace, which tells the truth whatever the label says
    world_seed: int = 4_000

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"{self.group}.size={self.size} is not positive; try 1000")
        for name in ("hard", "flipped", "flipped_hard", "traced"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{self.group}.{name}={getattr(self, name)} is not a share, 0 to 1")

    def records(self) -> Iterator[Pair | Dropped]:
        if self.path is None:
            raise ValueError(f"{self.group}.path is not set; give the file to write, e.g. data/pairs/pairs.jsonl")
        settings = {name: value for name, value in asdict(self).items() if name not in ("path", "images")}
        skills = {"ordinary": asdict(ORDINARY), "misreading": asdict(MISREADING), "sloppy": SLOPPY, "part": self.part}
        make(Path(self.path).parent, settings | skills, self._write)
        return super().records()

    def _write(self, folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng([self.world_seed, self.size])
        problems = sample_part(rng, self.size, self.part)
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


@dataclass(frozen=True, kw_only=True)
class ChartWorldRewardBenchmark(ChartWorldPairs):
    """Pairs with right labels, of charts that neither the pairs nor pretraining have shown."""

    group = "reward_benchmark"
    part: ClassVar[str] = "benchmark"

    size: int = 1_000
    flipped: float = 0.0
    flipped_hard: float = 0.0
    traced: float = 0.0
    world_seed: int = 5_000


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
