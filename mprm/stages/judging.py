"""Tasks that use a trained model: step scores for a file of solutions, and the choice among candidates."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import weights_written, write_json_lines
from mprm.stages.devices import check_devices, load_backbone
from mprm.stages.outputs import content, is_made, remember
from mprm.terminal import console, say, say_next, tracked

if TYPE_CHECKING:
    from mprm.data.candidates import CandidateSet
    from mprm.inference.score_file import Score
    from mprm.inference.scoring import OpenImages, ScoreRequest
    from mprm.metrics.results import BestOfNResults
    from mprm.metrics.step_scores import NotScored, StepScores

Found = dict[str, "StepScores | NotScored"]


def score(cfg: Config) -> int:
    """Step scores for a file of solutions, by a run's model or by the backbone as it lies in its folder."""
    from mprm.inference.score_file import open_beside, score_file

    if cfg.input is None or cfg.output is None:
        raise ValueError("task=score needs input=FILE.jsonl (image, question, steps) and output=FILE.jsonl")
    source, target = Path(cfg.input), Path(cfg.output)
    settings = [content(source), identity(cfg, cfg.run)]
    if is_made(cfg, "output", settings, [source, cfg.run]):
        return 0
    check_devices(cfg)
    started = monotonic()
    scorer = load_scorer(cfg, cfg.run, "solutions", open_beside(source))
    scored, skipped = score_file(source, target, scorer, identity(cfg, cfg.run))
    remember(cfg, "output", settings)
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
    left_out = f", not scored: {reasons}" if reasons else ""
    say(f"scored {scored} solutions{left_out} in {monotonic() - started:.1f} s; wrote {cfg.output}")
    say_next(*after_use(cfg.run))
    return 0 if scored else 1


def rerank(cfg: Config) -> None:
    """Choose among the candidate solutions of every question by their step scores; how often that is right."""
    from mprm.data.candidates import read_candidates
    from mprm.inference.score_file import open_beside, score_kept
    from mprm.metrics.best_of_n import check_aggregate
    from mprm.metrics.results import write_results
    from mprm.reporting.best_of_n import print_best_of_n, write_best_of_n
    from mprm.reporting.old_layout import as_before
    from mprm.runs.journal import journal

    if cfg.input is None or cfg.output is None:
        raise ValueError("task=rerank needs input=FILE.jsonl (candidates) and output=DIR")
    check_aggregate(cfg.aggregate)
    check_devices(cfg)
    started = monotonic()
    models, folder, open_images = models_of(cfg), Path(cfg.output), open_beside(Path(cfg.input))
    sets, unusable = read_candidates(Path(cfg.input))
    settings = [content(cfg.input), {name: identity(cfg, run) for name, run in models.items()}]
    asked = [*settings, cfg.aggregate, cfg.seed]
    if is_made(cfg, "output", asked, [cfg.input, *models.values()], mark="scores.jsonl"):
        return
    with journal(folder / "scores.jsonl", settings) as kept:
        found: Found = {}
        for name, run in models.items():
            found |= score_kept(
                kept, candidates(name, sets), load_scorer(cfg, run, f"candidates by {name}", open_images)
            )
        results = replace(measured(cfg, folder, list(models), sets, found), unusable=dict(unusable))
        write_results(folder / "results.json", results)
        page = write_best_of_n(folder)
        kept.finish({"candidate": key, **result} for key, result in kept.done.items())
    remember(cfg, "output", asked)
    print_best_of_n(as_before(results), console())
    say(f"wrote {page} in {monotonic() - started:.1f} s")
    say_next(*after_use(cfg.run))


def evaluate_model(cfg: Config) -> None:
    """The model of a run or of an exported folder on a benchmark: results into output=DIR, nothing is trained.

    The threshold is calibrated where the run has been evaluated before: on what it predicted of held-out rollouts.
    """
    from mprm.batching.examples import open_images
    from mprm.data.records import usable_records
    from mprm.inference.score_file import score_kept
    from mprm.inference.scoring import ScoreRequest
    from mprm.metrics.evaluate import evaluate
    from mprm.metrics.predictions import read_predictions, with_labels
    from mprm.metrics.results import write_results
    from mprm.runs.journal import journal
    from mprm.stages.shared import content_hash

    if cfg.output is None:
        raise ValueError("task=evaluate run=... needs output=DIR, where the results go")
    check_devices(cfg)
    started = monotonic()
    solutions, dropped = usable_records(cfg.benchmark, "benchmark")
    benchmark = content_hash(cfg, solutions)
    folder, calibration = Path(cfg.output), Path(str(cfg.run)) / "validation_predictions.jsonl"
    settings = [benchmark, identity(cfg, cfg.run)]
    asked = [*settings, content(calibration), cfg.seed]
    if is_made(cfg, "output", asked, [cfg.run, cfg.benchmark.path], mark="predictions.jsonl"):
        report(folder)
        return
    scorer = load_scorer(
        cfg,
        cfg.run,
        "the benchmark",
        lambda names: open_images([cfg.benchmark.image_folder.path(name) for name in names]),
    )
    with journal(folder / "predictions.jsonl", settings) as kept:
        found = score_kept(kept, [ScoreRequest(s.id, s.images, s.question, s.steps) for s in solutions], scorer)
        predictions, skipped = with_labels(found, {s.id: (s.source, s.labels) for s in solutions})
        held_out = read_predictions(calibration) if calibration.is_file() else None
        results = replace(
            evaluate(predictions, held_out, cfg.seed),
            skipped=dict(Counter(skipped) + Counter(dropped)),
            benchmark_hash=benchmark,
        )
        write_results(folder / "results.json", results)
        kept.finish(asdict(prediction) for prediction in predictions)
    say_skipped("benchmark solutions", results.skipped)
    say(f"evaluated {len(predictions):,} solutions in {monotonic() - started:,.0f} s")
    report(folder)
    remember(cfg, "output", asked)
    say_next(*after_use(cfg.run))


def after_use(run: str | None) -> list[str]:
    """What comes after a model was used: a run is exported, runs are compared; else there is one to be trained."""
    if run is None or (Path(run) / "config.json").is_file():
        return ["task=experiment"]
    if (Path(run) / "config.yaml").is_file():
        return ["task=export", f"run={run}", f"output=exported/{Path(run).resolve().name}"]
    return ["task=report", f"runs={run}"]


def say_skipped(what: str, skipped: dict[str, int]) -> None:
    if not_scored := {reason: count for reason, count in skipped.items() if count}:
        say(f"{what} not scored: " + ", ".join(f"{n} {why}" for why, n in not_scored.items()))


def report(folder: Path) -> None:
    """Write the page of a run or an evaluation, and print its tables."""
    from mprm.reporting.collect import read_run
    from mprm.reporting.console import print_run
    from mprm.reporting.page import write_report

    started = monotonic()
    page = write_report(folder)
    print_run(read_run(folder), console())
    say(f"wrote {page} in {monotonic() - started:.1f} s")


def measured(cfg: Config, folder: Path, models: list[str], sets: list[CandidateSet], found: Found) -> BestOfNResults:
    """All that is said of the models' choices; the choices themselves are written into the folder."""
    from mprm.metrics.adaptive import adaptive
    from mprm.metrics.best_of_n import choices, rerank
    from mprm.metrics.step_scores import NotScored, StepScores

    scores: dict[str, list[list[StepScores | None]]] = {}
    for model in models:
        of_model = [[found.get(key(model, q, c)) for c in range(len(one.candidates))] for q, one in enumerate(sets)]
        scores[model] = [[one if isinstance(one, StepScores) else None for one in row] for row in of_model]
    chosen = ({"model": model, **choice} for model in models for choice in choices(sets, scores[model], cfg.aggregate))
    write_json_lines(folder / "choices.jsonl", chosen)
    sure = [m for m in models if all(one is None or one.kappa is not None for row in scores[m] for one in row)]
    reasons = {m: Counter[str]() for m in models}
    for name, one in found.items():
        if isinstance(one, NotScored):
            reasons[name.rsplit("/", 2)[0]][one.reason] += 1
    return replace(
        rerank(sets, scores, cfg.aggregate, cfg.seed),
        candidates_file=str(cfg.input),
        unscored={model: dict(counts) for model, counts in reasons.items()},
        adaptive={model: adaptive(sets, scores[model], cfg.seed) for model in sure},
    )


def candidates(model: str, sets: list[CandidateSet]) -> list[ScoreRequest]:
    """Those that have steps, to be scored by the model."""
    from mprm.inference.scoring import ScoreRequest

    return [
        ScoreRequest(key(model, q, c), one.images, one.question, candidate.steps)
        for q, one in enumerate(sets)
        for c, candidate in enumerate(one.candidates)
        if candidate.steps
    ]


def key(model: str, question: int, candidate: int) -> str:
    """Names a candidate's scores among those of all models: the numbers count from 0, in the order of the file."""
    return f"{model}/{question}/{candidate}"


def models_of(cfg: Config) -> dict[str, str | None]:
    """The models by name: the one that run= names, or all trained runs in that folder; without run= the backbone."""
    if cfg.run is None:
        return {Path(str(cfg.backbone.path)).name: None}
    folder = Path(cfg.run)
    if (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return {folder.resolve().name: cfg.run}
    runs = [path.parent for path in sorted(folder.glob("*/weights.safetensors"))]
    if not runs:
        raise ValueError(f"run={cfg.run} is no run and holds none that is trained; give runs/NAME or a folder of runs")
    return dict(zip(short_names([run.name for run in runs]), map(str, runs), strict=True))


def short_names(names: list[str]) -> list[str]:
    """Names of run folders without the parts that all have, and without the hash where they differ without it."""
    parts = [name.split("-") for name in names]
    common = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    short = [[part for part in of_one if part not in common] for of_one in parts]
    without_hash = ["-".join(of_one[:-1]) for of_one in short]
    unique = len(set(without_hash)) == len(names) and all(without_hash)
    return without_hash if unique and len(names) > 1 else ["-".join(of_one) for of_one in short]


def load_scorer(cfg: Config, run: str | None, description: str, open_images: OpenImages) -> Score:
    """Scores solutions, with a progress bar, on the trainer's device.

    The model is that of a run or an exported folder; without one, the backbone as it lies in its folder.
    """
    from mprm.scorer import StepScorer

    device = "cuda" if cfg.trainer.accelerator == "gpu" else "cpu"
    max_tokens = 2 * cfg.trainer.max_tokens  # nothing is kept for a backward pass
    if run is not None:
        scorer = StepScorer.from_pretrained(run, device, max_tokens=max_tokens)
    else:
        scorer = StepScorer(*load_backbone(cfg), cfg.backbone.max_length, max_tokens, device)
    return lambda solutions: tracked(scorer.scored(solutions, open_images), len(solutions), f"scoring {description}")


def identity(cfg: Config, run: str | None) -> dict[str, Any]:
    """What the scores depend on: the model's folder, when its weights were written, and the options of the backbone."""
    folder = Path(run or str(cfg.backbone.path)).resolve()
    backbone = None if run else asdict(cfg.backbone)
    return {"folder": str(folder), "written": weights_written(folder), "backbone": backbone}
