"""Tasks that use a judge: which of two answers is better, for a file of pairs that nobody has labelled."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.data.questions import read_pairs
from mprm.runs.artifacts import weights_written
from mprm.runs.journal import journal
from mprm.stages.models import check_devices, device, identity, load_backbone
from mprm.stages.responses import looked_at, responder, server
from mprm.stages.stage import Output, content
from mprm.terminal import bar, listed, say, say_without_image

if TYPE_CHECKING:
    from mprm.inference.policy import Writes

AT_ONCE = 32  # pairs: what a kill can lose


def compare(cfg: Config) -> int:
    """Judge every pair of a file in both orders of its answers, by a run's judge, a server or the backbone as it is."""
    from mprm.inference.score_file import path_beside
    from mprm.judge.compare import compared, orders
    from mprm.judge.judge import respond
    from mprm.metrics.pairwise import VOTES

    source = Path(str(cfg.input))
    pairs, dropped = read_pairs(source)
    settings = [content(source), *judge_identity(cfg)]
    output = Output(cfg, "output", settings, [source, cfg.run])
    if output.is_made():
        return 0
    started = monotonic()
    asked, votes = load_responder(cfg)
    found, unusable = looked_at(pairs, path_beside(source), asked)
    reasons = Counter(dropped) + Counter(unusable.values())
    of_pair = {pair.id: orders(pair, paths) for pair, paths in found}
    with journal(output.target, settings) as kept, bar() as progress:
        every = [one for presented in of_pair.values() for one in presented]
        task = progress.add_task(
            "comparing answers", total=len(every), completed=sum(one.key in kept.done for one in every)
        )
        respond({VOTES: (asked, votes)}, cfg.judge, every, kept, lambda more: progress.advance(task, more), 2 * AT_ONCE)
        records = []
        for name, presented in of_pair.items():
            said = [(one, kept.done[one.key][VOTES]) for one in presented]
            if all(responses for _, responses in said):
                records.append(compared(said).record(name))
            else:
                reasons["too_long"] += 1
        if not records:
            kept.remove()
            raise ValueError(f"input={source}: no pair can be judged ({listed(reasons)}); mend them")
        kept.finish(records)
    output.remember()
    say_without_image("pairs", sum(not pair.images for pair, _ in found))
    won = Counter(record["winner"] for record in records)
    ties = sum(record["share"] is not None for record in records if record["winner"] is None)
    left_out = f", left out: {listed(reasons)}" if reasons else ""
    say(
        f"compared {len(records)} pairs in {monotonic() - started:.1f} s{left_out}: a wins {won['a']}, b wins "
        f"{won['b']}, {ties} ties, {won[None] - ties} without a verdict; wrote {cfg.output}"
    )
    return 0


def judge_identity(cfg: Config) -> list[Any]:
    """All that a judge's responses depend on besides what it is asked, as JSON values."""
    how = {name: value for name, value in asdict(cfg.judge).items() if name != "max_tokens"}
    if cfg.judge.engine == "server":
        return [cfg.seed, how, server(cfg).identity()]
    model = identity(cfg, cfg.run)
    if cfg.run is not None:
        from mprm.training.checkpoint import last_trained

        model["written"] = model["written"] or weights_written(last_trained(Path(cfg.run)).parent)
    return [cfg.seed, how, model]


def load_responder(cfg: Config) -> tuple[Writes, int]:
    """What is asked to judge, and for how many responses in each order."""
    from mprm.judge.compare import voting
    from mprm.judging import load_judge

    def load() -> tuple[Any, Any]:
        check_devices(cfg)
        if cfg.run is not None:
            _, processor, model = load_judge(Path(cfg.run))
        else:
            processor, model = load_backbone(cfg)
            model.train_generation()
        return processor, model.to(device(cfg)).eval()

    votes, temperature = voting(cfg.judge, cfg.judge.votes)
    return replace(responder(cfg, load), temperature=temperature), votes
