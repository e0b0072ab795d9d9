"""What a judge says of pairs, made once: kept over kills, and shared by runs that ask the same judge the same."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mprm.data.lines import Dropped
from mprm.runs.artifacts import weights_written
from mprm.runs.config_hash import config_hash
from mprm.stages.models import device, load_backbone
from mprm.stages.stage import Stage, Work, run_stage
from mprm.terminal import bar, listed

if TYPE_CHECKING:
    from mprm.backbones.chat import ChatModel, ChatProcessor
    from mprm.data.preferences import Pair, Preferences
    from mprm.judge.judge import PresentedPair

UNTRAINED = "untrained"
AT_ONCE = 256  # pairs: what a kill can lose


@dataclass(frozen=True)
class Pairs:
    """The records of a file of pairs, read once."""

    records: list[Pair | Dropped]

    @cached_property
    def usable(self) -> list[Pair]:
        return [record for record in self.records if not isinstance(record, Dropped)]

    @cached_property
    def dropped(self) -> Counter[str]:
        """By reason."""
        return Counter(record.reason for record in self.records if isinstance(record, Dropped))

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of the records, and of why the others were dropped."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(json.dumps(asdict(record), sort_keys=True).encode())
        return digest.hexdigest()


@dataclass
class JudgeWork(Work):
    """A run of a judge, and the pairs that its stages read."""

    @cached_property
    def preferences(self) -> Pairs:
        return Pairs(list(self.cfg.preferences.records()))

    @cached_property
    def benchmark(self) -> Pairs:
        return Pairs(list(self.cfg.reward_benchmark.records()))

    def inputs(self, leave_out: tuple[str, ...]) -> dict[str, str]:
        """What a stage depends on: the pairs as they are read, and the settings but for some groups."""
        return {"the pairs": self.preferences.hash, "the settings": config_hash(self.cfg.raw, leave_out=leave_out)}

    def judge_after(self, stage: str) -> tuple[ChatProcessor, ChatModel]:
        """The backbone, with what it has learnt up to the end of the stage."""
        from mprm.training.checkpoint import load_weights

        processor, model = load_backbone(self.cfg)
        if stage != UNTRAINED:
            load_weights(model, self.run.path / stage / "weights.safetensors")
        return processor, model.to(device(self.cfg)).eval()


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A judge that is asked about pairs."""

    # of the run, and the name of its file in the run folder
    part: str
    # the stage after which the judge is asked
    after: str
    # all that the responses depend on
    inputs: dict[str, str]
    # the group that the pairs are of
    preferences: Preferences
    pairs: list[Pair]
    # in which a pair is presented
    orders: Callable[[PresentedPair], Iterable[PresentedPair]]
    # of the responses to a pair in an order
    samples: int
    temperature: float

    @property
    def file(self) -> str:
        return f"{self.part.rpartition('/')[2]}.jsonl"


def responses(work: JudgeWork, asking: Asking) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What respond() keeps of the pairs, and why the judge cannot look at the others, by id: kept over kills, and
    shared by runs that ask the same judge the same."""
    from mprm.reporting.run_record import read_json_lines

    stage = Stage[JudgeWork](
        name=asking.part,
        inputs=lambda _: asking.inputs,
        do=partial(_ask, asking=asking),
        files=(asking.file,),
        taken="",
    )
    run_stage(stage, work)
    return read_json_lines(work.run.path / asking.file) or [], work.run.summary(asking.part)["unusable"]


def _ask(work: JudgeWork, asking: Asking) -> dict[str, Any]:
    from mprm.inference.policy import image_refusal
    from mprm.judge.judge import present, respond, sampler_of
    from mprm.runs.journal import journal

    cfg, group = work.cfg, asking.preferences
    processor, model = work.judge_after(asking.after)
    asked: list[PresentedPair] = []
    unusable: dict[str, str] = {}
    for pair in asking.pairs:
        paths = tuple(map(group.image_folder.path, pair.images))
        reason = image_refusal(paths, processor)
        if reason is None:
            asked += asking.orders(present(pair, paths, swapped=False))
        else:
            unusable[pair.id] = reason
    if not asked:
        raise ValueError(
            f"{group.path}: the images of no pair can be used ({listed(Counter(unusable.values()))}); see where "
            "preferences.images and reward_benchmark.images lead"
        )
    sampler = sampler_of(cfg.judge, processor, model, asking.temperature, cfg.seed)
    keys = [one.key for one in asked]
    settings = [asking.inputs, weights_written(work.run.path / asking.after), keys]
    with journal(work.run.path / asking.file, settings) as kept, bar() as progress:
        doing = f"judging pairs ({asking.part.rpartition('/')[2]})"
        task = progress.add_task(doing, total=len(asked), completed=len(kept.done))
        respond(sampler, cfg.judge, asked, asking.samples, kept, lambda more: progress.advance(task, more), AT_ONCE)
        kept.finish(kept.done[key] for key in keys)
    return {"unusable": unusable}
