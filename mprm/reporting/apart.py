"""What makes runs seeds of one setting, and what tells settings apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mprm.tasks import NOT_IN_HASH, unused


def setting_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a run's config by dotted key, without the seed of the run and what does not change results."""
    of_others = unused(config.get("task"))
    return {key: value for key, value in _leaves(config) if key.partition(".")[0] not in of_others}


def others(settings: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[str]:
    """What tells the settings apart beside the labels of their selectors and the shares kept, one text per setting."""
    shown = ["model", "selector._target_", "selector.ratio", "selector.count"]
    told = []
    keys = {key for setting in settings for key in setting if key not in shown}
    # Choices come before fields, the fields of the selector last.
    for key in sorted(keys, key=lambda key: (key.startswith("selector."), not key.endswith("._target_"), key)):
        if _varies(key, settings, labels) and not any(_follows(key, one, settings) for one in shown):
            shown.append(key)
            told.append(key)
    return [", ".join(_assignment(key, setting[key]) for key in told if key in setting) for setting in settings]


def _follows(key: str, shown: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    """Does what is shown already say the value of the key? Of two values alone, any other two would follow."""
    values: dict[str, set[str]] = {}
    for setting in settings:
        if shown in setting or key in setting:  # a model that no run made has neither
            values.setdefault(json.dumps(setting.get(shown)), set()).add(json.dumps(setting.get(key)))
    if any(len(of_one) > 1 for of_one in values.values()):
        return False
    of_backbone = shown.startswith("backbone.") and key.startswith("recipe.")  # a backbone brings its recipe
    return of_backbone or len(values) > 2 or all(of_one == {value} for value, of_one in values.items())


def _varies(key: str, settings: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> bool:
    """Does the key tell some settings apart that are of one class, or of one label of their selectors? Another class
    brings other fields with it: its name says enough."""
    group = key.split(".")[0]
    values: dict[Any, set[str]] = {}
    for setting, label in zip(settings, labels, strict=True):
        if key in setting:
            of_class = "" if key.endswith("._target_") else setting.get(f"{group}._target_")
            values.setdefault(label if group == "selector" else of_class, set()).add(json.dumps(setting[key]))
    return any(len(of_one) > 1 for of_one in values.values())


def _assignment(key: str, value: Any) -> str:
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')} {str(value).rpartition('.')[2]}"
    return f"{key}={value}"


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            path = f"{key}.{name}" if key else str(name)
            # The seed of a dataset or benchmark says which data, every other one follows the seed of the run.
            follows_seed = name == "seed" and key not in ("dataset", "benchmark")
            if path not in NOT_IN_HASH and not follows_seed:
                yield from _leaves(child, path)
    else:
        yield key, node
