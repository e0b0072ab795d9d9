"""A run as a comparison sees it: its numbers, which depend on its kind. There are four kinds: step scorers, judges,
best-of-N and searches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mprm.metrics.estimate import Estimate, Resampled, resampled_mean
from mprm.metrics.evaluate import step_measures
from mprm.metrics.pairwise import judgements, vote_accuracies
from mprm.metrics.predictions import read_predictions
from mprm.metrics.results import BestOfNResults, JudgeResults, Results, StepResults
from mprm.metrics.search_results import SearchResults
from mprm.reporting.plots import Measure
from mprm.reporting.run_record import read_json_lines

POLICY = {"pass@1": "one candidate", "majority": "majority vote", "pass@N": "pass@N"}


@dataclass(frozen=True)
class Curve:
    """What a training logs and comparisons draw."""

    file: str  # in the run's folder
    key: str
    title: str
    axis: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the kinds of results."""

    title: str
    items: str  # what the benchmark consists of, and the bootstrap draws
    kept: str  # what a selection keeps
    measures: tuple[Measure, ...]  # the main one first
    shown: int = 2  # so many of those that there are
    headlines: int = 1  # so many are spoken of in the first sentence
    arms: bool = False  # is every pair of settings that differ in one choice spoken of?
    changes: tuple[str, ...] = ()  # those of the extra ones that tell what a training has changed
    extra: tuple[Measure, ...] = ()  # in tables alone
    sources: str  # what is shown of every source of the benchmark
    curves: tuple[Curve, ...]
    curves_from: str  # what the curves were measured on
    note: str  # what the measures are
    lacking: str = ""  # what a setting without one of the measures has instead


def _shares(axis: str, **names: str) -> tuple[Measure, ...]:
    return tuple(
        Measure(key=key, name=name, title=name[0].upper() + name[1:], axis=axis) for key, name in names.items()
    )


AUC_AXIS = "area under the ROC curve\nchance: 0.5"
F1 = "overall macro-F1 (points)"
STEP_CURVES = (
    Curve("metrics.jsonl", "val/auc", "Validation AUC", "AUC of held-out steps"),
    Curve("metrics.jsonl", "val/loss", "Validation loss", "loss per step (nats)"),
)
KINDS = {
    "steps": Kind(
        title="Step scorers",
        items="solutions",
        kept="rollouts",
        measures=(
            Measure(key="auc", name="AUC", title="AUC", axis=AUC_AXIS, scale=1, form=".3f"),
            Measure(key="f1", name="F1", title="F1 (fitted threshold)", axis=F1),
            Measure(key="f1_optimistic", name="optimistic F1", title="Optimistic F1", axis=F1),
            Measure(key="f1_fixed", name="F1 at 0.5", title="F1 at 0.5", axis=F1),
        ),
        shown=4,
        headlines=2,
        extra=(
            Measure(key="average_precision", name="AP of wrong steps", title="", axis="", scale=1, form=".3f"),
            Measure(key="first_error_accuracy", name="first errors found (%)", title="", axis=""),
            Measure(key="first_error_f1", name="ProcessBench F1", title="", axis=""),
            Measure(key="first_error_f1_fixed", name="ProcessBench F1 at 0.5", title="", axis=""),
            Measure(key="ece", name="ECE", title="", axis="", scale=1, form=".3f"),
        ),
        sources=f"{F1}, fitted threshold",
        curves=STEP_CURVES,
        curves_from="Measured on held-out rollouts with Monte-Carlo labels.",
        note="F1: mean of the sources' macro-F1, weighted by labelled steps, in points, at the threshold that is "
        "fitted to held-out rollouts with right and wrong steps weighted equally, so that it does not matter how many "
        "of them are wrong. Optimistic: at the best threshold on the benchmark itself, as published. AP: average "
        "precision. First errors at the fitted threshold. ProcessBench F1: of the shares of wrong solutions whose "
        "first error is found and of right ones in which nothing is rejected, mean over the sources.",
        lacking="A model without held-out rollouts has no fitted threshold, and so neither F1 nor first errors found "
        "(-): compare its F1 at 0.5, and its optimistic F1 with the optimistic ones.",
    ),
    "judge": Kind(
        title="Judges",
        items="pairs",
        kept="pairs",
        measures=_shares(
            "right verdicts (%)", last="accuracy", last_sampled="sampled accuracy", last_vote="accuracy in a vote"
        ),
        shown=3,
        arms=True,
        changes=("rl_minus_sft", "rl_minus_sft_sampled", "rl_minus_sft_vote"),
        extra=_shares(
            "points",
            untrained="accuracy untrained (%)",
            sft="accuracy after SFT (%)",
            rl_minus_sft="RL - SFT",
            rl_minus_sft_sampled="sampled RL - SFT",
            rl_minus_sft_vote="in a vote RL - SFT",
            wrong_kept="wrong labels kept (%)",
            wrong_random="wrong at random (%)",
        ),
        sources="right verdicts (%)",
        curves=(
            Curve("rl/metrics.jsonl", "train/accuracy", "Accuracy in RL", "right verdicts (share)"),
            Curve("rl/metrics.jsonl", "train/entropy", "Entropy in RL", "mean entropy (nats)"),
            Curve("rl/metrics.jsonl", "val/accuracy", "Held-out pairs in RL", "right verdicts (share)"),
        ),
        curves_from="Running means of what RL sampled for its own pairs, and what it answered to grpo.held_out.",
        note="Accuracy in percent, every pair judged in both orders, after the last stage: RL, where it was done, or "
        "the training of a reward model. RL - SFT: in points, paired; sampled: of the mean over the judge.votes "
        "responses, in a vote: of their majority. Wrong labels: among the kept pairs, and in "
        "random subsets with as many pairs of every source.",
    ),
    "best_of_n": Kind(
        title="Best-of-N",
        items="questions",
        kept="rollouts",
        measures=_shares("right choices (%)", best_of_n="best-of-N", weighted_majority="weighted majority"),
        sources="right choices (%)",
        curves=STEP_CURVES,
        curves_from="Of the trainings that made the models, on held-out rollouts with Monte-Carlo labels.",
        note="Right choices among all candidates of a question, in percent: the one of the highest aggregate, and a "
        "vote in which every candidate counts by its mean score.",
    ),
    "search": Kind(
        title="Searches",
        items="questions",
        kept="rollouts",
        measures=(
            *_shares("right answers (%)", search="search"),
            *_shares("points", minus_best_of_n="search - best-of-N", minus_majority="search - majority vote"),
        ),
        shown=3,
        sources="right answers (%)",
        curves=STEP_CURVES,
        curves_from="Of the trainings that made the models, on held-out rollouts with Monte-Carlo labels.",
        note="Right answers of a search that the model guides, in percent, and in points, paired, less what it chooses "
        "among candidates, and what these vote for, that cost as many tokens.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run, or a model of a best-of-N result, has reached on a benchmark."""

    content: dict[str, str]  # of what it was measured on: its name -> its hash; only the same is compared
    # by the key of the measure, and by "source/NAME": what is known of every item of the benchmark is resampled
    numbers: dict[str, Resampled | Estimate]
    references: dict[str, dict[str, float]] = field(default_factory=dict)  # by measure: what to compare with


def measured(folder: Path, results: Results, model: str, trained: Path) -> Measured:
    """What lies in the folder; of best-of-N results that of one model. trained: the folder of the run that made it.

    Raises ValueError when the file of the single items is not there or damaged.
    """
    match results:
        case StepResults():
            held_out = trained / "validation_predictions.jsonl"
            of_steps = step_measures(
                read_predictions(folder / "predictions.jsonl"),
                read_predictions(held_out) if held_out.exists() else None,
                results.error_rate,
            )
            found: dict[str, Resampled | Estimate] = dict(of_steps)
            majority, by_position = (results.baselines[name] for name in ("majority", "position_only"))
            f1 = {
                "majority class": majority.overall_step_weighted_macro_f1.value,
                "position only": by_position.overall_step_weighted_macro_f1.value,
            }
            references = {"f1": f1} | ({"auc": {"position only": by_position.auc.value}} if by_position.auc else {})
            if "fitted" not in results.thresholds:  # the baselines, too, have seen nothing but the benchmark itself
                references = {"f1_optimistic": f1}
            return Measured(
                content={"benchmark": results.benchmark_hash or "unknown"},
                numbers=found | ({} if results.ece is None else {"ece": Estimate(results.ece)}),
                references=references,
            )
        case JudgeResults():
            by_stage = {stage: _verdicts(folder / f"judged_{stage}.jsonl") for stage in results.judges}
            found = {stage: by_measure[""] for stage, by_measure in by_stage.items()}
            for last in [*by_stage.values()][-1:]:
                found |= {f"last{name}": one for name, one in last.items()}
            if {"sft", "rl"} <= by_stage.keys():
                sft = by_stage["sft"]
                found |= {f"rl_minus_sft{name}": rl.minus(sft[name]) for name, rl in by_stage["rl"].items()}
            if wrong := results.curation and results.curation.flipped:
                found |= {"wrong_kept": Estimate(wrong.kept), "wrong_random": Estimate(wrong.random)}
            for judge in [*results.judges.values()][-1:]:
                found |= {f"source/{name}": part.accuracy for name, part in judge.sources.items()}
            return Measured(content={"benchmark": results.reward_benchmark_hash}, numbers=found)
        case BestOfNResults():
            of_all, policy = results.benchmarks["all"].models[model], results.benchmarks["all"].policy
            choices = [one for one in _lines(folder / "choices.jsonl") if one["model"] == model]
            accuracies = {f"{place} {one['id']}": one["accuracy"] for place, one in enumerate(choices)}
            found = {"best_of_n": resampled_mean(accuracies)}
            found["weighted_majority"] = of_all["weighted_majority"].accuracy[-1]
            for name, part in results.benchmarks.items():
                if name != "all":
                    found[f"source/{name}"] = part.models[model][results.aggregate].accuracy[-1]
            return Measured(
                content={"candidates": results.candidates_hash, "aggregate": results.aggregate},
                numbers=found,
                references={"best_of_n": {POLICY[name]: way.accuracy[-1].value for name, way in policy.items()}},
            )

        case SearchResults():
            return _searched(folder, results)


def _searched(folder: Path, results: SearchResults) -> Measured:
    lines = {f"{place} {one['id']}": one["accuracy"] for place, one in enumerate(_lines(folder / "search.jsonl"))}

    def reached(way: str) -> Resampled:
        return resampled_mean({name: float(accuracy[way]) for name, accuracy in lines.items()})

    search = reached("search")
    minus: dict[str, Resampled | Estimate] = {
        f"minus_{way}": search.minus(reached(way)) for way in ("best_of_n", "majority")
    }
    sources = {f"source/{name}": accuracy for name, accuracy in results.sources.items()}
    return Measured(
        content={"questions": results.content, "search": results.label, "aggregate": results.aggregate},
        numbers={"search": search, **minus, **sources},
        references={"search": {"one candidate": results.ways["pass@1"].accuracy.value}},
    )


def _verdicts(path: Path) -> dict[str, Resampled]:
    """Is the judge right? By measure, of every pair the mean of both orders."""
    lines = _lines(path)
    ids = [*dict.fromkeys(one["id"] for one in lines)]
    judged = judgements(lines, dict.fromkeys(ids, ""))
    right, votes_PK = {"": judged.right_P2.mean(axis=1)}, vote_accuracies(judged)
    if votes_PK.size:
        right |= {"_sampled": votes_PK[:, 0], "_vote": votes_PK[:, -1]}
    return {name: resampled_mean(dict(zip(ids, right_P.tolist(), strict=True))) for name, right_P in right.items()}


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = read_json_lines(path)
    if lines is None:
        raise ValueError(f"{path} is not there; run the command that wrote its folder again, with overwrite=true")
    return lines
