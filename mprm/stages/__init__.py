"""The tasks: each reads files and writes files, and imports the heavy libraries it needs."""

from typing import Any

from mprm.tasks import TASKS


def __getattr__(name: str) -> Any:
    """The function of the task of that name, whose module is imported when it is asked for."""
    if name in TASKS:
        return TASKS[name].load()
    raise AttributeError(f"module 'mprm.stages' has no attribute {name!r}")
