"""What of metrics.jsonl depends on the clock."""

from collections.abc import Iterable
from typing import Any


def without_clock(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without it: two trainings are compared by these."""
    return [
        {name: value for name, value in line.items() if name != "seconds" and not name.startswith("speed/")}
        for line in lines
    ]
