"""The layout that results had before they were typed, for pages that still read it. It goes when they do not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mprm.metrics.results import (
    AdaptiveResults,
    BestOfNResults,
    EntropyBin,
    Estimate,
    JudgeAccuracy,
    JudgeResults,
    Method,
    PairSource,
    Results,
    StepResults,
    ThresholdResults,
    as_json,
    read_results,
)
from mprm.runs.artifacts import reading


def read_before(path: Path, remedy: str) -> dict[str, Any]:
    """Results in the old layout, whichever the file has."""
    with reading(path, remedy):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("not an object")
    return as_before(read_results(path)) if "version" in content else content


def as_before(results: Results) -> dict[str, Any]:
    if isinstance(results, StepResults):
        return _steps(results)
    if isinstance(results, JudgeResults):
        return _judge(results)
    return _best_of_n(results)


def _number(one: Estimate | None) -> dict[str, Any] | None:
    return None if one is None else {"value": one.value, "low": one.low, "high": one.high}


def _ends(one: Estimate | None) -> list[float] | None:
    return None if one is None or one.low is None or one.high is None else [one.low, one.high]


def _steps(results: StepResults) -> dict[str, Any]:
    flat = asdict(results) | {"auc": results.auc and results.auc.value, "intervals": {"auc": _ends(results.auc)}}
    flat["thresholds"] = {name: _at(part) for name, part in results.thresholds.items()}
    flat["baselines"] = {name: _at(part) for name, part in results.baselines.items()}
    return flat


def _at(part: ThresholdResults) -> dict[str, Any]:
    names = ("overall_step_weighted_macro_f1", "pooled_macro_f1", "first_error_accuracy")
    numbers: dict[str, Estimate] = {name: getattr(part, name) for name in names}
    flat = asdict(part) | {name: one.value for name, one in numbers.items()}
    flat["auc"] = part.auc and part.auc.value
    flat["per_source"] = {name: asdict(one) | {"macro_f1": one.macro_f1.value} for name, one in part.per_source.items()}
    flat["intervals"] = {name: _ends(one) for name, one in numbers.items()} | {"auc": _ends(part.auc)}
    flat["intervals"]["per_source"] = {name: _ends(one.macro_f1) for name, one in part.per_source.items()}
    return flat


def _judge(results: JudgeResults) -> dict[str, Any]:
    flat = as_json(results)
    for stage, judge in results.judges.items():
        old = flat["judges"][stage]
        old["bins"] = [_bin(one) for one in judge.bins]
        old["acc_plus"] = _acc_plus(judge)
        for name, source in judge.sources.items():
            old["sources"][name]["acc_plus"] = _acc_plus(source)
    for stage, training in results.training.items():
        flat[stage] = asdict(training) | {"traces": training.examples, "pairs": training.examples}
        flat[stage]["too_long"] = training.left_out.get("too_long", 0)
    if results.curation:
        flat["curation"]["bins"] = [_bin(one) for one in results.curation.bins]
    else:
        del flat["curation"]
    return flat


def _acc_plus(one: JudgeAccuracy | PairSource) -> dict[str, Any] | None:
    return None if one.acc_plus is None else {"items": one.items, **(_number(one.acc_plus) or {})}


def _bin(one: EntropyBin) -> dict[str, Any]:
    ends = {"from": one.lowest, "to": one.highest, "entropy": one.entropy, "pairs": one.pairs}
    return ends | {"accuracy": _number(one.accuracy), "flipped": _number(one.flipped)}


def _best_of_n(results: BestOfNResults) -> dict[str, Any]:
    flat = as_json(results)
    for name, of in results.benchmarks.items():
        flat["benchmarks"][name] |= {
            "policy": {one: _method(method) for one, method in of.policy.items()},
            "models": {
                model: {one: _method(method) for one, method in methods.items()} | {"ties": of.ties[model]}
                for model, methods in of.models.items()
            },
            "between": [{"a": one.a, "b": one.b, **(_number(one.difference) or {})} for one in of.between],
        }
    flat["adaptive"] = {model: _adaptive(one) for model, one in results.adaptive.items()}
    return flat


def _method(method: Method) -> dict[str, Any]:
    curve = {"accuracy": [one.value for one in method.accuracy], "interval": [_ends(one) for one in method.accuracy]}
    return curve | {f"minus_{other}": _number(one) for other, one in method.minus.items()}


def _adaptive(found: AdaptiveResults) -> dict[str, Any]:
    flat = as_json(found)
    flat["saved"] = {cost: _number(found.saved.get(cost)) for cost in ("candidates", "tokens")}
    flat["fixed"] = [{"n": n, **as_json(draws)} for n, draws in found.fixed.items()]
    return flat
