"""Tasks of the policy: it solves questions, and continues its solutions for Monte-Carlo scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.stages.outputs import Output
from mprm.terminal import bar, listed, say, say_next

if TYPE_CHECKING:
    from mprm.inference.policy import Annotation, Sampling

DOING = {"sample": "solving questions", "annotate": "annotating questions"}


def sample(cfg: Config) -> None:
    """Candidate solutions of every question, for task=rerank."""
    from mprm.inference.policy import Sampling

    def records(result: dict[str, Any]) -> list[dict[str, Any]]:
        return [result | {"image": [str(cfg.questions.image_folder.path(name)) for name in result["image"]]}]

    started = monotonic()
    results = _worked(cfg, Sampling(cfg.solutions), records)
    if results is None:
        return
    right = [candidate["correct"] for result in results for candidate in result["candidates"]]
    say(
        f"{len(results)} questions with {cfg.solutions} solutions each, {sum(right) / max(1, len(right)):.1%} of them "
        f"right, in {monotonic() - started:.1f} s; wrote {cfg.output}"
    )
    output = Path(str(cfg.output))
    runs = [f"run={cfg.runs}"] if any(Path(cfg.runs).glob("*/weights.safetensors")) else []
    chosen = output.with_name(f"{output.stem}_best_of_{cfg.solutions}")
    say_next("task=rerank", *runs, f"input={output}", f"output={chosen}")


def annotate(cfg: Config) -> None:
    """Solutions of every question with a Monte-Carlo score per step, in the format of VisualPRM400K-v1.1-Raw."""
    from mprm.inference.policy import Annotation

    started = monotonic()
    results = _worked(cfg, Annotation(cfg.solutions, cfg.continuations), lambda result: result["records"])
    if results is None:
        return
    dropped = sum((Counter(result["dropped"]) for result in results), Counter[str]())
    written = sum(len(result["records"]) for result in results)
    reasons = f", left out: {listed(dropped)}" if dropped else ""
    say(
        f"{written} solutions of {len(results)} questions{reasons} in {monotonic() - started:.1f} s; wrote {cfg.output}"
    )
    file = Path(str(cfg.output))
    folder = [f"dataset.annotations={file.parent}", f"dataset.images={cfg.questions.image_folder.root}"]
    say_next("task=select", "dataset=visualprm400k", *folder, f"dataset.sources=[{file.stem}]")


def _worked(
    cfg: Config, work: Sampling | Annotation, records: Callable[[dict[str, Any]], Iterable[dict[str, Any]]]
) -> list[dict[str, Any]] | None:
    """Do the work for every question, or what an earlier process left of it, and write the records of all results.

    Returns the results of the questions that could be used; None if this very command has written the file before.
    """
    from mprm.data.records import usable_records
    from mprm.inference.policy import UNUSABLE, solve
    from mprm.runs.journal import journal

    questions, dropped = usable_records(cfg.questions, "questions")
    skipped = Counter(dropped)
    settings = {name: value for name, value in asdict(work).items() if name != "batch"}
    asked = [[q.id, q.images, q.question, q.answer] for q in questions]
    depends_on = [cfg.task, settings, cfg.policy.identity(), asked]
    output = Output(cfg, "output", depends_on, [cfg.questions.path])
    if output.is_made():
        return None
    with journal(output.target, depends_on) as kept, bar() as progress:
        done = sum(question.id in kept.done for question in questions)
        task = progress.add_task(DOING[cfg.task], total=len(questions), completed=done)
        advance = partial(progress.advance, task)
        solve(cfg.policy, questions, cfg.questions.image_folder.path, work, kept, advance)
        results = [kept.done[question.id] for question in questions]
        skipped.update(result[UNUSABLE] for result in results if UNUSABLE in result)
        usable = [result for result in results if UNUSABLE not in result]
        if not usable:
            raise ValueError(
                f"none of the {len(results)} questions can be asked ({listed(skipped)}); mend the images; where they "
                "are too_long, lower policy.max_new_tokens or serve the model with a longer context"
            )
        kept.finish(record for result in usable for record in records(result))
    output.remember()
    if skipped:
        say(f"questions left out: {listed(skipped)}")
    return usable
