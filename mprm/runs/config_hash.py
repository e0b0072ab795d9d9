"""What makes a run what it is: the keys of its config that enter its hash, and the name of its folder."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mprm.tasks import JUDGE_GROUPS, JUDGE_TASKS, RUN_GROUPS

# Enters every config hash. Raise it when a file of the run folder changes its meaning: older runs are then refused.
FORMAT_VERSION = 3

# Keys that do not change what a run computes: changing them finds the same run again. A group name covers its keys.
NOT_IN_HASH = (
    # where the run lies and what is done with it; task=train continues the run that task=select began
    *("task", "name", "runs", "cache", "overwrite", "redo", "check", "debug", "logger"),
    # of tasks that open no run, and of files beside the run folder
    *("questions", "policy", "run", "checkpoint", "format", "input", "predictions", "threshold"),
    *("solutions", "continuations", "aggregate", "export", "output"),
    # the gradient does not depend on how a global batch is cut: a run resumes on other devices
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.max_tokens"),
    *("trainer.offload_optimizer", "trainer.num_workers", "backbone.gradient_checkpointing"),
    # what is kept, and when
    *("trainer.checkpoint_every", "trainer.checkpoint_minutes", "trainer.keep_optimizer", "trainer.validate_every"),
    "trainer.non_finite",  # a run that stopped is finished with skip; its summary counts what was skipped
)

# What belongs to the other line of work alone.
OF_JUDGES = tuple(group for group in JUDGE_GROUPS if group not in RUN_GROUPS)
OF_STEP_SCORERS = (*(group for group in RUN_GROUPS if group not in JUDGE_GROUPS), "held_out")

PATHS = ("root", "annotations", "images", "path", "exclude")  # last parts of the keys that hold paths
CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED = "mprm/chartworld/weights/"  # is in the checkout, from wherever a command is run


def config_hash(cfg: DictConfig, leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256, in hex, of the resolved config without NOT_IN_HASH and `leave_out`, and of FORMAT_VERSION.

    The order of keys does not matter, nor how a path is spelled. One inside the checkout counts from there, so that a
    checkout may be moved with its runs.
    """
    content = {"format": FORMAT_VERSION, "config": _hashed_values(cfg, leave_out)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def run_name(raw: DictConfig, choices: Mapping[str, str | None]) -> str:
    """A readable folder name that no other config has.

    For example bis-alpha0.2-ratio0.1-hard-chartworld_internvl-seed0-3fa9c1d2; data and benchmark follow the backbone
    where they are not chartworld.
    """
    numbers = [
        f"{key}{value:.12g}"
        for key, value in (raw.get("selector") or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "seed"
    ]
    judge = raw.get("task") in JUDGE_TASKS
    chosen = [choices.get(group) for group in ("selector", "order" if judge else "objective", "backbone")]
    data = ("preferences", "reward_benchmark") if judge else ("dataset", "benchmark")
    others = [choices.get(group) for group in data if choices.get(group) != "chartworld"]
    parts = ["egt" if judge else None, chosen[0], *numbers, *chosen[1:], *others, f"seed{raw.get('seed')}"]
    return "-".join(part for part in [*parts, config_hash(raw)[:8]] if part)


def differences(before: DictConfig, now: DictConfig) -> str:
    """The first keys in which two configs differ, as `key before -> now`."""
    there, here = _hashed_values(before), _hashed_values(now)
    changed = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
    shown = [f"{key} {there.get(key)} -> {here.get(key)}" for key in changed[:3]]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _hashed_values(cfg: DictConfig, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The leaves that enter the hash, by dotted key."""
    of_others = OF_STEP_SCORERS if cfg.get("task") in JUDGE_TASKS else OF_JUDGES
    left_out = (*NOT_IN_HASH, *of_others, *leave_out)
    return {
        key: value
        for key, value in _leaves(OmegaConf.to_container(cfg, resolve=True), "")
        if not any(key == name or key.startswith(name + ".") for name in left_out)
    }


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str) and key.rpartition(".")[2] in PATHS:
        path = (CHECKOUT / node if node.startswith(SHIPPED) else Path(node)).resolve()
        yield key, str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)
    elif isinstance(node, int) and not isinstance(node, bool):
        yield key, float(node)  # alpha=1 is alpha=1.0
    else:
        yield key, node
