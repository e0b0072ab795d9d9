"""What a judge says of pairs, made once: kept over kills, and shared by runs that ask the same judge the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import file_states, weights_written
from mprm.runs.stage_records import RunFolder
from mprm.stages.devices import load_backbone
from mprm.stages.shared import take_stage
from mprm.terminal import bar

if TYPE_CHECKING:
    from mprm.backbones.chat import ChatModel, ChatProcessor
    from mprm.data.preferences import Pair, Preferences
    from mprm.judge.judge import Shown

UNTRAINED, SFT, RL = "untrained", "sft", "rl"
AT_ONCE = 256  # pairs: what a kill can lose


@dataclass(frozen=True)
class Asking:
    """name: of the stage and, as .jsonl, of its file; after: the stage after which the judge is asked; inputs: all that
    the responses depend on; samples, temperature: of the responses to a pair in an order."""

    name: str
    after: str
    inputs: dict[str, str]
    samples: int
    temperature: float


def responses(
    cfg: Config,
    run: RunFolder,
    asking: Asking,
    pairs: list[Pair],
    preferences: Preferences,
    orders: Callable[[Shown], list[Shown]],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What respond() keeps of the pairs, and why the judge can not look at the others, by id.

    orders: in which a pair is shown.
    """
    from mprm.reporting.collect import read_json_lines

    file = f"{asking.name}.jsonl"
    if run.finished(asking.name):
        run.check_inputs(asking.name, asking.inputs)
    elif cfg.redo is not None or not take_stage(run, asking.name, asking.inputs, [file]):
        started = monotonic()
        processor, model = judge_after(cfg, run, asking.after)
        usable, unusable = usable_pairs(pairs, preferences, processor)
        if not usable:
            raise ValueError(
                f"{preferences.path}: the images of no pair can be used "
                f"({listed(Counter(unusable.values()))}); see where preferences.images and reward_benchmark.images lead"
            )
        _ask(cfg, run, asking, processor, model, [shown for one in usable for shown in orders(one)])
        summary = {"unusable": unusable, "seconds": round(monotonic() - started, 1)}
        run.finish(asking.name, summary, file_states(run.path, [file]), asking.inputs)
    return read_json_lines(run.path / file) or [], run.summary(asking.name)["unusable"]


def _ask(
    cfg: Config, run: RunFolder, asking: Asking, processor: ChatProcessor, model: ChatModel, pairs: list[Shown]
) -> None:
    from mprm.judge.respond import key_of, respond, sampler_of
    from mprm.runs.journal import journal

    sampler = sampler_of(cfg.judge, processor, model, asking.temperature, cfg.seed)
    keys = [key_of(one) for one in pairs]
    settings = [asking.inputs, weights_written(run.path / asking.after), keys]
    with (
        journal(run.path / f"{asking.name}.jsonl", settings) as kept,
        bar() as progress,
    ):
        task = progress.add_task(f"judging pairs ({asking.name})", total=len(pairs), completed=len(kept.done))
        respond(sampler, cfg.judge, pairs, asking.samples, kept, lambda more: progress.advance(task, more), AT_ONCE)
        kept.finish(kept.done[key] for key in keys)


def read_pairs(preferences: Preferences) -> tuple[list[Pair], Counter[str]]:
    """The pairs that can be used, and how many can not by reason."""
    from mprm.data.lines import Dropped

    read = list(preferences.records())
    return (
        [pair for pair in read if not isinstance(pair, Dropped)],
        Counter(pair.reason for pair in read if isinstance(pair, Dropped)),
    )


def usable_pairs(
    pairs: list[Pair], preferences: Preferences, processor: ChatProcessor
) -> tuple[list[Shown], dict[str, str]]:
    """The pairs whose images the processor takes, as they stand; and why it does not take the others, by id."""
    from mprm.inference.policy import image_refusal
    from mprm.judge.judge import shown

    usable, unusable = [], {}
    for pair in pairs:
        paths = tuple(map(preferences.image_folder.path, pair.images))
        reason = image_refusal(paths, processor)
        if reason is None:
            usable.append(shown(pair, paths, swapped=False))
        else:
            unusable[pair.id] = reason
    return usable, unusable


def judge_after(cfg: Config, run: RunFolder, stage: str) -> tuple[ChatProcessor, ChatModel]:
    """The backbone, with what it has learnt up to the end of the stage."""
    from mprm.training.checkpoint import load_weights

    processor, model = load_backbone(cfg)
    model.speak()
    if stage != UNTRAINED:
        load_weights(model, run.path / stage / "weights.safetensors")
    return processor, model.to("cuda" if cfg.trainer.accelerator == "gpu" else "cpu").eval()


def listed(counts: Mapping[str, int]) -> str:
    """Counts by reason, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
