"""A small dataset of invented rollouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.signals import build_signals

Score = float | tuple[int, int] | None  # K of N
Sources = dict[str, list[list[Score]]]


def measured(score: Score) -> dict[str, Any]:
    if not isinstance(score, tuple):
        return {"score": score}
    k, n = score
    return {"score": k / n if n else 0.0, "num_mc_correct": k, "num_mc_total": n}


def record(scores: list[Score], name: str = "0", **changes: Any) -> dict[str, Any]:
    steps = [{"step": f"Step {i}.", **measured(score)} for i, score in enumerate(scores)]
    return {"image": f"{name}.png", "question_orig": f"Question {name}?", "steps_with_score": steps} | changes


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., VisualPRM400K]:
    """dataset({"source": [[score of a step, ...], ...]}, **settings): the annotations written, and their reader."""

    def write(sources: Sources, **settings: Any) -> VisualPRM400K:
        folder = tmp_path / "annotations"
        folder.mkdir(exist_ok=True)
        for source, rollouts in sources.items():
            records = [record(scores, str(i)) for i, scores in enumerate(rollouts)]
            (folder / f"{source}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return VisualPRM400K(annotations=str(folder), **settings)

    return write


@pytest.fixture
def signals_of(dataset: Callable[..., VisualPRM400K], tmp_path: Path) -> Callable[..., pa.Table]:
    """The signals table of such sources."""
    return lambda sources, **settings: build_signals(dataset(sources, **settings), tmp_path / "cache")
