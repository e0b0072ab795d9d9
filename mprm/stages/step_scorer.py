"""The line of step scorers: select, train, evaluate. Each stage reads files and writes files into the run folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import file_hash, file_states, is_rank_zero, reading
from mprm.runs.manifest import read_manifest
from mprm.runs.run_folder import config_hash
from mprm.stages.models import (
    add_entropy,
    check_before_selection,
    check_devices,
    load_backbone,
    load_scorer,
    scoring,
)
from mprm.stages.scoring import content_hash, evaluate_model, read_benchmark, report, score_benchmark, tell_benchmark
from mprm.stages.stage import LEFT_OUT, Output, Stage, Work, opened, run_stage, start_tracker
from mprm.stages.training_set import split, tell_training, usable
from mprm.terminal import retyped, say, say_next

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


@dataclass
class StepWork(Work):
    """A run of a step scorer, and what several of its stages read."""

    @cached_property
    def signals(self) -> pa.Table:
        from mprm.selection.signals import build_signals

        return build_signals(self.cfg.dataset, self.cfg.cache)

    @cached_property
    def training_key(self) -> str:
        """SHA-256 of what a training depends on: kept and held-out rollouts, config but for selector and benchmark."""
        from pyarrow.parquet import read_table

        digest = hashlib.sha256(config_hash(self.cfg.raw, leave_out=("selector", "benchmark")).encode())
        digest.update(read_manifest(self.run.path / "subset" / "manifest.json").data_hash.encode())
        for name in ("subset/kept.parquet", "held_out.parquet"):
            with reading(self.run.path / name):
                rows = read_table(self.run.path / name, columns=["source", "line"])
                codes = rows["source"].combine_chunks()
            digest.update(json.dumps(codes.dictionary.to_pylist()).encode())
            digest.update(codes.indices.to_numpy().tobytes())
            digest.update(rows["line"].to_numpy().tobytes())
        return digest.hexdigest()

    def selected_from(self) -> dict[str, str]:
        from mprm.selection.signals import inputs_of

        return inputs_of(self.signals, self.cfg.selector)

    def subset(self) -> Dataset:
        return self._examples("subset/kept.parquet", "subset_examples")

    def held_out(self) -> Dataset:
        return self._examples("held_out.parquet", "held_out_examples")

    def _examples(self, rows: str, name: str) -> Dataset:
        """The rollouts of these rows, memory-mapped; read from the annotations the first time, or when damaged."""
        from datasets import Dataset
        from pyarrow.parquet import read_table

        from mprm.selection.examples import write_examples

        run, part = self.run, f"select/{name}"
        with reading(run.path / rows):
            table, inputs = read_table(run.path / rows), {"rows": file_hash(run.path / rows)}
        if is_rank_zero() and not run.intact(part, inputs):
            write_examples(run.path / name, self.cfg.dataset, table)
            run.finish(part, {}, file_states(run.path, [name]), inputs)
        return Dataset.load_from_disk(str(run.path / name))


def experiment(cfg: Config) -> None:
    """Select, train, evaluate and report."""
    check_before_selection(cfg)
    if is_rank_zero():
        read_benchmark(cfg)  # now, not after the training
    with opened(StepWork, cfg, LINE) as work:
        run_stage(SELECT, work)
        if cfg.check:
            check(work)
            return
        run_stage(TRAIN, work)
        if is_rank_zero():
            evaluated(work)
            say_next("task=export", f"run={work.run.path}", f"output=exported/{work.run.path.name}")


def select(cfg: Config) -> None:
    """Rank the rollouts, keep the subset; with export=FILE also write it in the published training format."""
    from mprm.selection.signals import without_pandas

    without_pandas()
    with opened(StepWork, cfg, LINE) as work:
        run_stage(SELECT, work)
        if cfg.export is not None and is_rank_zero():
            from pyarrow.parquet import ParquetFile

            from mprm.selection.examples import export_published, read_examples

            file = work.run.path / "subset/kept.parquet"
            settings = [work.run.config_hash, work.run.content_hash("subset/kept.parquet")]
            if (output := Output(cfg, "export", settings, [*cfg.dataset.files().values()])).is_made():
                return
            with reading(file):
                kept = ParquetFile(file).read()
            examples = (example for batch in read_examples(cfg.dataset, kept) for example in batch.to_pylist())
            aim = cfg.objective
            counts = export_published(cfg.export, examples, lambda mc: None if aim.ignored(mc) else aim.target(mc))
            skipped = f", left out {counts['skipped']} with unmeasured steps" if counts["skipped"] else ""
            say(f"wrote {counts['written']} rollouts to {cfg.export}{skipped}")
            output.remember()
        say_next(*retyped("train"))


def train(cfg: Config) -> None:
    """Train on the subset, which is selected first if it is not there."""
    check_before_selection(cfg)
    with opened(StepWork, cfg, LINE) as work:
        run_stage(SELECT, work)
        if cfg.check:
            check(work)
        else:
            run_stage(TRAIN, work)
        say_next(*retyped("train" if cfg.check else "evaluate"))


def evaluate(cfg: Config) -> None:
    """Score the benchmark with a trained run's weights; run= names another run, or a folder, model= somebody's PRM."""
    if cfg.run is not None or cfg.has_model:
        evaluate_model(cfg)
        return
    if cfg.output is not None:
        raise ValueError(f"output={cfg.output} goes with run= or model=; else task=evaluate has its own run folder")
    with opened(StepWork, cfg, LINE) as work:
        if not work.run.finished("train", costly=True):
            raise ValueError(f"{work.run.path} has no finished training; run task=train with the same settings first")
        for stage in LINE[:-1]:
            run_stage(stage, work)
        evaluated(work)
        say_next("task=report", f"runs={cfg.runs}")


def evaluated(work: StepWork) -> None:
    """Evaluate, report, and mirror both."""
    new = run_stage(EVALUATE, work)
    report(work.run.path)
    if new:
        start_tracker(work).finish({}, work.run.path)


def _select(work: StepWork) -> dict[str, Any]:
    from mprm.selection.subset import remarks, write_held_out, write_subset

    cfg, run, signals = work.cfg, work.run, work.signals
    entropy = partial(add_entropy, cfg) if cfg.selector.uses_entropy or cfg.order.uses_entropy else None
    manifest = write_subset(run.path / "subset", cfg.dataset, signals, cfg.selector, cfg.seed, entropy)
    held_out = write_held_out(run.path / "held_out.parquet", signals, cfg.held_out)
    kept, eligible = manifest.totals.kept.rollouts, manifest.totals.eligible.rollouts
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items())
    before = f" (dropped before: {dropped})" if dropped else ""
    seconds = monotonic() - work.started  # with the signals, which are looked at before
    say(f"selected {kept:,} of {eligible:,} rollouts{before} in {seconds:.1f} s -> {run.path / 'subset'}")
    told = [words for words in (*manifest.parts_words(), manifest.easier_words(), manifest.unsampled_words()) if words]
    if held_out < cfg.held_out:
        others = "the others share a question or an image with more than so many"
        why = others if held_out < eligible else "none is left to train on; lower held_out"
        told.append(f"held out {held_out:,} rollouts instead of held_out={cfg.held_out}: {why}")
    for line in [*told, *remarks(cfg.dataset, signals)]:
        say(line)
    return {"kept": kept, "eligible": eligible, "seconds": round(seconds, 1)}


def _train(work: StepWork) -> dict[str, Any]:
    from mprm.training.fit import fit
    from mprm.training.module import StepScoring, learnt
    from mprm.training.recipe import Schedule

    cfg, run = work.cfg, work.run
    processor, model = load_backbone(cfg)
    subset = work.subset()
    parts = split(cfg, subset, work.held_out(), processor)
    trained, validated = usable(work, TRAIN, *parts) if cfg.recipe.epochs != 0 else (None, None)
    trained, share = learnt(cfg.objective, trained) if trained else (None, None)
    run.finish(TRAIN.ready, {})
    started = monotonic()
    with start_tracker(work) as tracker:
        module = StepScoring(model, cfg.objective, Schedule(cfg.recipe, cfg.trainer, cfg.order, cfg.seed), share)
        summary: dict[str, Any] = fit(module, trained, validated, run.path, tracker.log)
        summary |= {"rollouts": cfg.recipe.seen(len(trained.usable)) if trained else 0}
        summary |= {"objective": cfg.objective.label} | ({} if share is None else {"positive_share": share})
        tracker.finish({f"train/{name}": value for name, value in summary.items()})
    left_out, held = trained.left_out if trained else {}, len(subset) - len(parts[0])
    if is_rank_zero():
        told = "".join(f", {count:,} {reason}" for reason, count in left_out.items())
        begin = f"trained on {len(trained.usable):,} of" if trained else "untrained, of"
        say(
            f"{begin} the {len(subset):,} rollouts kept; {held:,} are held out by question and image{told}, "
            f"in {monotonic() - started:,.0f} s"
        )
    return summary | {"left_out": left_out, "held_out_rollouts": held}


def _after_training(work: StepWork, taken: bool) -> None:
    """Mirror the curves of a training that was taken from another run."""
    from mprm.reporting.run_record import read_json_lines

    if taken:
        with start_tracker(work) as tracker:
            for line in read_json_lines(work.run.path / "metrics.jsonl") or []:
                tracker.log(line)
            tracker.finish({})


def check(work: StepWork) -> None:
    """Tell what the training will need, which check=true stops before."""
    if is_rank_zero():
        processor, model = load_backbone(work.cfg)
        subset = work.subset()
        parts = split(work.cfg, subset, work.held_out(), processor)
        trained, validated = usable(work, TRAIN, *parts)
        tell_training(work.cfg, model, trained, validated, len(subset))
        tell_benchmark(work.cfg)


def _evaluate(work: StepWork) -> dict[str, Any]:
    from mprm.inference.scoring import ScoreRequest
    from mprm.metrics.predictions import with_labels, write_predictions

    cfg, folder = work.cfg, work.run.path
    check_devices(cfg)
    held_out = list(work.held_out())
    scorer = load_scorer(cfg, str(folder))
    requests = [ScoreRequest(r["id"], r["images"], r["question"], r["steps"]) for r in held_out]
    score = scoring(cfg, str(folder), scorer, "dataset")
    # labels as a benchmark would give them: 0 for a step that was never sampled
    signs = [tuple(0 if score is None else 1 if score > 0 else -1 for score in r["scores"]) for r in held_out]
    labels = {r["id"]: (r["source"], sign) for r, sign in zip(held_out, signs, strict=True)}
    calibration, unscored = with_labels(dict(score(requests)), labels)
    write_predictions(folder / "validation_predictions.jsonl", calibration)
    results = score_benchmark(
        cfg, folder, scoring(cfg, str(folder), scorer, "benchmark"), _evaluated_from(work), calibration, unscored
    )
    return {"auc": results.auc and results.auc.value, "f1": results.f1 and results.f1.value}


def _evaluated_from(work: StepWork) -> dict[str, str]:
    return {
        "the benchmark": content_hash(work.cfg, read_benchmark(work.cfg)[0]),
        "the error rate": str(work.cfg.benchmark.error_rate),
        "the training": work.training_key,
        "the weights": work.run.content_hash("weights.safetensors"),
    }


SELECT = Stage[StepWork](
    name="select",
    inputs=StepWork.selected_from,
    do=_select,
    files=("subset", "held_out.parquet"),
    remains=("subset_examples", "held_out_examples"),
    already="already selected {kept:,} of {eligible:,} rollouts -> {run}/subset",
)
TRAIN = Stage[StepWork](
    name="train",
    inputs=lambda work: {"the subset": work.training_key},
    do=_train,
    files=(LEFT_OUT, "metrics.jsonl", "weights.safetensors"),
    remains=("checkpoints",),
    already="already trained in {optimizer_steps:,} steps -> {run}",
    taken="trained on the same rollouts as {shared_with}: taken from there",
    then=_after_training,
    every_rank=True,
)
EVALUATE = Stage[StepWork](
    name="evaluate",
    inputs=_evaluated_from,
    do=_evaluate,
    files=("predictions.jsonl", "solutions.jsonl", "validation_predictions.jsonl", "results.json", "examples.json"),
    remains=("predictions.jsonl.journal",),
    already="already evaluated -> {run}/results.json",
    taken="",
)
LINE = (SELECT, TRAIN, EVALUATE)
