"""The pipeline: select, train, evaluate. Each stage reads files and writes files into the run folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mprm.config import Config
from mprm.runs.artifacts import file_hash, file_states, is_rank_zero, reading
from mprm.runs.run_folder import open_run, wait_for_rank_zero
from mprm.runs.stage_records import RunFolder
from mprm.stages.check import read_benchmark, tell_benchmark, tell_training
from mprm.stages.devices import check_before_selection, check_devices, load_backbone, predict
from mprm.stages.entropy import add_entropy
from mprm.stages.judging import evaluate_model, report, say_skipped
from mprm.stages.outputs import is_made, remember
from mprm.stages.shared import EVALUATION, LEFT_OUT, TRAINING, content_hash, one_at_a_time, take_stage, training_key
from mprm.stages.usable import split, usable
from mprm.terminal import retyped, say, say_next

if TYPE_CHECKING:
    from datasets import Dataset

    from mprm.reporting.tracking import Tracker


def experiment(cfg: Config) -> None:
    """Select, train, evaluate and report."""
    check_before_selection(cfg)
    if is_rank_zero():
        read_benchmark(cfg)  # now, not after the training
    with open_run(cfg.raw) as run:
        _select(cfg, run)
        if cfg.check:
            _check(cfg, run)
            return
        _train(cfg, run)
        if is_rank_zero():
            _evaluate(cfg, run)
            report(run.path)
            say_next("task=export", f"run={run.path}", f"output=exported/{run.path.name}")


def select(cfg: Config) -> None:
    """Rank the rollouts, keep the subset; with export=FILE also write it in the published training format."""
    from mprm.selection.signals import without_pandas

    without_pandas()
    with open_run(cfg.raw) as run:
        _select(cfg, run)
        if cfg.export is not None and is_rank_zero():
            from pyarrow.parquet import ParquetFile

            from mprm.selection.examples import export_published, read_examples

            settings = [run.config_hash, run.content_hash("subset/kept.parquet")]
            if is_made(cfg, "export", settings, cfg.dataset.files()):
                return
            with reading(run.path / "subset/kept.parquet"):
                kept = ParquetFile(run.path / "subset/kept.parquet").read()
            examples = (example for batch in read_examples(cfg.dataset, kept) for example in batch.to_pylist())
            counts = export_published(cfg.export, examples, cfg.objective.target)
            skipped = f", left out {counts['skipped']} with unmeasured steps" if counts["skipped"] else ""
            say(f"wrote {counts['written']} rollouts to {cfg.export}{skipped}")
            remember(cfg, "export", settings)
        say_next(*retyped("train"))


def train(cfg: Config) -> None:
    """Train on the subset, which is selected first if it is not there."""
    check_before_selection(cfg)
    with open_run(cfg.raw) as run:
        _select(cfg, run)
        (_check if cfg.check else _train)(cfg, run)
        say_next(*retyped("train" if cfg.check else "evaluate"))


def evaluate(cfg: Config) -> None:
    """Score the benchmark with a trained run's weights; run= names another run, or an exported folder."""
    if cfg.run is not None:
        evaluate_model(cfg)
        return
    if cfg.output is not None:
        raise ValueError(f"output={cfg.output} goes with run=; without it task=evaluate writes into its own run folder")
    with open_run(cfg.raw) as run:
        if not run.finished("train"):
            raise ValueError(f"{run.path} has no finished training; run task=train with the same settings first")
        _select(cfg, run)
        _train(cfg, run)
        _evaluate(cfg, run)
        report(run.path)
        say_next("task=report", f"runs={cfg.runs}")


def _select(cfg: Config, run: RunFolder) -> None:
    if not is_rank_zero():
        wait_for_rank_zero(run, "select")
        return
    from mprm.selection.held_out import write_held_out
    from mprm.selection.signals import build_signals, inputs_of
    from mprm.selection.subset import remarks, write_subset

    started = monotonic()
    signals = build_signals(cfg.dataset, cfg.cache)
    inputs = inputs_of(signals)
    if run.finished("select"):
        run.check_inputs("select", inputs)
        done = run.summary("select")
        say(f"already selected {done['kept']:,} of {done['eligible']:,} rollouts -> {run.path / 'subset'}")
        return
    entropy = partial(add_entropy, cfg) if cfg.selector.uses_entropy or cfg.order.uses_entropy else None
    manifest = write_subset(run.path / "subset", cfg.dataset, signals, cfg.selector, cfg.seed, entropy)
    held_out = write_held_out(run.path / "held_out.parquet", signals, cfg.held_out)
    kept, eligible = manifest.totals.kept.rollouts, manifest.totals.eligible.rollouts
    summary = {"kept": kept, "eligible": eligible, "seconds": round(monotonic() - started, 2)}
    run.finish("select", summary, file_states(run.path, ["subset", "held_out.parquet"]), inputs)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items())
    before = f" (dropped before: {dropped})" if dropped else ""
    seconds = monotonic() - started
    say(f"selected {kept:,} of {eligible:,} rollouts{before} in {seconds:.1f} s -> {run.path / 'subset'}")
    if unsampled := manifest.unsampled_words():
        say(unsampled)
    if held_out < cfg.held_out:
        others = "share a question or an image with more than so many" if held_out < eligible else "are none"
        say(f"held out {held_out:,} rollouts instead of held_out={cfg.held_out}: the others {others}")
    for remark in remarks(cfg.dataset, signals):
        say(remark)


def _subset(cfg: Config, run: RunFolder) -> Dataset:
    return _examples(cfg, run, "subset/kept.parquet", "subset_examples")


def _held_out(cfg: Config, run: RunFolder) -> Dataset:
    return _examples(cfg, run, "held_out.parquet", "held_out_examples")


def _examples(cfg: Config, run: RunFolder, rows: str, name: str) -> Dataset:
    """The rollouts of these rows, memory-mapped; read from the annotations the first time, or when they are damaged."""
    from datasets import Dataset
    from pyarrow.parquet import read_table

    from mprm.selection.examples import write_examples

    with reading(run.path / rows):
        table, inputs = read_table(run.path / rows), {"rows": file_hash(run.path / rows)}
    if is_rank_zero() and not run.intact(name, inputs):
        write_examples(run.path / name, cfg.dataset, table)
        run.finish(name, {}, file_states(run.path, [name]), inputs)
    return Dataset.load_from_disk(str(run.path / name))


def _train(cfg: Config, run: RunFolder) -> None:
    if not is_rank_zero():
        wait_for_rank_zero(run, "examples")
        if not run.finished("train"):
            _fit(cfg, run)
        return
    from mprm.reporting.collect import read_json_lines

    key = training_key(cfg, run)
    inputs = {"the subset": key}
    if run.finished("train"):
        run.check_inputs("train", inputs)
        say(f"already trained in {run.summary('train')['optimizer_steps']:,} steps -> {run.path}")
        return
    with one_at_a_time(run.path.parent, key):
        # Further ranks that find these files on a restart do not wait: then this run's own training goes on.
        if cfg.redo is None and not run.finished("examples") and take_stage(run, "train", inputs, TRAINING):
            say(f"trained on the same rollouts as {run.summary('train')['shared_with']}: taken from there")
            run.finish("examples", {})
            with start_tracker(cfg, run) as tracker:
                for line in read_json_lines(run.path / "metrics.jsonl") or []:
                    tracker.log(line)
                tracker.finish({})
        else:
            run.finish("train", _fit(cfg, run), file_states(run.path, TRAINING), inputs)
            cfg.trainer.forget(run.path / "checkpoints")


def _check(cfg: Config, run: RunFolder) -> None:
    """Tell what the training will need, which check=true stops before."""
    if is_rank_zero():
        processor, model = load_backbone(cfg)
        subset = _subset(cfg, run)
        parts = split(cfg, subset, _held_out(cfg, run), processor)
        trained, validated = usable(cfg, run, "examples", run.path / LEFT_OUT, *parts)
        tell_training(cfg, model, trained, validated, len(subset))
        tell_benchmark(cfg)


def _fit(cfg: Config, run: RunFolder) -> dict[str, Any]:
    """Train; returns the summary of the stage."""
    from mprm.training.fit import fit

    processor, model = load_backbone(cfg)
    subset = _subset(cfg, run)
    parts = split(cfg, subset, _held_out(cfg, run), processor)
    nothing = (None, None)  # an untrained backbone sees no rollout
    trained, validated = usable(cfg, run, "examples", run.path / LEFT_OUT, *parts) if cfg.recipe.epochs else nothing
    # Not a stage of its own: the further ranks of a launcher wait for these files.
    run.finish("examples", {"subset": len(subset), "held_out": len(parts[1])})
    started = monotonic()
    with start_tracker(cfg, run) as tracker:
        settings = cfg.objective, cfg.order, cfg.recipe, cfg.trainer
        summary = fit(model, trained, validated, *settings, run.path, cfg.seed, tracker.log)
        tracker.finish(summary)
    left_out = trained.left_out if trained else {}
    seconds, held = monotonic() - started, len(subset) - len(parts[0])
    if is_rank_zero():
        told = "".join(f", {count:,} {reason}" for reason, count in left_out.items())
        begin = f"trained on {len(parts[0]) - sum(left_out.values()):,} of" if cfg.recipe.epochs else "untrained, of"
        words = f"{begin} the {len(subset):,} rollouts kept; {held:,} are held out by question and image{told}"
        say(f"{words}, in {seconds:,.0f} s")
    return summary | {"left_out": left_out, "held_out_rollouts": held, "seconds": round(seconds, 1)}


def _evaluate(cfg: Config, run: RunFolder) -> None:
    solutions, dropped = read_benchmark(cfg)
    inputs = {
        "the benchmark": content_hash(cfg, solutions),
        "the training": training_key(cfg, run),
        "the weights": run.content_hash("weights.safetensors"),
    }
    if run.finished("evaluate"):
        run.check_inputs("evaluate", inputs)
        say(f"already evaluated -> {run.path / 'results.json'}")
        return
    if cfg.redo is None and take_stage(run, "evaluate", inputs, EVALUATION):
        start_tracker(cfg, run).finish({}, run.path)
        return
    from mprm.inference.scoring import ScoreRequest
    from mprm.metrics.evaluate import evaluate as evaluate_predictions
    from mprm.metrics.predictions import with_labels, write_predictions
    from mprm.metrics.results import write_results
    from mprm.training.checkpoint import load_weights

    check_devices(cfg)
    started = monotonic()
    held_out = list(_held_out(cfg, run))
    processor, model = load_backbone(cfg)
    load_weights(model, run.path / "weights.safetensors")
    scorables = [ScoreRequest(s.id, s.images, s.question, s.steps) for s in solutions]
    predictions, skipped = with_labels(
        predict(cfg, model, processor, scorables, cfg.benchmark.image_folder.path, "scoring the benchmark"),
        {s.id: (s.source, s.labels) for s in solutions},
    )
    scorables = [ScoreRequest(r["id"], r["images"], r["question"], r["steps"]) for r in held_out]
    calibration, unscored = with_labels(
        predict(cfg, model, processor, scorables, cfg.dataset.image_folder.path, "scoring held-out rollouts"),
        {r["id"]: (r["source"], tuple(_hard_label(score) for score in r["scores"])) for r in held_out},
    )
    write_predictions(run.path / "predictions.jsonl", predictions)
    write_predictions(run.path / "validation_predictions.jsonl", calibration)
    results = replace(
        evaluate_predictions(predictions, calibration, cfg.seed),
        skipped=dict(Counter(skipped) + Counter(dropped)),
        skipped_held_out=unscored,
        benchmark_hash=inputs["the benchmark"],
    )
    write_results(run.path / "results.json", results)
    say_skipped("benchmark solutions", results.skipped)
    say_skipped("held-out rollouts", unscored)
    say(f"evaluated {len(predictions):,} solutions in {monotonic() - started:,.0f} s")
    fixed = results.thresholds["fixed"].overall_step_weighted_macro_f1.value
    numbers = {"auc": results.auc and results.auc.value, "overall_at_0.5": fixed}
    summary = numbers | {"seconds": round(monotonic() - started, 1)}
    run.finish("evaluate", summary, file_states(run.path, EVALUATION), inputs)
    start_tracker(cfg, run).finish({}, run.path)


def start_tracker(cfg: Config, run: RunFolder) -> Tracker:
    """The logger's mirror of this run; other ranks than the first mirror nothing."""
    from mprm.reporting.tracking import Tracker, start

    if not is_rank_zero():
        return Tracker()
    config: Any = OmegaConf.to_container(cfg.raw, resolve=True)
    return start(cfg.logger, run.path, config, type(cfg.selector).__name__)


def _hard_label(score: float | None) -> int:
    """Label of a rollout's step as a benchmark would give it: 0 where it was never sampled."""
    return 0 if score is None else 1 if score > 0 else -1
