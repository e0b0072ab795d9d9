"""Tasks beside the pipeline: on a model or a file of its own, without a run folder."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, fields
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mprm.binding import component
from mprm.config import Config, config_of_run, judge_of
from mprm.runs.artifacts import last_trained
from mprm.runs.journal import journal, read_jobs
from mprm.runs.run_folder import CHECKOUT, used_config
from mprm.stages.models import load_backbone
from mprm.stages.stage import Output, content
from mprm.tasks import GROUPS, REWARD_MODEL
from mprm.terminal import bar, command, console, listed, retyped, say, say_next, say_without_image

if TYPE_CHECKING:
    from mprm.inference.policy import Annotation, Sampling


def export(cfg: Config) -> None:
    """A trained run as a folder that other software loads; with push_to=ORG/NAME also on the hub."""
    from mprm.backbones.auto import Auto
    from mprm.backbones.loading import PROMPT, ChatBackbone
    from mprm.backbones.usage import AS_A_JUDGE
    from mprm.reporting.card import model_card
    from mprm.runs.hub import push
    from mprm.training.checkpoint import export as write
    from mprm.training.checkpoint import load_checkpoint, load_weights

    folder = Path(str(cfg.run))
    trained, judge = config_of_run(folder), judge_of(folder)
    source, finished = trained.backbone.folder(), cfg.checkpoint is None
    rates_answers = trained.task == REWARD_MODEL
    use = trained.backbone.usage(rates_answers) if isinstance(trained.backbone, Auto | ChatBackbone) else ""
    use, prompt = use if judge is None else AS_A_JUDGE, trained.backbone.prompt() | ({"judge": judge} if judge else {})
    card = model_card(folder, used_config(trained.raw), source, prompt, use, finished)
    weights = sorted(folder.glob("**/weights.safetensors"))
    settings = [*map(content, weights), cfg.checkpoint, content(cfg.checkpoint), cfg.format, card]
    output = Output(cfg, "output", settings, [cfg.run, cfg.checkpoint, source], mark=PROMPT)
    if not output.is_made():
        started = monotonic()
        processor, model = load_backbone(trained)
        model.rates_answers = rates_answers
        if cfg.checkpoint is None:
            load_weights(model, last_trained(folder))
        else:
            load_checkpoint(model, Path(cfg.checkpoint))
        write(model, processor, trained.backbone, output.target, cfg.format, card, judge)
        output.remember()
        say(f"wrote {cfg.output} in {monotonic() - started:.1f} s")
    if cfg.push_to is not None:
        again = f"{command()} {shlex.join(retyped('export'))}"
        say(f"uploaded {cfg.output} to {push(output.target, cfg.push_to, again)}; a new repository is private")
    if rates_answers:
        say_next("task=report", f"runs={Path(str(cfg.run)).parent}")
    elif judge is not None:
        say_next("task=compare", f"run={cfg.output}", "input=PAIRS.jsonl", f"output={cfg.output}_compared.jsonl")
    elif Path(str(trained.raw.benchmark.path)).is_file():
        run = cfg.output if (output.target / "config.json").is_file() else cfg.run  # of a backbone of one's own
        given = f"input={trained.raw.benchmark.path}"
        say_next("task=score", f"run={run}", given, f"output={cfg.output}_scores.jsonl")


def choices(cfg: Config) -> None:
    """Print every choice of every group as its file has it, and the fields that the file leaves out."""
    for path in sorted((CHECKOUT / "mprm" / "conf").glob("*/*.yaml")):
        print(f"\n{path.parent.name}={path.stem}")
        for line in path.read_text(encoding="utf-8").splitlines():
            if "_target_" not in line and not line.startswith("# @package"):
                print(f"    {line}")
        root = OmegaConf.load(path)
        assert isinstance(root, DictConfig)
        written = {path.parent.name: root} if "_target_" in root else root
        for group, node in written.items():
            if group in GROUPS and "_target_" in node:
                for field in fields(component(node._target_, str(group))):
                    if field.name not in node:
                        default = field.default if field.default_factory is MISSING else field.default_factory()
                        print(f"    +{group}.{field.name}={default}")


def report(cfg: Config) -> None:
    """Compare all finished runs below `runs`."""
    started = monotonic()
    compare_runs(Path(cfg.runs))
    say(f"compared in {monotonic() - started:.1f} s")
    say_next("task=sample", "output=candidates.jsonl")


def compare_runs(runs: Path, own: bool = False) -> None:
    """Write the comparison of the finished runs below `runs`, and print it.

    own: of the last sweep's jobs alone, whatever else lies in the folder.
    """
    from mprm.reporting.comparison import write_comparison
    from mprm.reporting.run_record import run_folders
    from mprm.reporting.settings import compare

    folders, jobs = run_folders(runs), read_jobs(runs)
    if own:
        names = {job.name for job in jobs}
        folders = [folder for folder in folders if folder.name in names]
    say(f"wrote {write_comparison(runs, compare(folders, jobs), console())}")


def measure(cfg: Config) -> None:
    """Metrics of anybody's predictions."""
    from mprm.metrics.evaluate import measure as measured
    from mprm.metrics.predictions import read_predictions
    from mprm.metrics.results import write_results

    output = Output(cfg, "output", [content(cfg.predictions), cfg.threshold], [cfg.predictions])
    if output.is_made():
        return
    results = measured(read_predictions(str(cfg.predictions)), cfg.threshold)
    write_results(output.target, results)
    output.remember()
    (at,) = results.thresholds.values()
    f1 = at.first_errors and at.first_errors.f1
    process_f1 = f", ProcessBench F1 {f1.value:.4f}" if f1 else ""
    say(
        f"{results.n_solutions} solutions at threshold {at.threshold:.6g}: overall_step_weighted_macro_f1 "
        f"{at.overall_step_weighted_macro_f1.value:.4f}, pooled_macro_f1 {at.pooled_macro_f1.value:.4f}, "
        f"auc {at.auc_words()}{process_f1}; wrote {cfg.output}"
    )


def sample(cfg: Config) -> None:
    """Candidate solutions of every question, for task=rerank."""
    from mprm.inference.policy import Sampling

    def records(result: dict[str, Any]) -> list[dict[str, Any]]:
        images = [str(cfg.questions.image_folder.path(name)) for name in result["image"]]
        return [result | {"image": images, "policy": policy_hash(cfg)}]

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


def policy_hash(cfg: Config) -> str:
    """Of what the policy's completions depend on but for the seed, whatever folder its weights lie in."""
    settings = cfg.policy.identity() | {"seed": None, "written": None}
    settings["path"] = Path(str(settings.get("path"))).name
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


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

    questions, dropped = usable_records(cfg.questions, "questions")
    skipped = Counter(dropped)
    settings = {name: value for name, value in asdict(work).items() if name != "batch"}
    asked = [[q.id, q.images, q.question, q.answer] for q in questions]
    depends_on = [cfg.task, settings, cfg.policy.identity(), asked]
    output = Output(cfg, "output", depends_on, [cfg.questions.path])
    if output.is_made():
        return None
    say_without_image("questions", sum(not one.images for one in questions))
    with journal(output.target, depends_on) as kept, bar() as progress:
        done = sum(question.id in kept.done for question in questions)
        doing = "solving questions" if cfg.task == "sample" else "annotating questions"
        task = progress.add_task(doing, total=len(questions), completed=done)
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
