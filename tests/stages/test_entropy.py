"""Entropies in a selection: computed once for all that ask, by a killed run too, and told where there are none."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from mprm.config import Config
from mprm.inference.scoring import ScoreRequest, Scoring
from mprm.metrics.predictions import NotScored
from mprm.runs.artifacts import read_json
from mprm.runs.run_folder import open_run
from mprm.stages import models as stage
from mprm.stages import step_scorer
from mprm.stages.step_scorer import StepWork

Load = Callable[..., Config]


@pytest.fixture
def selected(load: Load, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """selected("selector=entropy"): manifest, kept rows, and the folder of a selection of 32 rollouts."""

    def selected(*overrides: str) -> dict[str, Any]:
        config = load(
            *("task=select", f"dataset.root={tmp_path / 'world'}", "dataset.rollouts=32", "held_out=4"), *overrides
        )
        step_scorer.select(config)
        folder = tmp_path / "runs" / str(config.name)
        manifest = read_json(folder / "subset" / "manifest.json")
        kept = pq.read_table(folder / "subset" / "kept.parquet")
        return {"manifest": manifest, "kept": kept, "folder": folder, "config": config}

    return selected


Invented = Callable[..., list[str]]


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> Invented:
    """invented(stop_after=20, faults={...}): instead of a model, the entropy of a rollout is its number of characters.

    Returns the ids that were computed.
    """

    def invent(stop_after: int = 1000, faults: dict[str, str] | None = None) -> list[str]:
        computed: list[str] = []

        def entropies(_: Scoring, solutions: Sequence[ScoreRequest], open_images: Any) -> Iterator[Any]:
            for solution in solutions:
                if len(computed) == stop_after:
                    raise KeyboardInterrupt
                computed.append(solution.id)
                reason = (faults or {}).get(solution.id)
                yield solution.id, NotScored(reason, "") if reason else float(len("".join(solution.steps)))

        monkeypatch.setattr(Scoring, "entropies", entropies)
        monkeypatch.setattr(stage, "load_backbone", lambda _: (None, None))
        return computed

    return invent


def test_an_order_needs_the_entropies_of_the_kept_rollouts_alone(selected: Any) -> None:
    """Computed by the model, those of a few are what they are among all."""
    few = selected("selector=random", "selector.ratio=0.25", "order=low_to_high")
    journal = next((few["folder"].parents[1] / "cache" / "entropy").glob("*.journal"))
    assert few["kept"].num_rows == len(journal.read_text().splitlines()) - 1 == 8
    assert few["kept"]["entropy"].null_count == 0
    assert few["kept"]["no_entropy"].null_count == 8
    everything = selected("selector=entropy", "selector.ratio=1.0")
    assert everything["kept"].num_rows == len(journal.read_text().splitlines()) - 1 == 32
    of_all = {(row["source"], row["line"]): row for row in everything["kept"].to_pylist()}
    for row in few["kept"].to_pylist():
        assert 0 < row["entropy"] == -of_all[row["source"], row["line"]]["score"]
    assert few["manifest"].keys() == everything["manifest"].keys() == selected("selector=full")["manifest"].keys()
    with open_run(few["config"].raw) as run:
        examples: Dataset = StepWork(few["config"], run).subset()
    assert examples["entropy"][:] == few["kept"]["entropy"].to_pylist()


def test_a_killed_selection_goes_on_and_a_second_one_computes_nothing(
    selected: Any, invented: Invented, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "AT_ONCE", 8)
    before = invented(stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        selected("selector=entropy")
    after = invented()
    first = selected("selector=entropy", "selector.ratio=0.5")
    assert len(before) == 20
    assert sorted([*before[:16], *after]) == sorted(set(before) | set(after))
    assert len(after) == 16
    none = invented()
    second = selected("selector=entropy", "selector.ratio=0.5", "selector.floor=0.5")
    third = selected("selector=random", "order=low_to_high", "selector.ratio=0.5")
    assert none == []
    assert third["kept"].num_rows == first["kept"].num_rows == 16
    assert first["kept"]["entropy"].to_pylist() == [-score for score in first["kept"]["score"].to_pylist()]
    assert first["kept"]["line"].to_pylist() != second["kept"]["line"].to_pylist()
    held_out = [(one["folder"] / "held_out.parquet").read_bytes() for one in (first, third)]
    assert held_out[0] == held_out[1]
    other = invented()
    selected("selector=entropy", "backbone.max_length=500")
    assert len(other) == 32  # another backbone


def test_what_has_no_entropy_is_counted(selected: Any, invented: Invented) -> None:
    """What is too long stays so; an image may be restored."""
    ids = invented()
    selected("selector=entropy", "backbone.max_length=500")
    faults = {ids[0]: "too_long", ids[1]: "too_long", ids[2]: "unreadable_image"}
    invented(faults=faults)
    kept = selected("selector=full", "order=low_to_high")
    assert kept["manifest"]["no_entropy"] == {"too_long": 2, "unreadable_image": 1}
    told = {f"{row['source']}:{row['line']}": row["no_entropy"] for row in kept["kept"].to_pylist()}
    assert {name: reason for name, reason in told.items() if reason} == faults
    assert [value is None for value in kept["kept"]["entropy"].to_pylist()] == [name in faults for name in told]
    again = invented()
    last = selected("selector=entropy", "selector.ratio=1.0", "selector.scope=global")
    assert again == [ids[2]]
    assert last["manifest"]["no_entropy"] == {"too_long": 2}
    assert sorted(last["kept"]["score"].to_pylist())[:2] == [float("-inf")] * 2


def test_no_entropy_at_all_is_one_line(selected: Any, invented: Invented, load: Load, tmp_path: Path) -> None:
    ids = invented()
    selected("selector=entropy")
    invented(faults=dict.fromkeys(ids, "too_long"))
    with pytest.raises(ValueError, match=r"^none of 32 rollouts has an entropy \(32 too_long\); see dataset.images "):
        selected("selector=entropy", "backbone.max_length=8")
    annotations = f"dataset.annotations={tmp_path / 'world' / 'annotations'}"
    with pytest.raises(ValueError, match=r"^dataset.images is not set, and entropies depend on the images; give "):
        step_scorer.select(load("task=select", "dataset=visualprm400k", annotations, "selector=entropy"))
