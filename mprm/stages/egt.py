"""Entropy-Guided Training of a judge (arXiv 2602.01884): fine-tuning on traces, curation by entropy, reinforcement
learning from low to high entropy; and what the judge is worth after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from time import monotonic
from typing import Any

from mprm.config import Config
from mprm.metrics.results import JudgeTraining
from mprm.runs.artifacts import file_states, is_rank_zero
from mprm.runs.run_folder import config_hash, open_run, wait_for_rank_zero
from mprm.runs.stage_records import RunFolder
from mprm.stages.devices import check_before_selection, load_backbone
from mprm.stages.judgements import RL, SFT, UNTRAINED, Asking, judge_after, listed, read_pairs, responses
from mprm.stages.pipeline import start_tracker
from mprm.stages.shared import LEFT_OUT, key_of, one_at_a_time, read_hash, take_stage
from mprm.stages.usable import usable
from mprm.terminal import console, retyped, say, say_next

# What the first stage, the responses of its judge and their measure do not depend on; the last of it the measure does.
AFTER_SFT = ("selector", "order", "grpo", "reward_benchmark")
BENCHMARK = ("reward_benchmark",)  # what no training depends on

FOLLOWING = {"sft": "curate", "curate": "rl", "rl": "judge"}  # tasks


def egt(cfg: Config) -> None:
    """All three stages, the judge measured before and after them, and the report."""
    _run(cfg, _sft, _curate, _rl, _judge)


def sft(cfg: Config) -> None:
    """Stage 1: fine-tune the backbone on traces whose verdict is the label."""
    _run(cfg, _sft)


def curate(cfg: Config) -> None:
    """Stage 2: the entropies of the judge's own responses, and the pairs that the selector keeps."""
    _run(cfg, _sft, _curate)


def rl(cfg: Config) -> None:
    """Stage 3: reinforcement learning on these pairs. The earlier stages are run first if they are not there."""
    _run(cfg, _sft, _curate, _rl)


def judge(cfg: Config) -> None:
    """Measure the backbone, and the judge after every stage that is finished, on the reward benchmark."""
    _run(cfg, _judge)


def _run(cfg: Config, *stages: Callable[[Config, RunFolder], None]) -> None:
    """What the last stage will want and has not is told before the first one starts."""
    from mprm.judge.reinforce import check_sampling

    check_before_selection(cfg)
    if _curate in stages:
        check_selector(cfg)
    if _rl in stages:
        check_sampling(cfg.judge, cfg.trainer)
    with open_run(cfg.raw) as run:
        for stage in stages:
            stage(cfg, run)
    if cfg.task in FOLLOWING:
        say_next(*retyped(FOLLOWING[cfg.task]))


def check_selector(cfg: Config) -> None:
    """Raises ValueError if the selector needs a signal that pairs do not have: it is tried on one."""
    from mprm.data.preferences import Pair
    from mprm.judge.curate import signals_of
    from mprm.selection.keep import keep

    keep(signals_of([Pair("", "", (), "", "", "", "a")], {}, []), cfg.selector)


def _sft(cfg: Config, run: RunFolder) -> None:
    if not is_rank_zero():
        wait_for_rank_zero(run, "pairs")  # a world is written by the first rank, or the stage taken from another run
        if not run.finished(SFT):
            _imitate(cfg, run)
        return
    inputs = inputs_of(cfg, AFTER_SFT)
    if run.finished(SFT):
        run.check_inputs(SFT, inputs)
        say(f"SFT: already learnt {run.summary(SFT)['traces']:,} traces -> {run.path / SFT}")
        return
    with one_at_a_time(run.path.parent, key_of(inputs)):
        if cfg.redo is None and not run.finished("pairs") and take_stage(run, SFT, inputs, files(SFT)):
            run.finish("pairs", {})
            say(f"SFT: the same as that of {run.summary(SFT)['shared_with']}, taken from there")
        else:
            started = monotonic()
            summary = _imitate(cfg, run)
            summary |= {"seconds": round(monotonic() - started, 1)}
            run.finish(SFT, summary, file_states(run.path, files(SFT)), inputs)
            cfg.trainer.forget(run.path / SFT / "checkpoints")
            say(f"SFT: {summary['traces']:,} traces in {monotonic() - started:.0f} s -> {run.path / SFT}")


def _imitate(cfg: Config, run: RunFolder) -> dict[str, Any]:
    from mprm.judge.sft import Traces, faithful, imitate

    pairs, dropped = read_pairs(cfg.preferences)
    traced, left_out = faithful(pairs, cfg.judge, cfg.preferences.image_folder.path)
    if not traced and cfg.sft.epochs:
        raise ValueError(
            f"preferences.path={cfg.preferences.path} has no trace that ends in judge.verdict with its pair's label "
            f"({listed(left_out)}); give such traces, or sft.epochs=0 for a backbone that judges already"
        )
    processor, model = load_backbone(cfg)
    traces = None
    if cfg.sft.epochs:
        (traces,) = usable(cfg, run, "pairs", run.path / SFT / LEFT_OUT, Traces(traced, processor, cfg.judge))
        left_out |= traces.left_out
    run.finish("pairs", {"pairs": len(pairs), "dropped": dict(dropped)})
    with start_tracker(cfg, run) as tracker:
        summary = imitate(
            model,
            traces,
            cfg.sft,
            cfg.trainer,
            run.path / SFT,
            cfg.seed,
            partial(mirrored, tracker.log, SFT, 0),
        )
    return summary | {"left_out": left_out}


def _curate(cfg: Config, run: RunFolder) -> None:
    if not is_rank_zero():
        wait_for_rank_zero(run, "curate")
        return
    inputs = inputs_of(cfg, AFTER_SFT)
    if run.finished("curate"):
        run.check_inputs("curate", inputs)
        done = run.summary("curate")
        say(f"curation: already kept {done['kept']:,} of {done['eligible']:,} pairs -> {run.path / 'curated'}")
        return
    from mprm.judge.curate import in_seeded_order, signals_of, summarise, write_curated
    from mprm.selection.keep import keep

    started = monotonic()
    pairs, _ = read_pairs(cfg.preferences)
    pool = [pair for pair in pairs if pair.trace is None]
    if not pool:
        raise ValueError(
            f"every pair of preferences.path={cfg.preferences.path} has a trace, and stage 1 learns from these; give "
            "pairs without one for stages 2 and 3"
        )
    records, unusable = responses(
        cfg,
        run,
        Asking("responses", SFT, inputs, cfg.judge.samples, cfg.judge.temperature),
        pool,
        cfg.preferences,
        lambda one: [in_seeded_order(one, cfg.seed)],
    )
    signals = signals_of(pool, unusable, records)
    kept = keep(signals, cfg.selector)
    summary = summarise(signals, kept, cfg.selector, len(pairs) - len(pool), cfg.seed)
    write_curated(run.path / "curated", signals, kept, summary)
    # Before the stage is finished, for which further ranks wait: they find the next one done.
    if cfg.redo is None and take_stage(run, RL, inputs_of(cfg, BENCHMARK), files(RL)):
        say(f"RL: the same as that of {run.summary(RL)['shared_with']}, taken from there")
    counts = {"kept": summary.kept, "eligible": summary.eligible}
    run.finish("curate", counts, file_states(run.path, ["curated"]), inputs)
    kept_of = f"kept {summary.kept:,} of {summary.eligible:,} pairs in {monotonic() - started:.0f} s"
    say(f"curation: {kept_of} -> {run.path / 'curated'}")


def _rl(cfg: Config, run: RunFolder) -> None:
    inputs = inputs_of(cfg, BENCHMARK)
    if run.finished(RL):
        run.check_inputs(RL, inputs)
        if is_rank_zero():
            say(f"RL: already trained on {run.summary(RL)['pairs']:,} pairs -> {run.path / RL}")
        return
    from mprm.judge.curate import read_kept
    from mprm.judge.grpo import Prompts
    from mprm.judge.judge import shown
    from mprm.judge.reinforce import reinforce

    started = monotonic()
    by_id = {pair.id: pair for pair in read_pairs(cfg.preferences)[0]}
    ids, entropy_N = read_kept(run.path / "curated")
    pairs = [
        shown(by_id[name], tuple(map(cfg.preferences.image_folder.path, by_id[name].images)), False) for name in ids
    ]
    processor, model = judge_after(cfg, run, SFT)
    with start_tracker(cfg, run) as tracker:
        summary = reinforce(
            model,
            Prompts(pairs, processor, cfg.judge),
            entropy_N,
            cfg.order,
            cfg.grpo,
            cfg.trainer,
            cfg.backbone.max_length,
            run.path / RL,
            cfg.seed,
            partial(mirrored, tracker.log, RL, run.summary(SFT)["optimizer_steps"]),
        )
    seconds = monotonic() - started
    order = str(cfg.raw.order._target_).rpartition(".")[2]
    if is_rank_zero():
        summary |= {"seconds": round(seconds, 1), "order": order}
        run.finish(RL, summary, file_states(run.path, files(RL)), inputs)
        cfg.trainer.forget(run.path / RL / "checkpoints")
        say(f"RL: {summary['pairs']:,} pairs in {seconds:.0f} s -> {run.path / RL}")


def _judge(cfg: Config, run: RunFolder) -> None:
    if not is_rank_zero():
        return
    from mprm.judge.judge import shown
    from mprm.metrics.pairwise import accuracy_difference, judgements, measure_judge
    from mprm.metrics.results import Curation, JudgeResults, read_part, write_results
    from mprm.reporting.judge import print_judge, write_judge
    from mprm.reporting.old_layout import as_before

    started = monotonic()
    pairs, unusable = read_pairs(cfg.reward_benchmark)
    if not pairs:
        reasons = listed(unusable) or "empty"
        raise ValueError(
            f"reward_benchmark.path={cfg.reward_benchmark.path} holds no pair that can be used ({reasons})"
        )
    stages = [UNTRAINED, *(stage for stage in (SFT, RL) if run.finished(stage))]
    items = {pair.id: pair.item or pair.id for pair in pairs} if any(pair.item for pair in pairs) else None
    benchmark = {"the reward benchmark": read_hash(pairs)}
    found = {}
    for stage in stages:
        asked = inputs_of(cfg, () if stage == RL else AFTER_SFT[:-1])
        records, refused = responses(
            cfg,
            run,
            Asking(f"judged_{stage}", stage, asked | benchmark, 1, cfg.judge.evaluation_temperature),
            pairs,
            cfg.reward_benchmark,
            lambda one: [shown(one.pair, one.images, swapped) for swapped in (False, True)],
        )
        sources = {pair.id: pair.source for pair in pairs if pair.id not in refused}
        found[stage] = judgements(records, sources, items)
    curated = run.path / "curated" / "manifest.json"
    results = JudgeResults(
        preferences=cfg.preferences.path,
        reward_benchmark=cfg.reward_benchmark.path,
        reward_benchmark_hash=benchmark["the reward benchmark"],
        unusable=dict(unusable + Counter(refused.values())),
        judges={stage: measure_judge(one, cfg.seed) for stage, one in found.items()},
        differences={
            f"{later} - {earlier}": accuracy_difference(found[later], found[earlier], cfg.seed)
            for earlier, later in pairwise(stages)
        },
        training={stage: _training(run.summary(stage)) for stage in stages if stage != UNTRAINED},
        curation=read_part(curated, Curation) if run.finished("curate") else None,
    )
    write_results(run.path / "results.json", results)
    accuracies = {f"accuracy_{stage}": one.accuracy.value for stage, one in results.judges.items()}
    run.finish("judge", accuracies, file_states(run.path, ["results.json"]))
    page = write_judge(run.path)
    start_tracker(cfg, run).finish(accuracies)
    print_judge(as_before(results), console())
    say(f"judged {len(pairs):,} pairs in {monotonic() - started:.1f} s; wrote {page}")
    trained = ["task=export", f"run={run.path}", f"output=exported/{run.path.name}"]
    say_next(*(trained if stages[1:] else retyped("egt")))


def _training(summary: dict[str, Any]) -> JudgeTraining:
    """Of what a stage says of itself when it is finished."""
    return JudgeTraining(
        examples=summary.get("traces", summary.get("pairs", 0)),
        optimizer_steps=summary["optimizer_steps"],
        seconds=summary["seconds"],
        left_out=summary.get("left_out", {"too_long": summary.get("too_long", 0)}),
        order=summary.get("order"),
    )


def inputs_of(cfg: Config, leave_out: tuple[str, ...]) -> dict[str, str]:
    """What a stage depends on: the pairs as they are read, and the settings but for some groups."""
    pairs = read_hash(cfg.preferences.records())
    return {"the pairs": pairs, "the settings": config_hash(cfg.raw, leave_out=leave_out)}


def files(stage: str) -> list[str]:
    """What a training leaves in the run's folder."""
    return [f"{stage}/{LEFT_OUT}", f"{stage}/metrics.jsonl", f"{stage}/weights.safetensors"]


def mirrored(log: Any, stage: str, before: int, line: dict[str, float]) -> None:
    """A line of a stage's metrics.jsonl among those of all stages, whose steps are counted on."""
    log({f"{stage}/{name}": value for name, value in line.items()} | {"step": before + line["step"]})
