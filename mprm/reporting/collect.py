"""What the comparison still reads in the old layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mprm.reporting.old_layout import read_before
from mprm.reporting.run_record import SIGNALS
from mprm.reporting.run_record import RunRecord as RunRecord
from mprm.reporting.run_record import damage as damage
from mprm.reporting.run_record import read_config as read_config
from mprm.reporting.run_record import read_json_lines as read_json_lines
from mprm.reporting.run_record import read_json_object as read_json
from mprm.reporting.run_record import read_parquet as read_parquet
from mprm.reporting.run_record import read_run as read_run
from mprm.runs.artifacts import redo_remedy


def read_results(folder: Path) -> dict[str, Any] | None:
    """The metrics of the evaluation, or None."""
    path = folder / "results.json"
    return read_before(path, redo_remedy("evaluate")) if path.exists() else None


def read_json_object(path: Path, stage: str | None = None) -> dict[str, Any] | None:
    return read_json(path)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    return read_json(folder / "subset" / "manifest.json")


def read_signals(manifest: dict[str, Any] | None) -> Any:
    try:
        return read_parquet(Path(manifest["signals"]), SIGNALS) if manifest and manifest.get("signals") else None
    except ValueError:
        return None
