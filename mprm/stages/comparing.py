"""Tasks that use a judge: which of two answers is better, for a file of pairs that nobody has labelled."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

from mprm.config import Config, judge_of
from mprm.data.questions import read_pairs
from mprm.runs.journal import journal
from mprm.stages.models import identity, load_judge, responder
from mprm.stages.stage import Output, content
from mprm.terminal import bar, listed, say, say_without_image

AT_ONCE = 32  # pairs: what a kill can lose


def compare(cfg: Config) -> int:
    """Judge every pair of a file in both orders of its answers, by a run's judge, a server or the backbone as it is."""
    from mprm.inference.policy import looked_at
    from mprm.inference.score_file import path_beside
    from mprm.judge.compare import compared, orders, voting
    from mprm.judge.judge import respond
    from mprm.metrics.pairwise import VOTES

    if cfg.run is not None and judge_of(Path(cfg.run)) is None:
        raise ValueError(f"run={cfg.run} is no judge; give a folder that task=export wrote of one, or its run")
    source = Path(str(cfg.input))
    pairs, dropped = read_pairs(source)
    settings = [content(source), identity(cfg, cfg.run)]
    output = Output(cfg, "output", settings, [source, cfg.run])
    if output.is_made():
        return 0
    started = monotonic()
    votes, temperature = voting(cfg.judge, cfg.judge.votes)
    writer = replace(responder(cfg, partial(load_judge, cfg)), temperature=temperature)
    found, unusable = looked_at(pairs, path_beside(source), writer)
    reasons = Counter(dropped) + Counter(unusable.values())
    of_pair = {pair.id: orders(pair, paths) for pair, paths in found}
    with journal(output.target, settings) as kept, bar() as progress:
        every = [one for presented in of_pair.values() for one in presented]
        task = progress.add_task("comparing answers", total=len(every), completed=len(kept.done))
        respond({VOTES: (writer, votes)}, cfg.judge, every, kept, partial(progress.advance, task), 2 * AT_ONCE)
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
