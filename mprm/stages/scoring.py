"""Tasks that use a step scorer: scores for a file, the best of many candidates, and results on a benchmark."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.data.records import usable_records
from mprm.runs.artifacts import MODEL_FILE, file_hash, write_json, write_json_lines
from mprm.runs.journal import journal
from mprm.runs.run_folder import used_config
from mprm.stages.models import check_devices, check_scored, identity, load_scorer, models_of, opener, scoring
from mprm.stages.stage import Output, content
from mprm.tasks import MODEL, OF_A_RUN
from mprm.terminal import console, listed, retyped, say, say_next, say_without_image

if TYPE_CHECKING:
    from mprm.data.questions import CandidateSet
    from mprm.data.records import Solution
    from mprm.inference.score_file import Score
    from mprm.inference.scoring import ScoreRequest
    from mprm.metrics.predictions import NotScored, Prediction, StepScores
    from mprm.metrics.results import BestOfNResults, StepResults

Found = dict[str, "StepScores | NotScored"]


def score(cfg: Config) -> int:
    """Step scores for a file of solutions, by a run's model, by model=, or by the backbone as it lies in its folder."""
    from mprm.inference.score_file import score_file

    source = Path(str(cfg.input))
    model = identity(cfg, cfg.run)
    output = Output(cfg, "output", [content(source), model], [source, cfg.run])
    if output.is_made():
        return 0
    check_devices(cfg)
    started = monotonic()
    by_model = scoring(cfg, cfg.run, load_scorer(cfg, cfg.run), "input")
    number, without, skipped = score_file(source, output.target, by_model, model)
    output.remember()
    say_without_image("solutions", without)
    left_out = f", not scored: {listed(skipped)}" if skipped else ""
    say(f"scored {number} solutions{left_out} in {monotonic() - started:.1f} s; wrote {cfg.output}")
    say_next(*after_use(cfg))
    return 0 if number else 1


def rerank(cfg: Config) -> None:
    """Choose among the candidate solutions of every question by their step scores; how often that is right."""
    from mprm.data.questions import read_candidates
    from mprm.inference.score_file import score_kept
    from mprm.metrics.best_of_n import check_aggregate
    from mprm.metrics.results import write_results
    from mprm.reporting.best_of_n import left_out, print_best_of_n, write_best_of_n

    check_aggregate(cfg.aggregate)
    check_devices(cfg)
    started = monotonic()
    source = Path(str(cfg.input))
    models = models_of(cfg)
    sets, unusable = read_candidates(source)
    settings = [content(source), {name: identity(cfg, run) for name, run in models.items()}]
    asked = [*settings, cfg.aggregate, cfg.seed]
    output = Output(cfg, "output", asked, [source, *models.values()], mark="scores.jsonl")
    if output.is_made():
        return
    folder = output.target
    with journal(folder / "scores.jsonl", settings) as kept:
        found: Found = {}
        for name, run in models.items():
            by_model = scoring(cfg, run, load_scorer(cfg, run), "input")
            found |= score_kept(kept, requests(name, sets), by_model, whole=True)
        check_scored(found, "candidates", kept)
        results = replace(best_of_n(cfg, folder, models, sets, found), unusable=dict(unusable))
        write_results(folder / "results.json", results)
        page = write_best_of_n(folder)
        kept.finish({"candidate": key, **result} for key, result in kept.done.items())
    output.remember()
    say_without_image("questions", sum(not one.images for one in sets))
    for what, counts in left_out(results).items():
        if counts:
            say(f"{what} not used or not scored: {listed(counts)}")
    print_best_of_n(results, console())
    say(f"wrote {page} in {monotonic() - started:.1f} s")
    say_next(*after_use(cfg))


def evaluate_model(cfg: Config) -> None:
    """The model of a run, of an exported folder or of somebody else on a benchmark: results into output=DIR, nothing is
    trained.

    The threshold is fitted where the run has been evaluated before: to what it predicted of held-out rollouts.
    """
    from mprm.metrics.predictions import read_predictions
    from mprm.reporting.tracking import start

    if cfg.output is None:
        given = f"run={cfg.run}" if cfg.run else "model="
        raise ValueError(f"task=evaluate with {given} needs output=DIR, where the results go")
    check_devices(cfg)
    calibration = Path(str(cfg.run)) / "validation_predictions.jsonl"
    settings = [content_hash(cfg, read_benchmark(cfg)[0]), identity(cfg, cfg.run)]
    asked, inputs = [*settings, content(calibration), cfg.benchmark.error_rate], [cfg.run, cfg.benchmark.path]
    output = Output(cfg, "output", asked, inputs, mark="predictions.jsonl")
    if output.is_made():
        report(output.target)
        return
    score = scoring(cfg, cfg.run, load_scorer(cfg, cfg.run), "benchmark")
    held_out = read_predictions(calibration) if calibration.is_file() else None
    score_benchmark(cfg, output.target, score, settings, held_out, {})
    write_json(output.target / MODEL_FILE, measured_model(cfg))
    report(output.target)
    config = {key: value for key, value in used_config(cfg.raw).items() if key not in OF_A_RUN}
    start(cfg.logger, output.target, config, "").finish({}, output.target)
    output.remember()
    say_next(*(["task=report", f"runs={output.target.parent}"] if cfg.has_model else after_use(cfg)))


def measured_model(cfg: Config) -> dict[str, Any]:
    """What a comparison says of an evaluation: the model's name, the run that made it or its options; the benchmark."""
    (name,) = models_of(cfg)
    made_by_run = cfg.run is not None and (Path(cfg.run) / "config.yaml").is_file()
    options = used_config(cfg.raw)[MODEL] if cfg.has_model else {}
    folder = str(Path(str(options.pop("path", cfg.run))).resolve())
    about = {"name": name, "folder": folder, "run": folder if made_by_run else None, "options": options}
    return about | {"benchmark": used_config(cfg.raw).get("benchmark")}


def score_benchmark(
    cfg: Config,
    folder: Path,
    score: Score,
    settings: Any,
    held_out: list[Prediction] | None,
    unscored: dict[str, int],
) -> StepResults:
    """Write predictions.jsonl, results.json and examples.json of the benchmark, and in solutions.jsonl what was scored.
    What was scored survives a kill.

    settings: all that the predictions depend on; held_out: for the fitted threshold; unscored: of these, by reason.
    """
    from mprm.inference.score_file import score_kept
    from mprm.inference.scoring import ScoreRequest
    from mprm.metrics.evaluate import evaluate
    from mprm.metrics.predictions import with_labels
    from mprm.metrics.results import write_results
    from mprm.reporting.run_record import write_examples

    started = monotonic()
    solutions, dropped = read_benchmark(cfg)
    image_path = cfg.benchmark.image_folder.path
    requests = [ScoreRequest(s.id, s.images, s.question, s.steps) for s in solutions]
    with journal(folder / "predictions.jsonl", settings) as kept:
        found = score_kept(kept, requests, score)
        check_scored(found, "benchmark solutions", kept)
        predictions, skipped = with_labels(found, {s.id: (s.source, s.labels) for s in solutions})
        results = replace(
            evaluate(predictions, held_out, cfg.benchmark.error_rate),
            skipped=dict(Counter(skipped) + Counter(dropped)),
            skipped_held_out=unscored,
            benchmark_hash=content_hash(cfg, solutions),
        )
        write_results(folder / "results.json", results)
        scored = {one.id for one in predictions}
        shown = (
            {"id": s.id, "images": [str(image_path(name).resolve()) for name in s.images]}
            | {"question": s.question, "steps": s.steps}
            for s in solutions
            if s.id in scored
        )
        write_json_lines(folder / "solutions.jsonl", shown)
        pictures = opener(cfg, "benchmark")
        write_examples(folder / "examples.json", predictions, solutions, pictures, results.main.threshold)
        kept.finish(asdict(prediction) for prediction in predictions)
    for what, reasons in (("benchmark solutions", results.skipped), ("held-out rollouts", unscored)):
        if reasons:
            say(f"{what} not scored: {listed(reasons)}")
    say_without_image("benchmark solutions", sum(not s.images for s in solutions))
    say(f"evaluated {len(predictions):,} solutions in {monotonic() - started:,.0f} s")
    return results


def read_benchmark(cfg: Config) -> tuple[list[Solution], dict[str, int]]:
    """Its solutions, and the number of other records by reason.

    Raises ValueError if there is none, or no step that can be right or wrong.
    """
    solutions, dropped = usable_records(cfg.benchmark, "benchmark")
    if not any(label for solution in solutions for label in solution.labels):
        raise ValueError(
            f"benchmark.path={cfg.benchmark.path}: no step of its {len(solutions)} solutions is labelled 1 or -1; give "
            "a benchmark with labels"
        )
    return solutions, dropped


def content_hash(cfg: Config, solutions: list[Solution]) -> str:
    """SHA-256, in hex, of texts, labels and images, whatever the files are called: what runs are compared by."""
    names = {name for one in solutions for name in one.images}
    of_image = {name: file_hash(cfg.benchmark.image_folder.path(name)) for name in names}
    records = sorted(
        json.dumps([one.source, [of_image[name] for name in one.images], one.question, one.steps, one.labels])
        for one in solutions
    )
    return hashlib.sha256("\n".join(records).encode()).hexdigest()


def tell_benchmark(cfg: Config) -> None:
    """Read the benchmark, decode its pictures, and print what is in it."""
    from mprm.training.lengths import broken_pictures

    solutions, dropped = read_benchmark(cfg)
    named = SimpleNamespace(images=[one.images for one in solutions], image_path=cfg.benchmark.image_folder.path)
    broken = broken_pictures(named, cfg.trainer.num_workers, Path(cfg.cache))
    reasons = Counter(dropped)
    for one in solutions:
        reasons.update([broken[name].reason for name in one.images if name in broken][:1])
    labels = Counter(label for one in solutions for label in one.labels)
    steps = ", ".join(f"{labels[label]:,} labelled {label}" for label in (1, -1, 0))
    unusable = f"; not used: {listed(reasons)}" if reasons else ""
    say(f"benchmark: {len(solutions):,} solutions with {labels.total():,} steps, {steps}{unusable}")


def report(folder: Path) -> None:
    """Write the page of a run or an evaluation, and print its tables."""
    from mprm.reporting.run_record import read_run
    from mprm.reporting.steps import print_run, write_report

    started = monotonic()
    page = write_report(folder)
    print_run(read_run(folder), console())
    say(f"wrote {page} in {monotonic() - started:.1f} s")


def after_use(cfg: Config) -> list[str]:
    """What comes after a model was used: a run is exported, runs are compared, somebody's PRM is evaluated; else there
    is one to be trained, from the backbone that was chosen."""
    if cfg.has_model:
        (name,) = models_of(cfg)
        unseen = ["model.ignore_images=true"] if getattr(cfg.model, "ignore_images", None) is False else []
        return [*retyped("evaluate", MODEL, "trainer"), *unseen, f"output=runs/{name}"]
    if cfg.run is None or (Path(cfg.run) / "config.json").is_file():
        return retyped("experiment", "backbone", "trainer")
    if (Path(cfg.run) / "config.yaml").is_file():
        return ["task=export", f"run={cfg.run}", f"output=exported/{Path(cfg.run).resolve().name}"]
    return ["task=report", f"runs={cfg.run}"]


def best_of_n(
    cfg: Config, folder: Path, models: dict[str, str | None], sets: list[CandidateSet], found: Found
) -> BestOfNResults:
    """All that is said of the models' choices; the choices themselves are written into the folder."""
    from mprm.metrics.adaptive import adaptive
    from mprm.metrics.best_of_n import choices, rerank

    said = {model: of_candidates(model, sets, found) for model in models}
    scores = {model: of_model for model, (of_model, _) in said.items()}
    chosen = ({"model": model, **choice} for model in models for choice in choices(sets, scores[model], cfg.aggregate))
    write_json_lines(folder / "choices.jsonl", chosen)
    sure = [m for m in models if all(one is None or one.kappa is not None for row in scores[m] for one in row)]
    return replace(
        rerank(sets, scores, cfg.aggregate, cfg.seed),
        candidates_file=str(cfg.input),
        candidates_hash=str(content(cfg.input)),
        runs=models,
        unscored={model: reasons for model, (_, reasons) in said.items()},
        adaptive={model: adaptive(sets, scores[model], cfg.seed) for model in sure},
    )


def of_candidates(
    model: str, sets: list[CandidateSet], found: Found
) -> tuple[list[list[StepScores | None]], dict[str, int]]:
    """The model's scores by question and candidate, and how many candidates it could not score, by reason."""
    from mprm.metrics.predictions import NotScored, StepScores

    said = [[found.get(f"{model}/{q}/{c}") for c in range(len(one.candidates))] for q, one in enumerate(sets)]
    reasons = Counter(one.reason for row in said for one in row if isinstance(one, NotScored))
    return [[one if isinstance(one, StepScores) else None for one in row] for row in said], dict(reasons)


def requests(model: str, sets: list[CandidateSet]) -> list[ScoreRequest]:
    """The candidates that have steps, to be scored by the model; numbers count from 0, in the order of the file."""
    from mprm.inference.scoring import ScoreRequest

    return [
        ScoreRequest(f"{model}/{q}/{c}", one.images, one.question, candidate.steps)
        for q, one in enumerate(sets)
        for c, candidate in enumerate(one.candidates)
        if candidate.steps
    ]
