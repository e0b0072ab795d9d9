"""What a judge says of pairs, made once: kept over kills, and shared by runs that ask the same judge the same."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mprm.data.lines import Dropped
from mprm.runs.artifacts import weights_written
from mprm.runs.journal import Journal, journal
from mprm.runs.run_folder import config_hash
from mprm.stages.models import device, load_backbone, max_tokens, responder
from mprm.stages.stage import Stage, Work, run_stage
from mprm.tasks import REWARD_MODEL
from mprm.terminal import bar, listed, tracked

if TYPE_CHECKING:
    from mprm.backbones.chat import ChatModel, ChatProcessor
    from mprm.data.questions import Pair
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


def responses(
    work: JudgeWork, part: str, after: str, inputs: dict[str, str], pairs: list[Pair]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What respond() keeps of the pairs, and why the judge cannot look at the others, by id.

    They are kept over kills in NAME.jsonl for the part STAGE/NAME, and shared by runs that ask the same judge the same.

    after: the stage after which the judge is asked; inputs: all that its responses depend on.
    """
    from mprm.reporting.run_record import read_json_lines

    file = f"{part.rpartition('/')[2]}.jsonl"

    def ask(work: JudgeWork) -> dict[str, Any]:
        judged_by = _scored if after == REWARD_MODEL else _asked
        with journal(work.run.path / file, [inputs, weights_written(work.run.path / after)]) as kept:
            records, unusable = judged_by(work, file, after, pairs, kept)
            if not records:
                kept.remove()
                raise ValueError(
                    f"{file}: none of {len(pairs)} pairs can be judged ({listed(Counter(unusable.values()))}); see "
                    "where preferences.images and reward_benchmark.images lead; where they are too_long, raise "
                    "backbone.max_length, or serve the model of policy.model with a longer context"
                )
            kept.finish(records)
        return {"unusable": unusable}

    run_stage(Stage[JudgeWork](name=part, inputs=lambda _: inputs, do=ask, files=(file,), taken=""), work)
    return read_json_lines(work.run.path / file) or [], work.run.summary(part)["unusable"]


Judged = tuple[list[dict[str, Any]], dict[str, str]]  # the records, and why pairs have none, by id


def _asked(work: JudgeWork, file: str, after: str, pairs: list[Pair], kept: Journal) -> Judged:
    """What the judge writes, kept as it comes."""
    from mprm.inference.policy import looked_at
    from mprm.judge.compare import orders
    from mprm.judge.judge import in_seeded_order, present, respond
    from mprm.metrics.pairwise import RESPONSES, VOTES

    cfg, judge, measuring = work.cfg, work.cfg.judge, file.startswith("judged_")
    group = cfg.reward_benchmark if measuring else cfg.preferences
    writer = responder(cfg, lambda: (*work.judge_after(after), cfg.backbone.max_length))
    found, unusable = looked_at(pairs, group.image_folder.path, writer)
    asked: list[PresentedPair] = []
    for pair, paths in found:
        asked += orders(pair, paths) if measuring else [in_seeded_order(present(pair, paths, False), cfg.seed)]
    wanted = {RESPONSES: (judge.temperature, judge.samples)}
    if measuring:
        wanted = {RESPONSES: (judge.evaluation_temperature, 1), VOTES: (judge.vote_temperature, judge.votes)}
    draws = {name: (replace(writer, temperature=temperature), n) for name, (temperature, n) in wanted.items() if n}
    with bar() as progress:
        doing = f"judging pairs ({file.removesuffix('.jsonl')})"
        task = progress.add_task(doing, total=len(asked), completed=len(kept.done))
        respond(draws, judge, asked, kept, lambda more: progress.advance(task, more), AT_ONCE)
    unusable |= {one.pair.id: "too_long" for one in asked if not kept.done[one.key][RESPONSES]}
    return [kept.done[one.key] for one in asked if one.pair.id not in unusable], unusable


def _scored(work: JudgeWork, file: str, after: str, pairs: list[Pair], kept: Journal) -> Judged:
    """_asked() of a reward model, which scores every answer by itself: the higher score wins, and of two that are the
    same the one that is presented first, which is right in one order of the two."""
    from mprm.batching.examples import open_images
    from mprm.inference.score_file import score_kept
    from mprm.inference.scoring import Scored, ScoreRequest, Scoring
    from mprm.metrics.predictions import NotScored

    cfg, image_path = work.cfg, work.cfg.reward_benchmark.image_folder.path
    processor, model = work.judge_after(after)
    machine = max_tokens(cfg), device(cfg), cfg.trainer.num_workers
    scoring = Scoring(model, processor, cfg.backbone.max_length, *machine)

    def score(waiting: Sequence[ScoreRequest]) -> Scored:
        found = scoring.scores(waiting, lambda names: open_images([image_path(name) for name in names]), whole=True)
        return tracked(found, len(waiting), f"scoring answers ({file.removesuffix('.jsonl')})")

    requests = [
        ScoreRequest(f"{pair.id}\0{number}", pair.images, pair.prompt, [answer])
        for pair in pairs
        for number, answer in enumerate((pair.answer_a, pair.answer_b))
    ]
    found = score_kept(kept, requests, score)
    records: list[dict[str, Any]] = []
    unusable: dict[str, str] = {}
    for pair in pairs:
        scores = []
        for one in (found[f"{pair.id}\0{number}"] for number in range(2)):
            if isinstance(one, NotScored):
                unusable[pair.id] = one.reason
            else:
                scores.append(one.log_odds[0])
        if pair.id in unusable:
            continue
        response = {"in_format": True, "entropy": None, "n_tokens": 0}
        for swapped, (first, second) in ((False, scores), (True, scores[::-1])):
            better = "B" if (pair.label == "b") != swapped else "A"
            record = {"id": pair.id, "swapped": swapped, "better": better, "scores": [first, second]}
            records.append(record | {"responses": [{"verdict": "AB"[first < second]} | response]})
    return records, unusable
