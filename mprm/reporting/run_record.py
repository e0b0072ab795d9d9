"""Read one run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from mprm.metrics.predictions import Prediction, read_predictions
from mprm.metrics.results import StepResults, read_results
from mprm.reporting.examples import Example, read_examples
from mprm.runs import manifest as manifests
from mprm.runs.artifacts import STAGES, reading, redo_remedy
from mprm.runs.manifest import Manifest
from mprm.runs.run_folder import read_record

SIGNALS = ["p_pos", "reliability", "ranked"]  # what the map needs of half a million rows


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the run folder of a step scorer holds; a piece that is not there (yet) is None."""

    folder: Path
    config: dict[str, Any] | None
    versions: dict[str, Any] | None
    manifest: Manifest | None
    kept: pa.Table | None
    signals: pa.Table | None  # the rollouts that a selector could choose from
    metrics: list[dict[str, Any]] | None
    results: StepResults | None
    predictions: list[Prediction] | None  # of the benchmark
    examples: list[Example]


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    The signals table lies in a cache outside the folder, at the path that the manifest names, and may be gone.
    Raises ValueError when the folder does not exist or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a run folder; give one that `python run.py` wrote, e.g. runs/NAME")
    manifest, results = read_manifest(folder), folder / "results.json"
    return RunRecord(
        folder=folder,
        config=read_config(folder),
        versions=read_json_object(folder / "versions.json"),
        manifest=manifest,
        kept=read_parquet(folder / "subset" / "kept.parquet"),
        signals=_signals(manifest),
        metrics=read_json_lines(folder / "metrics.jsonl"),
        results=read_results(results, StepResults) if results.exists() else None,
        predictions=_predictions(folder / "predictions.jsonl"),
        examples=read_examples(folder / "examples.json"),
    )


def check_whole(folder: Path) -> None:
    """Raise ValueError for the first file of a run that comparisons read and that is damaged."""
    if (folder / STAGES).exists():
        read_record(folder)
    read_config(folder), read_manifest(folder)
    if (folder / "results.json").exists():
        read_results(folder / "results.json")
    read_parquet(folder / "subset" / "kept.parquet")
    _predictions(folder / "predictions.jsonl")
    for stage in (".", "sft", "rl"):
        read_json_lines(folder / stage / "metrics.jsonl")


def read_config(folder: Path) -> dict[str, Any] | None:
    """The resolved config of a run, or None."""
    return _mapping(folder / "config.yaml", lambda path: OmegaConf.to_container(OmegaConf.load(path), resolve=True))


def read_json_object(path: Path) -> dict[str, Any] | None:
    return _mapping(path, lambda path: json.loads(path.read_text(encoding="utf-8")))


def _mapping(path: Path, parse: Callable[[Path], Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with reading(path, "restore it, or run the run's command again"):
        content = parse(path)
        if not isinstance(content, dict):
            raise TypeError("not a mapping")
        return content


def read_manifest(folder: Path) -> Manifest | None:
    """What the selection kept and dropped, or None."""
    path = folder / "subset" / "manifest.json"
    return manifests.read_manifest(path) if path.exists() else None


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table | None:
    if not path.exists():
        return None
    with reading(path, redo_remedy("select")):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def _signals(manifest: Manifest | None) -> pa.Table | None:
    """None when the table is not in its cache, or damaged there."""
    try:
        table = read_parquet(Path(manifest.signals), SIGNALS) if manifest else None
    except ValueError:
        return None
    return table.filter(table["ranked"]) if table is not None else None


def read_json_lines(path: Path) -> list[dict[str, Any]] | None:
    if not path.exists():
        return None
    rows = []
    with reading(path, "remove that line and run task=report again"):
        # A line without its newline is still being written, or was cut off when the run was killed.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return rows


def read_solutions(folder: Path) -> dict[str, dict[str, Any]]:
    """What was scored of a benchmark, by id: images (absolute paths), question and steps; {} when it was not kept."""
    return {one["id"]: one for one in read_json_lines(folder / "solutions.jsonl") or []}


def _predictions(path: Path) -> list[Prediction] | None:
    if not path.exists():
        return None
    with reading(path, redo_remedy("evaluate")):
        return read_predictions(path)
