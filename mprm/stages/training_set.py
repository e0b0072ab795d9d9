"""What a training can use of the data, looked at and measured by the first rank for all, and what it will need."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import is_rank_zero, reading, redo_remedy, write_json_lines
from mprm.stages.models import identity
from mprm.stages.stage import LEFT_OUT, Stage, W
from mprm.terminal import listed, say

if TYPE_CHECKING:
    from datasets import Dataset

    from mprm.backbones.base import Processor, StepModel
    from mprm.batching.examples import Examples
    from mprm.training.lengths import HasImages, Measured


def split(cfg: Config, subset: Dataset, held_out: Dataset, processor: Processor) -> list[Examples]:
    """The kept rollouts that are not held out, and those that are.

    Raises ValueError if there are none of the former.
    """
    from mprm.batching.examples import Examples

    never_trained_on = set(held_out["id"])  # with every rollout that shares a question or an image with one of them
    chosen = [i for i, rollout in enumerate(subset["id"]) if rollout not in never_trained_on]
    if not chosen:
        raise ValueError(
            f"no rollout is left to train on beside the {len(held_out)} of held_out={cfg.held_out}; lower it"
        )
    parts = subset.select(chosen), held_out
    return [Examples(records, cfg.dataset.image_folder.path, processor) for records in parts]


def usable(work: W, stage: Stage[W], *parts: HasImages) -> list[Measured]:
    """The parts with their lengths; left_out.jsonl lists what is left out of them, one JSON line each with the reason.

    The list is written before the stage is ready, and from then on holds: another rank and a resumed run train on the
    same, whatever has been repaired since.

    Raises ValueError if nothing is left of the first part, or an image that was sound before no longer is.
    """
    from mprm.training.lengths import measure, measure_again

    cfg, run = work.cfg, work.run
    (file,) = (run.path / name for name in stage.files if Path(name).name == LEFT_OUT)
    workers, longest = cfg.trainer.num_workers, cfg.backbone.max_length
    depends_on = [stage.name, stage.inputs(work), identity(cfg, None)]
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
    kept = [Path(cfg.cache) / "lengths" / f"{key}-{number}.npz" for number in range(len(parts))]
    if run.finished(stage.ready) or not is_rank_zero():
        with reading(file, redo_remedy(stage.name)):
            listed_before = [json.loads(line) for line in file.read_bytes().splitlines()]
            reasons = {record["id"]: record["reason"] for record in listed_before}
        left_out = [{i: reasons[name] for i, name in enumerate(part.ids) if name in reasons} for part in parts]
        given = zip(parts, left_out, kept, strict=True)
        return [measure_again(part, faults, workers, lengths) for part, faults, lengths in given]
    found, records = [], []
    for part, lengths in zip(parts, kept, strict=True):
        measured, faults = measure(part, longest, workers, cfg.cache, lengths)
        found.append(measured)
        records += [{**part.origin(position), **fault._asdict()} for position, fault in faults.items()]
    write_json_lines(file, records)
    if records:
        counts = listed(Counter(record["reason"] for record in records))
        say(f"left out before the training: {counts} -> {file}")
        if not len(found[0].usable):
            raise ValueError(
                f"none of {len(found[0].lengths)} rollouts can be trained on ({counts}); {file} tells what is "
                "wrong with each: restore the images, raise backbone.max_length, or choose another backbone="
            )
    return found


def tell_training(cfg: Config, model: StepModel, train: Measured, validation: Measured, n_kept: int) -> None:
    """Print rollouts, steps, tokens and optimizer steps, and what these will take of memory and time."""
    from mprm.training.cost import announce
    from mprm.training.module import StepScoring, learnt
    from mprm.training.planner import plan_parts
    from mprm.training.recipe import Schedule

    train, share = learnt(cfg.objective, train)
    module = StepScoring(model, cfg.objective, Schedule(cfg.recipe, cfg.trainer, cfg.order, cfg.seed), share)
    module.prepare()
    part, _ = plan_parts(module, train, validation)
    records: Any = train.examples.records
    steps = sum(len(records[position]["steps"]) for position in train.usable.tolist())
    tokens = train.lengths.tokens[train.usable]
    left_out = f", left out {listed(train.left_out)}" if train.left_out else ""
    say(
        f"rollouts: {len(tokens):,} to train on, of {n_kept:,} kept ({n_kept - len(train.lengths):,} are held out by "
        f"question and image{left_out}); {len(validation.usable):,} for validation"
    )
    say(f"steps: {steps:,}; tokens: {tokens.sum():,}, {tokens.mean():.1f} a rollout, {tokens.max():,} the longest")
    key = "epochs" if cfg.recipe.steps is None else "steps"
    say(
        f"training: {part.plan.optimizer_steps:,} optimizer steps of {cfg.recipe.global_batch_size} rollouts "
        f"({cfg.recipe.GROUP}.{key}={getattr(cfg.recipe, key)}), each of {part.plan.accumulate} forward passes a device"
    )
    announce(module, part, Path(cfg.runs) / str(cfg.name), with_time=True)
