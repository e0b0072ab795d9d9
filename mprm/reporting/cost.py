"""What the runs cost, and which are not there."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mprm.reporting.collect import read_json_object
from mprm.reporting.compare import Comparison, Row, left_out_lines
from mprm.reporting.tables import Table

STAGES = ("select", "train", "evaluate")


def stages_of(row: Row) -> list[dict[str, Any]]:
    """What the stages of every run of the setting left in stages.json, in the order of its seeds."""
    records = [read_json_object(folder / "stages.json") for folder in row.folders]
    return [record["stages"] if record else {} for record in records]


def cost_table(rows: tuple[Row, ...]) -> Table:
    """Rollouts, optimizer steps and seconds of every run."""
    named = {folder.name: _name(row, seed) for row in rows for seed, folder in zip(row.seeds, row.folders, strict=True)}
    lines, total = [], 0.0
    for row in rows:
        for seed, stages in zip(row.seeds, stages_of(row), strict=True):
            train = stages.get("train", {})
            seconds = [stages.get(stage, {}).get("seconds") for stage in STAGES]
            total += sum(part for part in seconds if part is not None)
            other = train.get("shared_with") or stages.get("evaluate", {}).get("shared_with")
            lines.append(
                (
                    _name(row, seed),
                    _whole(train.get("rollouts")),
                    _whole(train.get("optimizer_steps")),
                    *("-" if part is None else f"{part:,.1f}" for part in seconds),
                    named.get(other, other) if other else "-",
                )
            )
    note = (
        f"Wall-clock seconds of the machine that ran the stage, {total:,.0f} in all. A run whose subset and "
        "settings are the very same as another's takes over its training: its own seconds are those of the copying."
    )
    columns = ("run", "rollouts trained on", "optimizer steps", *(f"{stage} (s)" for stage in STAGES), "shared with")
    return Table("Cost of every run", columns, tuple(lines), note)


def _name(row: Row, seed: int) -> str:
    return f"{row.label}, seed {seed}"


def _whole(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f}"


def unfinished_table(comparison: Comparison) -> Table | None:
    """Points of the multirun that are not done, and folders left out, with reasons; None if there are none."""
    rows: list[tuple[str, str, str]] = [
        (point.label, point.state, point.reason or "-")
        for state in ("failed", "interrupted", "running", "waiting")
        for point in comparison.points
        if point.state == state
    ]
    rows += [(name, "left out", reason) for name, reason in comparison.left_out.items()]
    note = "The same command resumes what is not done." if comparison.points else ""
    return Table("Not in this comparison", ("run", "state", "reason"), tuple(rows), note) if rows else None


def unfinished_lines(comparison: Comparison) -> list[str]:
    """For the terminal: every failure in a line, all that only waits in one, folders left out in one per reason."""
    lines = [f"Failed: {point.label}: {point.reason}" for point in comparison.points if point.state == "failed"]
    lines += [f"Left out: {line}" for line in left_out_lines(comparison)]
    states = Counter(point.state for point in comparison.points if point.state not in ("failed", "done"))
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return [*lines, f"Not finished: {counts}"] if counts else lines
