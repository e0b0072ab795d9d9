"""The baseline of judges: a reward model that scores answers without reasoning, and how good it is."""

from __future__ import annotations

from time import monotonic
from typing import Any

from mprm.config import Config
from mprm.runs.artifacts import is_rank_zero
from mprm.stages.judges import JUDGE, MEASURE
from mprm.stages.models import check_before_selection, load_backbone
from mprm.stages.responses import JudgeWork
from mprm.stages.stage import LEFT_OUT, Stage, opened, run_stage, start_tracker
from mprm.stages.training_set import usable
from mprm.tasks import REWARD_MODEL
from mprm.terminal import say


def reward_model(cfg: Config) -> None:
    check_before_selection(cfg)
    with opened(JudgeWork, cfg, LINE) as work:
        for stage in LINE:
            run_stage(stage, work)


def _train(work: JudgeWork) -> dict[str, Any]:
    from mprm.backbones.chat import ChatProcessor
    from mprm.batching.order import Shuffled
    from mprm.judge.judge import present
    from mprm.judge.reward_model import AnswerPairs, BradleyTerry
    from mprm.training.fit import fit
    from mprm.training.recipe import Schedule

    cfg, run = work.cfg, work.run
    started = monotonic()
    image_path = cfg.preferences.image_folder.path
    pairs = [present(pair, tuple(map(image_path, pair.images)), swapped=False) for pair in work.preferences.usable]
    processor, model = load_backbone(cfg)
    if not isinstance(processor, ChatProcessor):
        raise ValueError(
            f"backbone: {type(processor).__name__} has no turns of a conversation, which a reward model reads; choose "
            "a chat model, e.g. backbone=chartworld_internvl"
        )
    (measured,) = usable(work, TRAIN, AnswerPairs(pairs, processor))
    run.finish(TRAIN.ready, {})
    module = BradleyTerry(model, Schedule(cfg.recipe, cfg.trainer, Shuffled(), cfg.seed))
    with start_tracker(work) as tracker:
        summary = fit(module, measured, None, run.path / TRAIN.name, tracker.log)
    if is_rank_zero():
        say(f"reward model: {len(measured.usable):,} pairs in {monotonic() - started:.0f} s -> {run.path / TRAIN.name}")
    return {**summary, "pairs": len(measured.usable), "left_out": measured.left_out}


TRAIN = Stage[JudgeWork](
    name=REWARD_MODEL,
    inputs=lambda work: work.inputs(MEASURE),
    do=_train,
    files=tuple(f"{REWARD_MODEL}/{name}" for name in (LEFT_OUT, "metrics.jsonl", "weights.safetensors")),
    remains=(REWARD_MODEL,),
    already="reward model: already trained on {pairs:,} pairs -> {run}/" + REWARD_MODEL,
    taken="reward model: the same as that of {shared_with}, taken from there",
    every_rank=True,
)
LINE = (TRAIN, JUDGE)
