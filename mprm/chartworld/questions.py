"""Questions about charts that neither the default corpus nor the default benchmark shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mprm.chartworld.corpus import (
    ROLLOUTS_PER_PROBLEM,
    SOLVERS,
    ChartWorld,
    ChartWorldBenchmark,
    make,
    write_images,
)
from mprm.chartworld.world import KINDS, Problems, draw, question_text, right_answers, sample_problems
from mprm.data.lines import Dropped
from mprm.data.questions import Question, QuestionFile
from mprm.runs.artifacts import write_json_lines

HELD_OUT_SEED = 2_000
Chart = tuple[int, ...]  # colours and heights of all bars, from left to right


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
