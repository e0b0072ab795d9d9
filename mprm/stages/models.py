"""The models that stages use, what their scores depend on, and what a training can use of the data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import is_rank_zero, reading, redo_remedy, weights_written, write_json_lines
from mprm.runs.journal import Journal, journal
from mprm.runs.names import model_name, short_names
from mprm.stages.stage import LEFT_OUT, Stage, W
from mprm.tasks import JUDGE_TASKS, MODEL
from mprm.terminal import listed, say, tracked

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from mprm.backbones.base import Processor, StepModel
    from mprm.batching.examples import Examples
    from mprm.inference.scoring import OpenImages, Score
    from mprm.metrics.predictions import NotScored, StepScores
    from mprm.prms.prm import ScoredBy
    from mprm.training.lengths import HasImages, Measured

ENTROPY_VERSION = 1  # enters the key of the cache: raise it when entropies change their meaning
AT_ONCE = 64  # rollouts: what a kill can lose
RESTORABLE = ("missing_image_file", "unreadable_image")  # looked for again the next time

Entropies = dict[str, "float | str"]  # by the rollout's id: its entropy, or why it has none


def check_devices(cfg: Config) -> None:
    """Raises ValueError if the trainer wants more CUDA devices than there are, or DeepSpeed without any."""
    import torch

    if cfg.trainer.accelerator == "gpu" and torch.cuda.device_count() < cfg.trainer.devices:
        count = torch.cuda.device_count()
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}, but this machine has {count} CUDA devices; try trainer=cpu"
        )
    if cfg.trainer.strategy.startswith("deepspeed") and cfg.trainer.accelerator != "gpu":
        raise ValueError(f"trainer.strategy={cfg.trainer.strategy} needs trainer.accelerator=gpu; try trainer=ddp_cpu")


def check_before_selection(cfg: Config) -> None:
    """Raises ValueError for what a training will want and has not: devices, the backbone's folder."""
    if not cfg.check:  # it needs none
        check_devices(cfg)
    cfg.backbone.folder()


def device(cfg: Config) -> str:
    return "cuda" if cfg.trainer.accelerator == "gpu" else "cpu"


def max_tokens(cfg: Config) -> int:
    """Of a forward pass that keeps nothing for a backward pass."""
    return 2 * cfg.trainer.max_tokens


def load_backbone(cfg: Config) -> tuple[Any, Any]:
    """Processor and step model, which writes if it is a judge; what is drawn at random is drawn by the seed."""
    import torch

    torch.manual_seed(cfg.seed)  # adapters, and a mark drawn at random
    processor, model = cfg.backbone.load()
    if cfg.task in JUDGE_TASKS:
        model.train_generation()
    return processor, model


def load_scorer(cfg: Config, run: str | None) -> ScoredBy:
    """What scores solutions: the model of a run or an exported folder; without one model=, or the backbone as it lies
    in its folder."""
    from mprm.scorer import StepScorer

    if run is not None:
        return StepScorer.from_pretrained(run, device(cfg), max_tokens=max_tokens(cfg)).scored
    if cfg.has_model:
        return cfg.model.scorer(max_tokens(cfg), device(cfg))
    return StepScorer(*load_backbone(cfg), cfg.backbone.max_length, max_tokens(cfg), device(cfg)).scored


def scoring(scored_by: ScoredBy, open_images: OpenImages, doing: str) -> Score:
    """Scores solutions as they come, with a progress bar."""
    return lambda solutions: tracked(scored_by(solutions, open_images), len(solutions), doing)


def check_scored(found: Mapping[str, StepScores | NotScored], what: str, kept: Journal) -> None:
    """Raises ValueError if none is scored; what was kept then does not stand in the way of other options."""
    from mprm.metrics.predictions import NotScored

    unscored = [one for one in found.values() if isinstance(one, NotScored)]
    if unscored and len(unscored) == len(found):
        kept.remove()
        reasons = listed(Counter(one.reason for one in unscored))
        raise ValueError(f"none of {len(found)} {what} is scored ({reasons}), the first: {unscored[0].message}")


def open_by(image_path: Callable[[str], Path]) -> OpenImages:
    """Opens images by the names that a reader's image_path knows."""
    from mprm.batching.examples import open_images

    return lambda names: open_images([image_path(name) for name in names])


def identity(cfg: Config, run: str | None) -> dict[str, Any]:
    """What the scores depend on: the model's folder, when its weights were written, and its options."""
    own = cfg.model if cfg.has_model else cfg.backbone
    folder = Path(run or str(own.path)).resolve()
    options = {} if run else asdict(own)
    kind = {"prm": type(own).__name__} if cfg.has_model else {}
    return kind | {"folder": str(folder), "written": weights_written(folder), "backbone": options or None}


def models_of(cfg: Config) -> dict[str, str | None]:
    """The models by name: the one that run= names, or all trained runs in that folder; without run= that of model=, or
    the backbone."""
    if cfg.run is None:
        return {model_name(str(cfg.raw[MODEL if cfg.has_model else "backbone"].path)): None}
    folder = Path(cfg.run)
    if (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return {folder.resolve().name: cfg.run}
    runs = [path.parent for path in sorted(folder.glob("*/weights.safetensors"))]
    if not runs:
        raise ValueError(f"run={cfg.run} is no run and holds none that is trained; give runs/NAME or a folder of runs")
    return dict(zip(short_names([run.name for run in runs]), map(str, runs), strict=True))


def add_entropy(cfg: Config, rows: pa.Table) -> pa.Table:
    """Rows of a signals table with the columns entropy, in nats, and no_entropy, the reason where there is none.

    The entropies are those under the backbone as it lies in its folder, of the rows that are ranked and can be trained
    on; the others have neither. CACHE/entropy/KEY.journal keeps what was computed, by the content of the annotations
    and the backbone: a killed run goes on, and no rollout is computed twice.

    Raises ValueError if the images or the backbone have no folder, or no rollout has an entropy.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from mprm.data.mixture import reading_of

    images = cfg.dataset.image_folder.place
    if images is None and pc.any(pc.greater(pc.list_value_length(rows["image_hashes"]), 0)).as_py():
        raise ValueError("dataset.images is not set, and entropies depend on the images; give the folder of the images")
    cfg.backbone.folder()
    looked_at = rows["ranked"].to_numpy() & ~rows["drop_reason"].is_valid().to_numpy()
    names = zip(rows["source"].to_pylist(), rows["line"].to_pylist(), strict=True)
    ids = [f"{source}:{line}" for source, line in names]
    wanted = {ids[row]: int(row) for row in np.flatnonzero(looked_at)}
    data_hash = rows.schema.metadata[b"data_hash"].decode()
    settings = [ENTROPY_VERSION, data_hash, *reading_of(cfg.dataset), images, identity(cfg, None)]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    with journal(Path(cfg.cache) / "entropy" / key, settings, cache_of="entropies") as kept:
        missing = [row for name, row in wanted.items() if name not in kept.done]
        found = _computed(cfg, rows.take(pa.array(missing)), kept) if missing else {}
        found |= {name: kept.done[name] for name in wanted if name in kept.done}
    reasons = Counter(value for value in found.values() if isinstance(value, str))
    if wanted and reasons.total() == len(wanted):
        counts = listed(dict(reasons.most_common()))
        raise ValueError(
            f"none of {len(wanted)} rollouts has an entropy ({counts}); see dataset.images and backbone.max_length"
        )
    values = [found.get(name) for name in ids]
    entropy = [value if isinstance(value, float) else None for value in values]
    reason = [value if isinstance(value, str) else None for value in values]
    rows = rows.append_column("entropy", pa.array(entropy, pa.float64()))
    return rows.append_column("no_entropy", pa.array(reason, pa.string()).dictionary_encode())


def _computed(cfg: Config, rows: pa.Table, kept: Journal) -> Entropies:
    """Add entropies to the journal, computed on the trainer's device. Returns those that it does not keep."""
    from mprm.inference.scoring import ScoreRequest, Scoring
    from mprm.metrics.predictions import NotScored
    from mprm.selection.examples import read_examples

    check_devices(cfg)
    requests = [
        ScoreRequest(record["id"], record["images"], record["question"], record["steps"])
        for batch in read_examples(cfg.dataset, rows)
        for record in batch.to_pylist()
    ]
    processor, model = load_backbone(cfg)
    by_model = Scoring(model, processor, cfg.backbone.max_length, max_tokens(cfg), device(cfg))
    entropies = by_model.entropies(requests, open_by(cfg.dataset.image_folder.path))
    restorable: Entropies = {}

    def lasting() -> Iterator[tuple[str, float | str]]:
        for name, found in tracked(entropies, len(requests), "computing entropies"):
            value = found.reason if isinstance(found, NotScored) else found
            if value in RESTORABLE:
                restorable[name] = value
            else:
                yield name, value

    kept.add_each(lasting(), AT_ONCE)
    return restorable


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
    if run.finished(stage.ready) or not is_rank_zero():
        with reading(file, redo_remedy(stage.name)):
            listed_before = [json.loads(line) for line in file.read_bytes().splitlines()]
            reasons = {record["id"]: record["reason"] for record in listed_before}
        left_out = [{i: reasons[name] for i, name in enumerate(part.ids) if name in reasons} for part in parts]
        return [measure_again(part, faults, workers) for part, faults in zip(parts, left_out, strict=True)]
    found, records = [], []
    for part in parts:
        measured, faults = measure(part, longest, workers, cfg.cache)
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
