"""Best-of-N in tables and sentences: what reward models choose, beside the policy alone and its votes.

All take the content of results.json as task=rerank writes it; accuracies are shares there, percent here.
"""

from __future__ import annotations

from typing import Any

from mprm.reporting.tables import Estimate, Table
from mprm.reporting.verdicts import BETTER, EVEN, RELATIONS, WORSE

Results = dict[str, Any]
ALL = "all"
POLICY = {"pass@1": "pass@1: one candidate", "majority": "majority vote", "pass@N": "pass@N: the ceiling"}
WEIGHTED = "weighted_majority"
METHODS = {
    "mean": "mean",
    "min": "min",
    "product": "product",
    "last": "last",
    "sum_logits": "sum of log odds",
    WEIGHTED: "weighted majority",
}


def sources(results: Results) -> list[str]:
    """The benchmarks beside "all"; none where there is one only, which is the same."""
    found = [name for name in results["benchmarks"] if name != ALL]
    return found if len(found) > 1 else []


def at_n_max(method: dict[str, Any]) -> Estimate:
    """Accuracy with all candidates."""
    return Estimate(method["accuracy"][-1], *method["interval"][-1])


def ranked(results: Results, benchmark: str = ALL) -> list[str]:
    """The models, the highest accuracy by the chosen aggregate first."""
    models, aggregate = results["benchmarks"][benchmark]["models"], results["aggregate"]
    return sorted(models, key=lambda model: -at_n_max(models[model][aggregate]).value)


def best_rule(results: Results) -> tuple[str, dict[str, Any]]:
    """The rule of highest accuracy over all questions, of all that were measured; of equal ones the chosen one."""
    report, names = results["benchmarks"][ALL], dict.fromkeys((results["aggregate"], *METHODS))
    rules = {_named(model, name): report["models"][model][name] for name in names for model in ranked(results)}
    rules[POLICY["majority"]] = report["policy"]["majority"]
    return max(rules.items(), key=lambda rule: at_n_max(rule[1]).value)


def relation(difference: dict[str, float]) -> str:
    """'better than', 'worse than', or 'not distinguishable from' where the interval holds 0."""
    outcome = BETTER if difference["low"] > 0 else WORSE if difference["high"] < 0 else EVEN
    return RELATIONS[outcome]


def points(difference: dict[str, Any] | None) -> str:
    """'+3.1 [1.2, 5.0]' in points of accuracy, of two seeds '+3.1 (2.0, 4.2)'; '-' for none."""
    if difference is None:
        return "-"
    number = Estimate(difference["value"], difference.get("low"), difference.get("high"), difference.get("each", ()))
    return ("" if number.points().startswith("-") else "+") + number.points()


def headline(results: Results) -> str:
    """How many questions there were, and how well the policy does, the best model, and the best rule measured."""
    policy = results["benchmarks"][ALL]["policy"]
    n = results["n_max"]
    text = (
        f"{results['questions']:,} questions with {n} candidates. One candidate at random is right for "
        f"{at_n_max(policy['pass@1']).points()} % of them, the majority vote for "
        f"{at_n_max(policy['majority']).points()}, at least one candidate for {at_n_max(policy['pass@N']).points()}."
    )
    models = ranked(results)
    if models:
        model, aggregate = models[0], results["aggregate"]
        chosen = at_n_max(results["benchmarks"][ALL]["models"][model][aggregate]).points()
        text += f" Best-of-{n} by the chosen rule, {METHODS.get(aggregate, aggregate)}, reaches {chosen} with {model}; "
        rule, best = best_rule(results)
        same = rule == _named(model, aggregate)
        text += (
            "no rule measured is better." if same else f"the best rule measured is {rule}, {at_n_max(best).points()}."
        )
    return text


def sentences(results: Results) -> list[str]:
    """What can be said of every model, the best one first, and of adaptive sampling."""
    report, aggregate, models = results["benchmarks"][ALL], results["aggregate"], ranked(results)
    said = [_against_policy(_named(model, aggregate), report["models"][model][aggregate]) for model in models]
    if len(models) > 1:
        said[0] += f" Chosen as the best of {len(models)} models on these very questions, so they flatter it."
        first_two = {*models[:2]}
        said += [_between_words(pair, models[0]) for pair in report["between"] if {pair["a"], pair["b"]} == first_two]
    rule, best = best_rule(results)
    if models and rule != _named(models[0], aggregate):
        n_rules = len(models) * len(METHODS) + 1
        said.append(
            f"The best of {n_rules} rules measured, on these very questions, which flatter it: "
            f"{_against_policy(rule, best) if 'minus_majority' in best else f'{rule}, {at_n_max(best).points()} %.'}"
        )
    return said + [_adaptive_words(model, found) for model, found in adaptive(results).items()]


def _against_policy(name: str, method: dict[str, Any]) -> str:
    parts = [
        f"{relation(method[key])} {words}: {points(method[key])} points"
        for key, words in (("minus_majority", "majority vote"), ("minus_pass@1", "one candidate at random"))
    ]
    return f"{name}, {at_n_max(method).points()} %, is {'; '.join(parts)}."


def adaptive(results: Results) -> dict[str, dict[str, Any]]:
    """Adaptive best-of-N by model; {} where no model can say how sure it is."""
    found: dict[str, dict[str, Any]] = results.get("adaptive") or {}
    return found


def unit(found: dict[str, Any]) -> str:
    """What the cost of adaptive sampling is counted in: tokens where every candidate says how many it has."""
    return "tokens" if found["all"]["tokens"] else "candidates"


def methods_table(results: Results, benchmark: str = ALL, short: bool = False) -> Table:
    """Every method with all candidates; `short`: of a model the chosen aggregate, the weighted vote, the best rule."""
    report, aggregate = results["benchmarks"][benchmark], results["aggregate"]
    rows = [_row(words, report["policy"][name], None) for name, words in POLICY.items()]
    best = best_rule(results)[0]
    models = ranked(results, benchmark)
    for model in models:
        of_model = report["models"][model]
        rows += [
            _row(_named(model, name), of_model[name], of_model["ties"] if name == aggregate else None)
            for name in METHODS
            if not short or name in (aggregate, WEIGHTED) or _named(model, name) == best
        ]
    where = "all questions" if benchmark == ALL else benchmark
    title = f"Best of {results['n_max']}: {where} ({report['questions']:,} questions)"
    columns = ("method", "accuracy (%)", "minus pass@1", "minus majority", "ties")
    return Table(title, columns, tuple(rows), METHODS_NOTE, _named(models[0], aggregate) if models else "")


METHODS_NOTE = (
    "Right choices among all candidates of a question, in percent, and differences in points. Brackets: 95 % bootstrap "
    "over questions, the same ones for both sides of a difference. pass@1: the mean over the candidates. pass@N: at "
    "least one is right, which nobody can choose by. A model chooses the candidate with the highest aggregate of its "
    "step scores; weighted majority: every candidate votes with its mean score. Ties: questions whose best score "
    "several candidates share; each is then as likely chosen. Bold: the chosen rule of the best model."
)


def _row(name: str, method: dict[str, Any], ties: int | None) -> tuple[str, ...]:
    differences = (points(method.get(f"minus_{other}")) for other in ("pass@1", "majority"))
    return (name, at_n_max(method).points(), *differences, "-" if ties is None else f"{ties:,}")


def _named(model: str, method: str) -> str:
    return f"{model}, {METHODS.get(method, method)}"


def between_table(results: Results) -> Table | None:
    """Paired differences of the models; None for one alone."""
    pairs = results["benchmarks"][ALL]["between"]
    rows = tuple((pair["a"], pair["b"], f"{relation(pair).removesuffix(' than')}", points(pair)) for pair in pairs)
    note = (
        "First minus second in points of accuracy, paired by question. Each pair is asked by itself: of twenty without "
        "a difference, one will seem to have one."
    )
    columns = ("model", "compared with", "is", "difference (points)")
    return Table("Models against each other", columns, rows, note) if rows else None


def _between_words(pair: dict[str, Any], best: str) -> str:
    other = pair["b"] if pair["a"] == best else pair["a"]
    sign = 1 if pair["a"] == best else -1
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    difference = {"value": sign * pair["value"], "low": low, "high": high}
    return f"{best} is {relation(difference)} the second, {other}: {points(difference)} points."


def _adaptive_words(model: str, found: dict[str, Any]) -> str:
    kind = unit(found)
    saved = found["saved"][kind]
    share = f"{Estimate(saved['value'], saved['low'], saved['high']).points()} % of the {kind}" if saved else "nothing"
    return (
        f"Adaptive best-of-{found['limit']} with {model} saves {share}; its accuracy is "
        f"{relation(found['minus_all'])} that of drawing all: {points(found['minus_all'])} points."
    )


def adaptive_table(results: Results) -> Table | None:
    """Adaptive and fixed numbers of candidates; None where no model can say how sure it is."""
    rows = []
    for model, found in adaptive(results).items():
        ways = [("adaptive", found["adaptive"])]
        ways += [(f"always {way['n']}", way) for way in found["fixed"]]
        ways += [("all", found["all"]), ("all, by mean P(yes)", found["all_mean"])]
        for name, way in ways:
            costs = [_mean(way[kind], found["all"][kind]) for kind in ("candidates", "tokens")]
            other = found["minus_all"] if name == "adaptive" else None
            rows.append((f"{model}: {name}", _estimate(way["accuracy"]).points(), *costs, points(other)))
    note = (
        "Candidates are drawn four at a time until the best one's lower bound is above the upper bound of every other "
        "(arXiv 2605.15529), in random orders. Always n: the best of n by the same score, the mean over steps of "
        "P(yes) less half its standard deviation. Costs: mean of a question, and share of what drawing all costs."
    )
    columns = ("way", "accuracy (%)", "candidates", "tokens", "minus all (points)")
    return Table("Adaptive best-of-N", columns, tuple(rows), note) if rows else None


def _estimate(number: dict[str, float]) -> Estimate:
    return Estimate(number["value"], number["low"], number["high"])


def _mean(used: dict[str, float] | None, everything: dict[str, float] | None) -> str:
    if not used or not everything or not everything["value"]:
        return "-"
    return f"{used['value']:,.1f} ({100 * used['value'] / everything['value']:.0f} %)"


def left_out_table(results: Results) -> Table | None:
    """Questions that could not be used and candidates without scores, by reason; None where there are none."""
    rows = [("questions", reason, f"{count:,}") for reason, count in (results.get("unusable") or {}).items() if count]
    for model, reasons in (results.get("unscored") or {}).items():
        rows += [(f"candidates for {model}", reason, f"{count:,}") for reason, count in reasons.items() if count]
    note = "Questions were left out; candidates without a score stay in: they rank last and do not vote."
    return Table("Not used or not scored", ("what", "reason", "number"), tuple(rows), note) if rows else None
