"""The world on disk: annotated rollouts as VisualPRM400K-v1.1-Raw has them, and a benchmark as VisualProcessBench.

Both are written on first use, by seed, and read by the readers of the real data. Statistics go to world.json.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mprm.chartworld.solver import REMARK, Skill, Solver, Trace, annotate, step_texts
from mprm.chartworld.world import KINDS, Problems, draw, question_text, right_answers, sample_part
from mprm.data.lines import Dropped
from mprm.data.records import Solution, VisualProcessBench
from mprm.data.visualprm400k import VisualPRM400K
from mprm.runs.artifacts import atomic_folder, read_json, write_json, write_json_lines
from mprm.terminal import say

# One source per solver. Calibrated to the published statistics of VisualPRM400K-v1.1-Raw.
SOLVERS = {
    "careful": Skill(misread=0.008, slip=0.004, look_again=0.50),
    "steady": Skill(misread=0.023, slip=0.008, look_again=0.50),
    "average": Skill(misread=0.040, slip=0.012, look_again=0.35),
    "hasty": Skill(misread=0.031, slip=0.031, look_again=0.25),
    "blurry": Skill(misread=0.084, slip=0.008, look_again=0.40),
    "stubborn": Skill(misread=0.021, slip=0.008, look_again=0.05),
    "doubtful": Skill(misread=0.074, slip=0.024, look_again=0.50),
    "wild": Skill(misread=0.084, slip=0.031, look_again=0.20),
}
TEMPERATURE = 3.0  # continuations are sampled hotter than the rollouts were
ROLLOUTS_PER_PROBLEM = 4
# The benchmark's policy errs far more often, and remarks often: neutral steps.
BENCHMARK_SKILL = Skill(misread=0.20, slip=0.14, look_again=0.10, illusion=0.02, doubt=0.03, remark=0.22)


@dataclass(frozen=True, kw_only=True)
class ChartWorld(VisualPRM400K):
    """Annotated rollouts of eight solvers, written to `root` on first use."""

    rollouts: int = 32_000
    continuations: int = 16  # N of the Monte-Carlo annotation
    labels: str = "monte_carlo"  # or truth: K = N for a right step, 0 for a wrong one, the ceiling
    # The annotation stops behind the first step with K = 0, all later ones are 0 of 0; true labels are not annotated.
    early_stop: bool = True
    # How readily a solver that combines returns to a wrong reading, as a factor: the knob of label noise.
    look_back: float = 0.2
    world_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        portion = len(SOLVERS) * ROLLOUTS_PER_PROBLEM
        if self.rollouts < portion or self.rollouts % portion:
            raise ValueError(
                f"dataset.rollouts={self.rollouts} is not a positive multiple of {portion}; give 1024 or 32000"
            )
        if self.labels not in ("monte_carlo", "truth"):
            raise ValueError(f"dataset.labels={self.labels} is unknown; choose monte_carlo or truth")
        if not 0 <= self.look_back <= 1:
            raise ValueError(f"dataset.look_back={self.look_back} is not in 0 to 1; the usual one is 0.2")
        if self.continuations < 1:
            raise ValueError(f"dataset.continuations={self.continuations} is not positive; the published data has 16")

    def files(self) -> dict[str, Path]:
        if self.root is None:
            raise ValueError("dataset.root is not set; give the folder to write the world to, e.g. data/chartworld")
        make(Path(self.root), _settings(self), self._write)
        return super().files()

    def solvers(self) -> dict[str, Skill]:
        """One per source."""
        return {source: replace(skill, look_back=self.look_back) for source, skill in SOLVERS.items()}

    def _write(self, folder: Path) -> dict[str, Any]:
        (folder / "annotations").mkdir()
        tallies = []
        for number, (source, skill) in enumerate(self.solvers().items()):
            rng = np.random.default_rng([self.world_seed, number])
            n_problems = self.rollouts // len(SOLVERS) // ROLLOUTS_PER_PROBLEM
            charts = sample_part(rng, n_problems, "corpus")
            write_images(folder / "images" / source, draw(charts))
            problems = charts.take(np.repeat(np.arange(n_problems), ROLLOUTS_PER_PROBLEM))
            solver = Solver(problems, skill, rng)
            trace, after = solver.run()
            if self.labels == "truth":
                counts_ST = self.continuations * trace.correct_ST.astype(np.int64)
            else:
                counts_ST = annotate(solver, after, self.continuations, TEMPERATURE)
            n_ST = np.full_like(counts_ST, self.continuations)
            if self.early_stop and self.labels == "monte_carlo":
                n_ST[:, 1:][np.logical_or.accumulate(counts_ST == 0, axis=1)[:, :-1]] = 0
                counts_ST = np.minimum(counts_ST, n_ST)
            records = _rollout_records(source, problems, trace, counts_ST, n_ST)
            write_json_lines(folder / "annotations" / f"{source}.jsonl", records)
            tallies.append(_tally(problems, trace, counts_ST, self.continuations))
        return _statistics(np.sum(tallies, axis=0))


@dataclass(frozen=True, kw_only=True)
class ChartWorldBenchmark(VisualProcessBench):
    """Solutions with more errors, a known label per step, and neutral steps."""

    size: int = 1_500
    world_seed: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"benchmark.size={self.size} is not positive; try 1500")

    def records(self) -> Iterator[Solution | Dropped]:
        if self.path is None:
            raise ValueError("benchmark.path is not set; give the file to write, e.g. data/benchmark/test.jsonl")
        make(Path(self.path).parent, _settings(self), self._write)
        return super().records()

    def _write(self, folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(self.world_seed)
        problems = sample_part(rng, self.size, "benchmark")
        trace, _ = Solver(problems, BENCHMARK_SKILL, rng).run()
        write_images(folder / "images", draw(problems))
        labels_ST = np.where(trace.item_ST == REMARK, 0, np.where(trace.correct_ST, 1, -1))
        records = []
        for row, answer in enumerate(right_answers(problems)):
            texts = step_texts(problems, trace, row)
            records.append(
                {
                    "image": [f"images/{row}.png"],
                    "question": question_text(problems, row),
                    "answer": str(answer),
                    "response": {"steps": texts, "process_correctness": labels_ST[row, : len(texts)].tolist()},
                    "policy_model": "chartworld solver",
                    "data_source": KINDS[problems.kind_P[row]],
                }
            )
        write_json_lines(folder / Path(str(self.path)).name, records)
        stated = labels_ST[np.arange(labels_ST.shape[1]) < trace.n_steps_S[:, None]]
        return {f"label {label}": float((stated == label).mean()) for label in (1, -1, 0)}


def _settings(component: ChartWorld | ChartWorldBenchmark) -> dict[str, Any]:
    """What the content of the folder depends on, the solvers included."""
    ignored = {f.name for reader in (VisualPRM400K, VisualProcessBench) for f in fields(reader)}
    settings = {f.name: getattr(component, f.name) for f in fields(component) if f.name not in ignored}
    skills = component.solvers() if isinstance(component, ChartWorld) else {"benchmark": BENCHMARK_SKILL}
    return settings | {"skills": {name: asdict(skill) for name, skill in skills.items()}, "temperature": TEMPERATURE}


def make(folder: Path, settings: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> None:
    """Write the world into `folder`, whole or not at all. Raises ValueError if anything else is there."""
    if (folder / "world.json").is_file():
        world = read_json(folder / "world.json", f"delete {folder}, and it is written again")
        if not isinstance(world, dict) or world.get("settings") != settings:
            raise ValueError(f"{folder} holds a world of other settings; delete it, or give another folder")
        return
    # Writing replaces the folder as a whole: never somebody's own files.
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files that are no chartworld; give a new or an empty folder")
    with atomic_folder(folder) as temporary:
        statistics = write(temporary)
        write_json(temporary / "world.json", {"settings": settings, "statistics": statistics})
    shown = ", ".join(
        f"{name} {value:,.0f}" if value >= 1000 else f"{name} {value:.4g}" for name, value in statistics.items()
    )
    say(f"wrote {folder}: {shown}")


def _rollout_records(
    source: str, problems: Problems, trace: Trace, counts_ST: np.ndarray, n_ST: np.ndarray
) -> Iterator[dict[str, Any]]:
    for row, answer in enumerate(right_answers(problems)):
        texts = step_texts(problems, trace, row)
        question = question_text(problems, row)
        steps = [
            {"step": text, "score": k / n if n else 0.0, "num_mc_correct": k, "num_mc_total": n}
            for text, k, n in zip(texts, counts_ST[row].tolist(), n_ST[row].tolist(), strict=False)
        ]
        yield {
            "image": f"images/{source}/{row // ROLLOUTS_PER_PROBLEM}.png",
            "question": f"<image>\n{question}",
            "question_orig": question,
            "answer": str(answer),
            "response": "\n\n".join(texts),
            "steps_with_score": steps,
        }


def _tally(problems: Problems, trace: Trace, counts_ST: np.ndarray, continuations: int) -> np.ndarray:
    """Rollouts, steps, mixed rollouts, steps with K = 0, sum of scores; then, of readings, combinations and answers,
    wrong ones with K > 0 and wrong ones."""
    stated_ST = np.arange(counts_ST.shape[1]) < trace.n_steps_S[:, None]
    positive_ST = stated_ST & (counts_ST > 0)
    n_positive_S = positive_ST.sum(1)
    mixed_S = (n_positive_S > 0) & (n_positive_S < trace.n_steps_S)
    n_steps = trace.n_steps_S.sum()
    scores = (counts_ST * stated_ST).sum() / continuations
    wrong_ST = stated_ST & ~trace.correct_ST
    n_S1 = problems.n_operands_P[:, None]
    kind_ST = np.where(trace.item_ST < n_S1, 0, np.where(trace.item_ST < 2 * n_S1 - 1, 1, 2))
    wrong = [
        (wrong_ST & (kind_ST == kind) & among_ST).sum() for kind in range(3) for among_ST in (positive_ST, stated_ST)
    ]
    return np.array([len(stated_ST), n_steps, mixed_S.sum(), n_steps - n_positive_S.sum(), scores, *wrong])


def _statistics(tally: np.ndarray) -> dict[str, float]:
    """The statistics by which the world is calibrated to the published corpus, and how noisy its labels are."""
    rollouts, steps, mixed, negative, scores, *wrong = (float(value) for value in tally)
    pseudo = dict(zip(("readings", "combinations", "answers"), zip(wrong[::2], wrong[1::2], strict=True), strict=True))
    return {
        "rollouts": rollouts,
        "steps per rollout": steps / rollouts,
        "mixed rollouts": mixed / rollouts,
        "error steps": negative / steps,
        "mean MC score": scores / steps,
        "pseudo-positive share of positive labels": sum(wrong[::2]) / max(1.0, steps - negative),
        "share of wrong steps labelled positive": sum(wrong[::2]) / max(1.0, sum(wrong[1::2])),
        **{f"of wrong {kind}": positive / max(1.0, all_wrong) for kind, (positive, all_wrong) in pseudo.items()},
    }


def write_images(folder: Path, images_PHWC: np.ndarray) -> None:
    """Write charts as `folder`/0.png, 1.png, ..."""
    folder.mkdir(parents=True)
    for index, pixels in enumerate(images_PHWC):
        Image.fromarray(pixels).save(folder / f"{index}.png", compress_level=1)
