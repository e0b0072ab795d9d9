"""Search over steps by a policy and a step scorer, beside what the same policy's candidates reach at equal tokens."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.data.lines import read_json_lines
from mprm.data.questions import Question, read_candidates
from mprm.runs.artifacts import MODEL_FILE, write_json
from mprm.runs.journal import Journal, journal
from mprm.stages.models import check_devices, identity, load_scorer, models_of, opener, scoring
from mprm.stages.scoring import after_use, measured_model, of_candidates, requests
from mprm.stages.stage import Output, content
from mprm.stages.standalone import policy_hash
from mprm.terminal import bar, console, listed, say, say_next

if TYPE_CHECKING:
    from mprm.data.questions import CandidateSet
    from mprm.metrics.search_results import SearchResults


def search(cfg: Config) -> None:
    """Search solutions of the questions that the candidates answer; how often each way of answering is right."""
    from mprm.metrics.best_of_n import check_aggregate
    from mprm.metrics.results import write_results
    from mprm.reporting.search import left_out, print_search, write_search

    check_aggregate(cfg.aggregate)
    check_devices(cfg)
    if len(models_of(cfg)) > 1:
        raise ValueError(f"run={cfg.run} holds several runs, and one model guides a search; give runs/NAME")
    started, source = monotonic(), Path(str(cfg.input))
    sets, unusable = read_candidates(source)
    check_policy(cfg, source)
    asked = {one.id: one for one in sets if one.answer is not None}
    if not asked:
        raise ValueError(f"input={source}: no question has an answer to judge a search by; give every record one")
    questions = [Question(q.id, q.source, q.images, q.question, str(q.answer)) for q in asked.values()]
    policy = cfg.policy.identity()
    depends_on = [asdict(cfg.search), policy, identity(cfg, cfg.run), list(map(asdict, questions))]
    settings = [*depends_on, content(source), cfg.aggregate, cfg.seed]
    output = Output(cfg, "output", settings, [source, cfg.run], mark="search.jsonl")
    if output.is_made():
        return
    folder = output.target
    with journal(folder / "search.jsonl", depends_on) as kept:
        results, records = searched(cfg, questions, asked, kept)
        results = replace(
            results,
            search=asdict(cfg.search),
            input=str(source),
            content=hashlib.sha256(json.dumps([policy, content(source)]).encode()).hexdigest(),
            unusable=dict(Counter(unusable) + Counter(results.unusable) + Counter(no_answer=len(sets) - len(asked))),
        )
        write_results(folder / "results.json", results)
        write_json(folder / MODEL_FILE, measured_model(cfg))
        page = write_search(folder)
        kept.finish(records)
    output.remember()
    for what, counts in left_out(results).items():
        if counts:
            say(f"{what} not used, not scored or thrown away: {listed(counts)}")
    print_search(results, console())
    say(f"wrote {page} in {monotonic() - started:.1f} s")
    say_next(*after_use(cfg))


def searched(
    cfg: Config, questions: list[Question], asked: dict[str, CandidateSet], kept: Journal
) -> tuple[SearchResults, list[dict[str, Any]]]:
    """Search every question, score its candidates; what came of it, and the records of the searches."""
    from mprm.inference.policy import UNUSABLE, solve
    from mprm.inference.score_file import path_beside, score_kept
    from mprm.inference.search import Guided
    from mprm.metrics.search import measure_search

    image_path = path_beside(Path(str(cfg.input)))
    by_model, open_images = load_scorer(cfg, cfg.run), opener(cfg, "input")
    work = Guided(cfg.search, lambda solutions: by_model(solutions, open_images))
    with bar() as progress:
        task = progress.add_task("searching", total=len(asked), completed=sum(name in kept.done for name in asked))
        solve(cfg.policy, questions, image_path, work, kept, partial(progress.advance, task))
    found = [kept.done[name] for name in asked]
    unusable = Counter(record[UNUSABLE] for record in found if UNUSABLE in record)
    records = [record for record in found if UNUSABLE not in record]
    if not records:
        raise ValueError(f"none of the {len(found)} questions can be searched ({listed(unusable)}); mend the images")
    sets = [asked[record["id"]] for record in records]
    file = f"\0{content(cfg.input)}"  # their scores are kept for this file alone, the searches for further ones too
    scored = score_kept(kept, requests(file, sets), scoring(cfg, cfg.run, by_model, "input"))
    scores, unscored = of_candidates(file, sets, scored)
    results, reached = measure_search(records, sets, scores, cfg.aggregate, cfg.seed, cfg.search.label)
    each = [dict(zip(reached, map(float, values), strict=True)) for values in zip(*reached.values(), strict=True)]
    results = replace(results, unusable=dict(unusable), unscored=unscored)
    return results, [record | {"accuracy": ways} for record, ways in zip(records, each, strict=True)]


def check_policy(cfg: Config, source: Path) -> None:
    """Raise ValueError if task=sample says that other settings made the candidates than those of policy=."""
    read = read_json_lines(source, "input", lambda number, record: record.get("policy"))
    if any(isinstance(made_by, str) and made_by != policy_hash(cfg) for made_by in read):
        raise ValueError(
            f"input={source} was sampled by another policy than policy=, or with other settings: its tokens would not "
            "be those of the search; give the options policy.* that task=sample had, or sample again"
        )
