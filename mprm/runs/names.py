"""What the folders of runs are called."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mprm.runs.run_folder import config_hash
from mprm.tasks import JUDGE_TASKS, REWARD_MODEL


def run_name(raw: dict[str, Any], choices: Mapping[str, str | None]) -> str:
    """A folder name that no other config has, e.g. bis-alpha0.2-ratio0.1-hard-chartworld_internvl-seed0-3fa9c1d2; data
    and benchmark follow the backbone where they are not chartworld, and backbone=auto brings the model's own name.
    raw: resolved."""
    numbers = [
        f"{key}{value:.12g}"
        for key, value in (raw.get("selector") or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "seed"
    ]
    judge, reward = raw.get("task") in JUDGE_TASKS, raw.get("task") == REWARD_MODEL
    chosen = [choices.get(group) for group in ("selector", "order" if judge else "objective", "backbone")]
    data = ("preferences", "reward_benchmark") if judge or reward else ("dataset", "benchmark")
    others = [choices.get(group) for group in data if choices.get(group) != "chartworld"]
    balance = "none" if judge else (raw.get("objective") or {}).get("balance", "none")
    objective = [chosen[1], None if balance == "none" else f"balance_{balance}"]
    path = (raw.get("backbone") or {}).get("path") if chosen[2] == "auto" else None
    model = path and re.sub(r"[^\w.-]", "_", model_name(path))  # to be typed without quotes
    backbone = [chosen[2], model]
    selected = [REWARD_MODEL] if reward else ["egt" if judge else None, chosen[0], *numbers, *objective]
    parts = [*selected, *backbone, *others, f"seed{raw.get('seed')}", config_hash(raw)[:8]]
    return "-".join(part for part in parts if part)


def model_name(path: str) -> str:
    """Of a folder its own name, of a hub id, ORG/NAME@COMMIT, its NAME."""
    return Path(re.sub("@[0-9a-f]{40}$", "", path)).name


def short_names(names: list[str]) -> list[str]:
    """Names of run folders without the parts that all have, and without the hash where they differ without it."""
    parts = [name.split("-") for name in names]
    common = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    short = [[part for part in of_one if part not in common] for of_one in parts]
    without_hash = ["-".join(of_one[:-1]) for of_one in short]
    unique = len(set(without_hash)) == len(names) and all(without_hash)
    return without_hash if unique and len(names) > 1 else ["-".join(of_one) for of_one in short]
