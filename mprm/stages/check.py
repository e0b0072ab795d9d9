"""check=true: what a training will read, need and take, told without one. No GPU is needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.data.records import usable_records
from mprm.stages.judgements import listed
from mprm.terminal import say

if TYPE_CHECKING:
    from mprm.backbones.base import StepModel
    from mprm.data.visualprocessbench import Solution
    from mprm.training.lengths import Measured


def read_benchmark(cfg: Config) -> tuple[list[Solution], dict[str, int]]:
    """Its solutions, and how many records are none by reason: read before a training, not after it.

    Raises ValueError if there is none, or no step that can be right or wrong.
    """
    solutions, dropped = usable_records(cfg.benchmark, "benchmark")
    if not any(label for solution in solutions for label in solution.labels):
        raise ValueError(
            f"benchmark.path={cfg.benchmark.path}: no step of its {len(solutions)} solutions is labelled 1 or -1; give "
            "a benchmark with labels"
        )
    return solutions, dropped


def tell_benchmark(cfg: Config) -> None:
    """Read the benchmark, decode its pictures, and print what is in it."""
    from mprm.training.lengths import broken_pictures

    solutions, dropped = read_benchmark(cfg)
    named = SimpleNamespace(images=[one.images for one in solutions], image_path=cfg.benchmark.image_folder.path)
    broken = broken_pictures(named, cfg.trainer.num_workers, Path(cfg.cache))
    reasons = Counter(dropped)
    for one in solutions:
        reasons.update([broken[name].reason for name in one.images if name in broken][:1])
    labels = Counter(label for one in solutions for label in one.labels)
    steps = ", ".join(f"{labels[label]:,} labelled {label}" for label in (1, -1, 0))
    unusable = f"; not used: {listed(reasons)}" if reasons else ""
    say(f"benchmark: {len(solutions):,} solutions with {labels.total():,} steps, {steps}{unusable}")


def tell_training(cfg: Config, model: StepModel, train: Measured, validation: Measured, n_kept: int) -> None:
    """Print rollouts, steps, tokens and optimizer steps, and what these will take of memory and time."""
    from mprm.training import pace
    from mprm.training.disk import announce_disk
    from mprm.training.fit import announce_memory, check_counts, make_plans

    if cfg.objective.kappa:
        check_counts(train.examples, validation.examples)
    model.set_kappa(cfg.objective.kappa)
    records: Any = train.examples.records
    steps = sum(len(records[position]["steps"]) for position in train.usable.tolist())
    tokens = train.lengths.tokens[train.usable]
    plan, _ = make_plans(train, validation, cfg.objective, cfg.order, cfg.recipe, cfg.trainer, cfg.seed)
    left_out = f", left out {listed(train.left_out)}" if train.left_out else ""
    say(
        f"rollouts: {len(tokens):,} to train on, of {n_kept:,} kept ({n_kept - len(train.lengths):,} are held out by "
        f"question and image{left_out}); {len(validation.usable):,} for validation"
    )
    say(f"steps: {steps:,}; tokens: {tokens.sum():,}, {tokens.mean():.1f} a rollout, {tokens.max():,} the longest")
    say(
        f"training: {plan.optimizer_steps:,} optimizer steps of {cfg.recipe.global_batch_size} rollouts "
        f"({cfg.recipe.GROUP}.epochs={cfg.recipe.epochs}), each {plan.accumulate} forward passes of every device"
    )
    announce_memory(model, cfg.trainer, plan.most_keys)
    announce_disk(model, cfg.trainer, Path(cfg.runs) / str(cfg.name))
    say(f"time: {pace.words(model, train, plan, cfg.objective, cfg.recipe, cfg.trainer)}")
