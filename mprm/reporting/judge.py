"""The report of a judge: how often it is right, whether its entropy tells, what the kept pairs are worth, the costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mprm.metrics.results import Estimate, JudgeAccuracy, JudgeResults, read_results
from mprm.reporting.judge_accuracy import (
    STAGES,
    WHEN,
    accuracy_sentences,
    judges_table,
    measured,
    source_tables,
)
from mprm.reporting.plots import percents, speed_table, training_curves
from mprm.reporting.report import (
    Figure,
    Report,
    Table,
    Text,
    code,
    counts_table,
    print_report,
    write_figures,
    write_page,
)
from mprm.reporting.run_record import read_json_lines
from mprm.reporting.style import CARD, INK, legend_below, looks, name_axes, panels

TRAININGS = {
    "rl": (
        "Reinforcement learning",
        {
            ("Reward", "mean reward of a response"): {"train/reward": "reward"},
            ("Entropy", "mean entropy (nats)"): {"train/entropy": "entropy"},
            ("Held-out pairs", "share"): {"val/accuracy": "right verdicts", "val/first": "verdicts for the first"},
        },
    ),
    "sft": ("Supervised fine-tuning", {("Loss", "loss per token (nats)"): {"train/loss": "loss"}}),
    "reward_model": (
        "Bradley-Terry",
        {
            ("Loss", "loss per pair (nats)"): {"train/loss": "loss"},
            ("Accuracy", "right pairs (share)"): {"train/accuracy": "accuracy"},
        },
    ),
}


def write_judge(folder: Path) -> Path:
    """Write report.html of folder/results.json, and its figures as .svg and .png beside it; return the page's path.

    The curves of the two trainings come from folder/sft/metrics.jsonl and folder/rl/metrics.jsonl; what was not run or
    not measured is not on the page.
    Raises ValueError when there is no results.json of a judge in the folder, or a file cannot be read.
    """
    report = judge_report(folder, read_results(folder / "results.json", JudgeResults))
    write_figures(report, folder)
    return write_page(report, folder / "report.html")


def print_judge(results: JudgeResults, console: Console) -> None:
    """Print the judge by stage, what was kept where none was measured, and what can be said of both."""
    first = judges_table(results) if results.judges else curation_table(results)
    said = Text("", sentences(results) or [headline(results)], "list")
    print_report(Report("", "", [first, *source_tables(results)[1:], said]), console)


def judge_report(folder: Path, results: JudgeResults) -> Report:
    """The page of a judge whose run lies in the folder."""
    metrics = {stage: read_json_lines(folder / stage / "metrics.jsonl") for stage in TRAININGS}
    curves = [
        training_curves(f"{stage}_curves", title, panels, metrics[stage])
        for stage, (title, panels) in TRAININGS.items()
    ]
    sections = [
        Text("Verdicts", sentences(results), "list"),
        entropy_figure(results),
        *curves,
        speed_table({TRAININGS[stage][0]: lines for stage, lines in metrics.items()}),
        judges_table(results),
        *source_tables(results),
        curation_table(results),
        training_table(results),
        left_out_table(results),
        code("Pairs", {"preferences": results.preferences, "reward_benchmark": results.reward_benchmark}),
    ]
    return Report(f"mprm judge {folder.resolve().name}", headline(results), sections, wide=True)


# ---- in words


def headline(results: JudgeResults) -> str:
    """How many pairs were kept, and how well the judge of the last stage does."""
    said = []
    if results.curation:
        said.append(f"{results.curation.kept:,} of {results.curation.eligible:,} labelled pairs were kept.")
    for stage, last in [*measured(results).items()][-1:]:
        said.append(
            f"On {last.pairs:,} pairs of the benchmark, each judged in both orders, the judge is right in "
            f"{last.accuracy.points()} % {WHEN[stage][0].lower()}{WHEN[stage][1:]}."
        )
    return " ".join(said) or "No judge has been measured and no pair has been chosen yet."


def sentences(results: JudgeResults) -> list[str]:
    """What can be said of the judge, of its entropy, and of the pairs that were kept."""
    judges, said = measured(results), accuracy_sentences(results)
    if judges:
        stage = "sft" if "sft" in judges else next(iter(judges))  # pairs are kept by the entropy after SFT
        said += _trend(f"{WHEN[stage]} accuracy", [one.accuracy for one in judges[stage].bins])
    if curation := results.curation:
        said += _trend("On the training pairs agreement with the labels", [one.accuracy for one in curation.bins])
        said += _trend("The share of wrong labels among them", [one.flipped for one in curation.bins if one.flipped])
        if flipped := curation.flipped:
            said.append(
                f"The kept pairs hold {100 * flipped.kept:.1f} % wrong labels, "
                f"{flipped.difference.relation('more than', 'fewer than')} random subsets of that size, "
                f"{100 * flipped.random:.1f} %: {flipped.difference.signed_points()} points."
            )
    return said + [words for stage, judge in [*judges.items()][-1:] for words in _last_words(WHEN[stage], judge)]


def _trend(what: str, bins: Sequence[Estimate]) -> list[str]:
    """Does it fall or rise with entropy? Only where the intervals of the two outer bins do not overlap."""
    if len(bins) < 2:
        return []
    lowest, highest, goes = bins[0], bins[-1], "is not distinguishable between low and high entropy"
    if lowest.above(highest) or lowest.below(highest):
        goes = "falls with entropy" if lowest.above(highest) else "rises with entropy"
    ends = f"{lowest.points()} % in the lowest of {len(bins)} bins, {highest.points()} % in the highest"
    return [f"{what} {goes}: {ends}."]


def _last_words(begin: str, judge: JudgeAccuracy) -> list[str]:
    """Has it a position bias, how many verdicts are there, and how many in the strict format?"""
    said = []
    if first := judge.first:
        bias = "no position bias is distinguishable"
        if first.above(0.5) or first.below(0.5):
            bias = f"it prefers the answer that is shown {'first' if first.above(0.5) else 'second'}"
        said.append(f"{begin} {bias}: {first.points()} % of its verdicts are for the first.")
    if judge.tokens == 0:  # a reward model
        return said
    with_verdict = f"{begin} {100 * (1 - judge.without_verdict):.1f} % of its responses have a verdict"
    return [*said, f"{with_verdict}, {100 * judge.in_format:.1f} % in the words of judge.verdict."]


# ---- in tables


def curation_table(results: JudgeResults) -> Table | None:
    """What was kept; None where nothing has been chosen."""
    if not (curation := results.curation):
        return None
    share = 100 * curation.kept / max(curation.eligible, 1)
    rows = [("eligible pairs", f"{curation.eligible:,}"), ("kept pairs", f"{curation.kept:,} ({share:.1f} %)")]
    rows.append(("selector", curation.selector))
    for key, words in (("kept", "the kept pairs"), ("left_out", "pairs left out")):
        if (entropy := curation.entropy.get(key)) is not None:
            rows.append((f"mean entropy of {words} (nats)", f"{entropy:.3f}"))
    if flipped := curation.flipped:
        rows.append(("wrong labels among the kept (%)", f"{100 * flipped.kept:.1f}"))
        rows.append(("wrong labels in random subsets (%)", f"{100 * flipped.random:.1f}"))
        rows.append(("kept minus random (points)", flipped.difference.signed_points()))
    for name, auc in curation.told.items():
        rows.append((f"wrong labels told by {name} (AUC)", "-" if auc is None else f"{auc:.3f}"))
    note = "Random subsets: as many pairs of every source as are kept. Brackets: 95 % of these subsets."
    return Table("Curation", ("", "value"), tuple(rows), note if flipped else "")


def training_table(results: JudgeResults) -> Table:
    """What the trainings cost."""
    rows = []
    names = {"sft": ("SFT", "traces"), "rl": ("RL", "pairs"), "reward_model": ("Bradley-Terry", "pairs")}
    for stage, (name, examples) in names.items():
        if done := results.training.get(stage):
            numbers = (f"{done.examples:,} {examples}", f"{done.optimizer_steps:,}", f"{done.seconds:,.1f}")
            rows.append((name, *numbers, done.order or "-"))
    columns = ("stage", "trained on", "optimizer steps", "seconds", "order")
    return Table("Training", columns, tuple(rows))


def left_out_table(results: JudgeResults) -> Table:
    """What could not be used, by reason."""
    counts = {"records": results.unusable}
    for stage, words in (("sft", "traces for SFT"), ("rl", "pairs for RL"), ("reward_model", "pairs to train on")):
        if training := results.training.get(stage):
            counts[words] = training.left_out
    if results.curation:
        counts["pairs to be kept"] = results.curation.dropped
    return counts_table("Left out", counts)


# ---- in a figure


def entropy_figure(results: JudgeResults) -> Figure | None:
    """Accuracy against the entropy of the responses, on the benchmark a line per judge that gives verdicts, and on the
    training pairs; None where nothing was measured."""
    judges = {STAGES[stage]: judge.bins for stage, judge in measured(results).items() if judge.without_verdict < 1}
    pairs = results.curation.bins if results.curation else ()
    wrong = [(one.entropy, one.flipped) for one in pairs if one.flipped]
    shown = {
        "Benchmark": {name: [(one.entropy, one.accuracy) for one in bins] for name, bins in judges.items()},
        "Training pairs, after SFT": {"verdict agrees with the label": [(one.entropy, one.accuracy) for one in pairs]}
        | ({"label is wrong": wrong} if wrong else {}),
    }
    shown = {title: {name: line for name, line in lines.items() if line} for title, lines in shown.items()}
    shown = {title: lines for title, lines in shown.items() if lines}
    if not shown:
        return None
    told = []
    with panels(max(8.4, 5.4 * len(shown)), 4.6, len(shown)) as (figure, grid):
        for axes, (title, lines) in zip(grid, shown.items(), strict=True):
            name_axes(axes, title, "entropy of the responses (nats)", "share (%)")
            if title == "Benchmark":
                axes.axhline(50, color=INK, lw=1.2, ls=":", label="chance")
            names = [*STAGES.values(), *lines]  # a stage looks the same whichever others were measured
            look = looks({name: name for name in names}, [STAGES["untrained"]])
            for name, line in lines.items():
                x, (low, y, high) = [entropy for entropy, _ in line], percents([number for _, number in line])
                axes.vlines(x, low, high, color=look[name]["color"], lw=2.2, alpha=0.8)
                axes.plot(x, y, label=name, ms=6.5, mec=CARD, lw=1.7, zorder=3, **look[name])
                told.append(f"{name} {y[0]:.1f} % at {x[0]:.3f} nats, {y[-1]:.1f} % at {x[-1]:.3f}")
        legend_below(figure)
    return Figure(
        "accuracy_by_entropy",
        "Is the judge right where it is sure?",
        figure,
        "Pairs in the order of the mean entropy of their two responses, cut into bins of as many each. Marker: mean of "
        "the bin; bar: 95 % bootstrap over its pairs. Training pairs: those that could be kept, with their labels as "
        "given, right or wrong; which ones are wrong is known of simulated worlds only.",
        f"Lowest and highest bin of entropy: {'; '.join(told)}.",
    )
