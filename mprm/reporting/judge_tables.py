"""A judge in tables: how often it is right, by source and by entropy, what was kept, and what the trainings cost.

All take the content of results.json as the tasks of judges write it; accuracies are shares there, percent here.
"""

from __future__ import annotations

from mprm.reporting.choice_tables import points
from mprm.reporting.judge_words import STAGES, Results, difference_of, judges, percent, span
from mprm.reporting.tables import Table


def judges_table(results: Results) -> Table | None:
    """Every stage that was measured; None without any."""
    rows = tuple(
        (
            STAGES[stage],
            percent(judge["accuracy"]),
            points(difference_of(results, stage)),
            f"{100 * judge['macro_accuracy']:.1f}",
            percent(judge["consistent"]),
            percent(judge["first"]),
        )
        for stage, judge in judges(results).items()
    )
    columns = ("judge", "accuracy (%)", "minus before", "macro (%)", "consistent (%)", "first (%)")
    return Table("The judge by stage", columns, rows, JUDGES_NOTE, rows[-1][0]) if rows else None


JUDGES_NOTE = (
    "Accuracy: right verdicts, every pair judged in both orders; no verdict counts as wrong. Minus before: paired "
    "difference in points. Macro: mean over sources. Consistent: the same answer wins in both orders. First: verdicts "
    "for the answer that is shown first, 50 without a position bias. Brackets: 95 % bootstrap over the benchmark's "
    "pairs, for this training."
)


def responses_table(results: Results) -> Table | None:
    """What the responses of every stage are like; None without any."""
    rows = tuple(
        (
            STAGES[stage],
            f"{100 * judge['without_verdict']:.1f}",
            share(judge.get("in_format")),
            share(judge.get("accuracy_in_format")),
            f"{judge['tokens']:.1f}",
            f"{judge['entropy']:.3f}",
            "-" if judge["tells"] is None else f"{judge['tells']:.3f}",
        )
        for stage, judge in judges(results).items()
    )
    note = (
        "A verdict is read as it is meant, in bold, lower case or other words. In format: in the words of "
        "judge.verdict, which alone are rewarded. Entropy: mean over the tokens of a response of the entropy of the "
        "next token. Tells: how likely a wrong response has a higher entropy than a right one, 0.5 by chance."
    )
    columns = (
        "judge",
        "without verdict (%)",
        "in format (%)",
        "right in format (%)",
        "tokens",
        "entropy (nats)",
        "entropy tells",
    )
    return Table("Its responses on the benchmark", columns, rows, note) if rows else None


def share(number: float | None) -> str:
    """In percent; "-" where an older run has not measured it."""
    return "-" if number is None else f"{100 * number:.1f}"


def sources_table(results: Results) -> Table | None:
    """Accuracy by source of the pair, a column per judge; None where there is one source only."""
    measured = judges(results)
    names = list(next(iter(measured.values()))["sources"]) if measured else []
    if len(names) < 2:
        return None
    rows = []
    for name in names:
        of_source = [judge["sources"][name] for judge in measured.values()]
        rows.append((name, f"{of_source[0]['pairs']:,}", *(percent(one["accuracy"]) for one in of_source)))
    columns = ("source", "pairs", *(f"{STAGES[stage]} (%)" for stage in measured))
    return Table("Accuracy by source", columns, tuple(rows), "Brackets: 95 % bootstrap over the pairs of the source.")


def acc_plus_table(results: Results) -> Table | None:
    """ACC+ by source and over all items, a column per judge; None where no pairs belong together."""
    measured = {stage: judge for stage, judge in judges(results).items() if judge.get("acc_plus")}
    if not measured:
        return None
    rows = []
    for name in (*next(iter(measured.values()))["sources"], "all"):
        found = [
            judge["acc_plus"] if name == "all" else judge["sources"][name]["acc_plus"] for judge in measured.values()
        ]
        values = [percent({key: one[key] for key in ("value", "low", "high")}) for one in found]
        rows.append((name, f"{found[0]['items']:,}", *values))
    note = (
        "Items of which all pairs are judged right, the mean over both orders of the answers. Brackets: 95 % bootstrap."
    )
    return Table("ACC+", ("source", "items", *(f"{STAGES[stage]} (%)" for stage in measured)), tuple(rows), note)


def bins_table(results: Results) -> Table | None:
    """Accuracy by entropy on the benchmark, for every judge."""
    rows = tuple(
        (f"{STAGES[stage]}: {place}", span(one), f"{one['pairs']:,}", percent(one["accuracy"]))
        for stage, judge in judges(results).items()
        for place, one in enumerate(judge["bins"], start=1)
    )
    columns = ("judge and bin", "entropy (nats)", "pairs", "accuracy (%)")
    return Table("Accuracy by entropy: benchmark", columns, rows, BINS_NOTE) if rows else None


def training_bins_table(results: Results) -> Table | None:
    """Agreement and wrong labels by entropy, of the pairs that could be kept."""
    bins = (results.get("curation") or {}).get("bins") or []
    rows = tuple(
        (str(place), span(one), f"{one['pairs']:,}", percent(one["accuracy"]), percent(one["flipped"]))
        for place, one in enumerate(bins, start=1)
    )
    columns = ("bin", "entropy (nats)", "pairs", "agrees with label (%)", "wrong labels (%)")
    note = f"{BINS_NOTE} Whether a label is wrong is known of simulated worlds only."
    return Table("Agreement by entropy: training pairs", columns, rows, note) if rows else None


BINS_NOTE = (
    "Pairs in the order of their entropy, as many in each bin. Brackets: 95 % bootstrap over the pairs of the bin."
)


def curation_table(results: Results) -> Table | None:
    """What was kept; None where nothing has been chosen."""
    curation = results.get("curation")
    if not curation:
        return None
    share = 100 * curation["kept"] / max(curation["eligible"], 1)
    rows = [("eligible pairs", f"{curation['eligible']:,}"), ("kept pairs", f"{curation['kept']:,} ({share:.1f} %)")]
    rows.append(("selector", curation["selector"]))
    entropy = curation.get("entropy") or {}
    for key, words in (("kept", "kept pairs"), ("left_out", "pairs left out")):
        if entropy.get(key) is not None:
            rows.append((f"mean entropy of {words} (nats)", f"{entropy[key]:.3f}"))
    if flipped := curation.get("flipped"):
        rows.append(("wrong labels among the kept (%)", f"{100 * flipped['kept']:.1f}"))
        rows.append(("wrong labels in random subsets (%)", f"{100 * flipped['random']:.1f}"))
        rows.append(("kept minus random (points)", points(flipped["difference"])))
    note = "Random subsets: as many pairs of every source as are kept. Brackets: 95 % of these subsets."
    return Table("Curation", ("", "value"), tuple(rows), note if flipped else "")


def training_table(results: Results) -> Table | None:
    """What the two trainings cost."""
    rows = []
    if sft := results.get("sft"):
        rows.append(("SFT", f"{sft['traces']:,} traces", f"{sft['optimizer_steps']:,}", f"{sft['seconds']:,.1f}", "-"))
    if rl := results.get("rl"):
        numbers = (f"{rl['pairs']:,} pairs", f"{rl['optimizer_steps']:,}", f"{rl['seconds']:,.1f}")
        rows.append(("RL", *numbers, str(rl["order"])))
    return (
        Table("Training", ("stage", "trained on", "optimizer steps", "seconds", "order"), tuple(rows)) if rows else None
    )


def left_out_table(results: Results) -> Table | None:
    """What could not be used, by reason; None where nothing was left out."""
    sft, curation, rl = (results.get(stage) or {} for stage in ("sft", "curation", "rl"))
    reasons = {
        "records": results.get("unusable", {}),
        "traces for SFT": sft.get("left_out", {}),
        "pairs to be kept": curation.get("dropped", {}),
        "pairs for RL": {"too_long": rl.get("too_long", 0)},
    }
    rows = [
        (what, reason, f"{count:,}") for what, counts in reasons.items() for reason, count in counts.items() if count
    ]
    return Table("Left out", ("what", "reason", "number"), tuple(rows)) if rows else None
