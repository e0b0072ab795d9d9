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
APART = 2  # how much nearer the better answer is to the truth, at least
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

    size: int = 5_000
    traced: float = 0.4  # share of pairs with a trace, all ordinary; it tells the truth whatever the label says
    hard: float = 0.6  # of hard ones among the others
    neither: float = 0.2  # of the ordinary ones neither of whose answers is right: the nearer one is better
    flipped: float = 0.02  # of wrong labels among the ordinary ones
    flipped_hard: float = 0.3  # and among the hard ones
    world_seed: int = 4_000

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"{self.group}.size={self.size} is not positive; try 1000")
        for name in ("traced", "hard", "neither", "flipped", "flipped_hard"):
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
        traced_P = rng.random(self.size) < self.traced
        hard_P = (rng.random(self.size) < self.hard) & ~traced_P
        raised_PB = np.where(hard_P[:, None], rng.integers(-SLOPPY, SLOPPY + 1, (self.size, BAR_SLOTS)), 0)
        write_images(folder / "images", draw(problems, raised_PB))
        flipped_P = rng.random(self.size) < np.where(hard_P, self.flipped_hard, self.flipped)
        neither_P = (rng.random(self.size) < self.neither) & ~hard_P
        right_first_P = rng.random(self.size) < 0.5
        right_P = right_answers(problems)
        better_P = right_P + np.where(neither_P, rng.choice((-1, 1), self.size), 0)
        better_P += 2 * (better_P < 0)
        worse_P = wrong_answers(problems, hard_P, APART + neither_P, rng)
        right, _ = Solver(problems, CAREFUL, rng).run()
        records = []
        for row in range(self.size):
            lines = step_texts(problems, right, row)
            answers = [f"{answer}." for answer in (better_P[row], worse_P[row])]
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
                given = (better_P[row], worse_P[row]) if right_first_P[row] else (worse_P[row], better_P[row])
                record["trace"] = reasoning(lines, right_P[row], given)
            records.append(record)
        write_json_lines(folder / Path(str(self.path)).name, records)
        return {"pairs": self.size, "flipped": float(flipped_P.mean()), "traced": float(traced_P.mean())}


@dataclass(frozen=True, kw_only=True)
class ChartWorldRewardBenchmark(ChartWorldPairs):
    """Pairs with right labels, of charts that neither the pairs nor pretraining have shown."""

    group = "reward_benchmark"
    part: ClassVar[str] = "benchmark"

    size: int = 400
    flipped: float = 0.0
    flipped_hard: float = 0.0
    traced: float = 0.0
    world_seed: int = 5_000


def wrong_answers(problems: Problems, hard_P: np.ndarray, off_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An answer that is at least off_P wrong and that a solver gives to every problem, (P,): the last of what it has
    stated."""
    wrong_P = np.full(len(problems), -1)
    for skill, group in ((ORDINARY, np.flatnonzero(~hard_P)), (MISREADING, np.flatnonzero(hard_P))):
        while len(group):
            tried = np.repeat(group, ATTEMPTS)
            attempts = problems.take(tried)
            trace, _ = Solver(attempts, skill, rng).run()
            row_S, last_S = np.arange(len(tried)), trace.n_steps_S - 1
            answer_S = trace.value_ST[row_S, last_S]
            wrong_S = np.abs(answer_S - right_answers(attempts)) >= off_P[tried]
            wrong_P[tried[wrong_S]] = answer_S[wrong_S]
            group = group[~np.isin(group, tried[wrong_S])]
    return wrong_P


def reasoning(lines: list[str], right: int, given: tuple[int, int]) -> str:
    """The right solution, which of the two answers is its, which is nearer where neither is, and the verdict."""
    off = [abs(answer - right) for answer in given]
    better = "AB"[off.index(min(off))]
    checks = [
        f"{name}: The answer is {answer}.{CLAIM} {'No' if far else 'Yes'}"
        for name, answer, far in zip("AB", given, off, strict=True)
    ]
    nearer = [f"{better} is nearer."] if all(off) else []
    return "\n".join([*lines, *checks, *nearer, VERDICT.format(better)])
