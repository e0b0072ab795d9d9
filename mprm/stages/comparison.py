"""The comparison of many runs: their settings, and which differences between them are real."""

from __future__ import annotations

from pathlib import Path

from mprm.reporting.comparison import write_comparison
from mprm.reporting.settings import compare, run_folders
from mprm.runs.sweep_state import read_jobs
from mprm.terminal import console, say


def compare_runs(runs: Path, own: bool = False) -> None:
    """Write the comparison of the finished runs below `runs`, and print it.

    own: of the last sweep's jobs alone, whatever else lies in the folder.
    """
    folders, jobs = run_folders(runs), read_jobs(runs)
    if own:
        names = {job.name for job in jobs}
        folders = [folder for folder in folders if folder.name in names]
    say(f"wrote {write_comparison(runs, compare(folders, jobs), console())}")
