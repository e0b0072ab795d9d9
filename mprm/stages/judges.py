"""The line of judges, Entropy-Guided Training (arXiv 2602.01884): fine-tuning on traces, curation by entropy,
reinforcement learning from low to high entropy; and how good the judge is after each."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import is_rank_zero
from mprm.stages.models import check_before_selection, load_backbone, server
from mprm.stages.responses import UNTRAINED, JudgeWork, responses
from mprm.stages.stage import LEFT_OUT, Stage, opened, run_stage, start_tracker
from mprm.stages.training_set import usable
from mprm.tasks import REWARD_MODEL, TASKS
from mprm.terminal import console, listed, retyped, say, say_next

if TYPE_CHECKING:
    from mprm.data.questions import Pair
    from mprm.data.reward_benchmarks import Published
    from mprm.metrics.results import JudgeTraining

MEASURE = ("reward_benchmark", "judge.evaluation_temperature", "judge.votes", "judge.vote_temperature")
LATER = ("selector", "order", "grpo")  # what the judge of the first stage and its measure do not depend on
AFTER_SFT = (*LATER, *MEASURE)  # and what its training and curation do not


def train_judge(cfg: Config) -> None:
    """The stages of the task; what the last of them will want and has not is told before the first one starts."""
    from mprm.data.questions import Pair
    from mprm.judge.curation import signals_of
    from mprm.judge.reinforcement import check_machine
    from mprm.selection.subset import keep

    stages = [stage for stage in LINE if stage.name in TASKS[cfg.task].stages]
    if cfg.judge.engine == "server" and stages != [JUDGE]:
        raise ValueError("judge.engine=server judges and is not trained; give task=judge, compare or rerank with it")
    if cfg.judge.engine == "server":
        server(cfg).identity()  # is it named? before anything is made
    check_before_selection(cfg)
    if CURATE in stages:  # does the selector need a signal that pairs do not have? It is tried on one
        keep(signals_of([Pair("", "", (), "", "", "", "a")], {}, []), cfg.selector)
    if RL in stages:
        check_machine(cfg.trainer)
    with opened(JudgeWork, cfg, LINE) as work:
        if CURATE in stages and is_rank_zero():
            _untraced(work)
        for stage in stages:
            run_stage(stage, work)
    if stages[-1] is not JUDGE:
        say_next(*retyped(LINE[LINE.index(stages[-1]) + 1].name))


def _sft(work: JudgeWork) -> dict[str, Any]:
    from mprm.batching.order import Shuffled
    from mprm.judge.sft import Imitation, Traces, faithful_traces
    from mprm.training.fit import fit
    from mprm.training.recipe import Schedule

    cfg, run = work.cfg, work.run
    started = monotonic()
    traced, left_out = faithful_traces(work.preferences.usable, cfg.judge, cfg.preferences.image_folder.path)
    if not traced and cfg.sft.epochs != 0:
        raise ValueError(
            f"preferences.path={cfg.preferences.path} has no trace that ends in judge.verdict with its pair's label "
            f"({listed(left_out)}); give such traces, or sft.epochs=0 for a backbone that judges already"
        )
    processor, model = load_backbone(cfg)
    traces = None
    if cfg.sft.epochs != 0:
        (traces,) = usable(work, SFT, Traces(traced, processor, cfg.judge))
        left_out |= traces.left_out
    run.finish(SFT.ready, {})
    module = Imitation(model, Schedule(cfg.sft, cfg.trainer, Shuffled(), cfg.seed))  # traces have no entropy
    with start_tracker(work) as tracker:
        summary = fit(module, traces, None, run.path / SFT.name, partial(mirrored, tracker.log, SFT.name, 0))
    learnt = len(traces.usable) if traces else 0
    if is_rank_zero():
        say(f"SFT: {learnt:,} traces in {monotonic() - started:.0f} s -> {run.path / SFT.name}")
    return {**summary, "traces": learnt, "left_out": left_out}


def _untraced(work: JudgeWork) -> tuple[list[Pair], dict[str, str]]:
    """The pairs without a trace, and of those held out the reason, by id. Raises ValueError if there are no others."""
    from mprm.judge.curation import HELD_OUT, held_out

    cfg, pairs = work.cfg, work.preferences.usable
    pool = [pair for pair in pairs if pair.trace is None]
    if not pool:
        raise ValueError(f"every pair of preferences.path={cfg.preferences.path} has a trace; give others to curate")
    return pool, dict.fromkeys(held_out(pairs, cfg.grpo.held_out, cfg.seed), HELD_OUT)


def _curate(work: JudgeWork) -> dict[str, Any]:
    from mprm.judge.curation import signals_of, summarise, write_curated
    from mprm.selection.subset import keep

    cfg, run = work.cfg, work.run
    started = monotonic()
    pool, aside = _untraced(work)  # those aside are asked, too: so the responses are those of a run without them
    records, unusable = responses(work, "curate/responses", SFT.name, work.inputs(AFTER_SFT), pool)
    signals = signals_of(pool, aside | unusable, records)
    kept = keep(signals, cfg.selector)
    summary = summarise(signals, kept, cfg.selector, len(work.preferences.usable) - len(pool), cfg.seed)
    write_curated(run.path / "curated", signals, kept, summary)
    kept_of = f"kept {summary.kept:,} of {summary.eligible:,} pairs in {monotonic() - started:.0f} s"
    say(f"curation: {kept_of} -> {run.path / 'curated'}")
    return {"kept": summary.kept, "eligible": summary.eligible}


def _rl(work: JudgeWork) -> dict[str, Any]:
    from mprm.judge.curation import read_kept
    from mprm.judge.judge import present
    from mprm.judge.reinforcement import Reinforcement, measure_prompts
    from mprm.judge.sft import Prompts
    from mprm.training.fit import fit
    from mprm.training.recipe import Schedule

    cfg, run = work.cfg, work.run
    started = monotonic()
    run.finish(RL.ready, {})
    by_id = {pair.id: pair for pair in work.preferences.usable}
    ids, entropy_N, held = read_kept(run.path / "curated")
    image_path = cfg.preferences.image_folder.path
    pairs = [present(by_id[name], tuple(map(image_path, by_id[name].images)), False) for name in (*ids, *held)]
    processor, model = work.judge_after(SFT.name)
    prompts = Prompts(pairs[: len(ids)], processor, cfg.judge, entropy_N)
    measured = (
        measure_prompts(prompts, cfg.grpo, cfg.trainer, cfg.backbone.max_length) if cfg.grpo.epochs != 0 else None
    )
    # Loader workers have nothing to do: a pair is read where its responses are drawn.
    schedule = Schedule(cfg.grpo, replace(cfg.trainer, num_workers=0), cfg.order, cfg.seed)
    module = Reinforcement(model, prompts, cfg.grpo, schedule, pairs[len(ids) :])
    before = run.summary(SFT.name)["optimizer_steps"]
    with start_tracker(work) as tracker:
        summary = fit(module, measured, None, run.path / RL.name, partial(mirrored, tracker.log, RL.name, before))
    learnt, too_long = (len(measured.usable), measured.left_out["too_long"]) if measured else (0, 0)
    if is_rank_zero():
        say(f"RL: {learnt:,} pairs in {monotonic() - started:.0f} s -> {run.path / RL.name}")
    return {**summary, "pairs": learnt, "too_long": too_long, "order": type(cfg.order).__name__}


def _judge(work: JudgeWork) -> dict[str, Any]:
    from mprm.metrics.pairwise import accuracy_difference, judgements, measure_judge, vote_differences
    from mprm.metrics.published_judges import as_published
    from mprm.metrics.results import Curation, JudgeResults, read_part, write_results

    cfg, run = work.cfg, work.run
    rule: Published | None = getattr(cfg.reward_benchmark, "rule", None)  # a component need not have one
    pairs, unusable = work.benchmark.usable, work.benchmark.dropped
    if not pairs:
        raise ValueError(
            f"reward_benchmark.path={cfg.reward_benchmark.path} holds no pair that can be used "
            f"({listed(unusable) or 'empty'})"
        )
    stages = [UNTRAINED, *(stage.name for stage in (SFT, RL) if run.finished(stage.name, costly=True))]
    if cfg.task == REWARD_MODEL:
        stages = [REWARD_MODEL]
    items = {pair.id: pair.item or pair.id for pair in pairs} if any(pair.item for pair in pairs) else None
    found = {}
    for stage in stages:
        asked = work.inputs(() if stage == RL.name else LATER)
        asked |= {"the reward benchmark": work.benchmark.hash}
        records, refused = responses(work, f"judge/judged_{stage}", stage, asked, pairs)
        sources = {pair.id: pair.source for pair in pairs if pair.id not in refused}
        found[stage] = judgements(records, sources, items)
    curated = run.path / "curated" / "manifest.json"
    compared = {f"{b} - {a}": (found[b], found[a]) for a, b in pairwise(stages)}
    results = JudgeResults(
        preferences=cfg.preferences.path,
        reward_benchmark=cfg.reward_benchmark.path,
        reward_benchmark_hash=work.benchmark.hash,
        unusable=dict(unusable + Counter(refused.values())),
        judges={
            stage: replace(measure_judge(one), published=as_published(one, rule) if rule else ())
            for stage, one in found.items()
        },
        differences={name: accuracy_difference(*both) for name, both in compared.items()},
        vote_differences={name: vote_differences(*both) for name, both in compared.items()},
        temperature=cfg.judge.evaluation_temperature,
        vote_temperature=cfg.judge.vote_temperature,
        rule=rule.words if rule else "",
        training={stage: _training(run.summary(stage)) for stage in stages if stage != UNTRAINED},
        curation=read_part(curated, Curation) if run.finished("curate") else None,
    )
    write_results(run.path / "results.json", results)
    return {f"accuracy_{stage}": one.accuracy.value for stage, one in results.judges.items()}


def _training(done: dict[str, Any]) -> JudgeTraining:
    from mprm.metrics.results import JudgeTraining

    return JudgeTraining(
        examples=done.get("traces", done.get("pairs", 0)),
        optimizer_steps=done["optimizer_steps"],
        seconds=done["seconds"],
        left_out=done.get("left_out", {"too_long": done.get("too_long", 0)}),
        order=done.get("order"),
    )


def _after_judging(work: JudgeWork, taken: bool) -> None:
    from mprm.metrics.results import JudgeResults, read_results
    from mprm.reporting.judge import print_judge, write_judge

    run = work.run
    summary = run.summary("judge")
    page = write_judge(run.path)
    numbers = {f"benchmark/{name}": value for name, value in summary.items() if name != "seconds"}
    start_tracker(work).finish(numbers, run.path)
    print_judge(read_results(run.path / "results.json", JudgeResults), console())
    say(f"judged {len(work.benchmark.usable):,} pairs in {summary['seconds']:.1f} s; wrote {page}")
    trained = ["task=export", f"run={run.path}", f"output=exported/{run.path.name}"]
    is_trained = work.cfg.task == REWARD_MODEL or run.finished(SFT.name, costly=True)
    say_next(*(trained if is_trained else retyped("egt")))


def mirrored(log: Any, stage: str, before: int, line: dict[str, float]) -> None:
    """A line of a stage's metrics.jsonl among those of all stages, whose steps are counted on."""
    log({f"{stage}/{name}": value for name, value in line.items()} | {"step": before + line["step"]})


SFT = Stage[JudgeWork](
    name="sft",
    inputs=lambda work: work.inputs(AFTER_SFT),
    do=_sft,
    files=tuple(f"sft/{name}" for name in (LEFT_OUT, "metrics.jsonl", "weights.safetensors")),
    remains=("sft",),
    already="SFT: already learnt {traces:,} traces -> {run}/sft",
    taken="SFT: the same as that of {shared_with}, taken from there",
    every_rank=True,
)
CURATE = Stage[JudgeWork](
    name="curate",
    inputs=lambda work: work.inputs(AFTER_SFT),
    do=_curate,
    files=("curated",),
    remains=("responses.jsonl*",),
    already="curation: already kept {kept:,} of {eligible:,} pairs -> {run}/curated",
)
RL = Stage[JudgeWork](
    name="rl",
    inputs=lambda work: work.inputs(MEASURE),
    do=_rl,
    files=("rl/metrics.jsonl", "rl/weights.safetensors"),
    remains=("rl",),
    already="RL: already trained on {pairs:,} pairs -> {run}/rl",
    taken="RL: the same as that of {shared_with}, taken from there",
    every_rank=True,
)
JUDGE = Stage[JudgeWork](
    name="judge",
    inputs=lambda work: {"the reward benchmark": work.benchmark.hash},
    do=_judge,
    files=("results.json",),
    remains=("judged_*",),
    then=_after_judging,
    again=True,
)
LINE = (SFT, CURATE, RL, JUDGE)
