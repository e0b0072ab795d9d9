"""How far a multirun is, in words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mprm.runs.artifacts import read_json
from mprm.runs.sweep_folder import STATES, Point


def counts(points: Sequence[Point]) -> str:
    """'17 points: 3 done, 1 running, 13 waiting'."""
    found = Counter(point.state for point in points)
    words = [f"{found[state]} {state}" for state in ("done", "running", "failed", "waiting", "interrupted")]
    return f"{len(points)} points: {', '.join(text for text in words if not text.startswith('0 '))}"


def time_left(points: Sequence[Point]) -> str:
    """'about 9 min left', from the seconds of the points done in this multirun; '' as long as there are none.

    Seconds are a line over the points' work; half of a running point is taken as done.
    """
    assert all(point.state in STATES for point in points)
    measured = [(point.work, point.seconds) for point in points if point.state == "done" and point.seconds is not None]
    running = sum(point.state == "running" for point in points)
    left = [(point.work, 1.0) for point in points if point.state == "waiting"]
    left += [(point.work, 0.5) for point in points if point.state == "running"]
    if not measured or not left:
        return ""
    work, seconds = np.array(measured).T
    if len(set(work)) > 1:
        slope, base = np.polyfit(work, seconds, deg=1)
    else:
        slope, base = 0.0, seconds.mean()
    expected = sum(share * max(seconds.min() / 2, base + slope * amount) for amount, share in left)
    minutes = expected / max(1, running) / 60
    return "less than a minute left" if minutes < 1 else f"about {minutes:.0f} min left"


def result(run: Path) -> str:
    """The outcome of a run in a few words: AUC and F1, or what was kept."""
    try:
        stages = read_json(run / "stages.json")["stages"]
    except (ValueError, KeyError, TypeError):  # damaged: the run itself will say so
        return "done"
    if "evaluate" in stages and stages["evaluate"]["auc"] is not None:
        return f"AUC {stages['evaluate']['auc']:.3f}, macro-F1 at 0.5 {100 * stages['evaluate']['overall_at_0.5']:.1f}"
    if "train" in stages:
        return f"trained in {stages['train']['optimizer_steps']:,} steps"
    if "judge" in stages:
        return ", ".join(f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in stages["judge"].items())
    return f"{stages['select']['kept']:,} rollouts kept" if "select" in stages else "done"
