"""The run folder and its rule: finished stages are skipped, an unfinished one goes on, another config is refused."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import sleep
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from mprm.runs.artifacts import STAGES, TEMPORARY, is_rank_zero, read_json, reading, remove, write_json, write_text
from mprm.runs.stage_records import START_AGAIN, RunFolder
from mprm.tasks import JUDGE_TASKS

# Enters every config hash. Raise it when a file of the run folder changes its meaning: older runs are then refused.
FORMAT_VERSION = 2

# Keys that do not change what a run computes: changing them finds the same run again. A group name covers its keys.
NOT_IN_HASH = (
    "task",  # task=train continues the run that task=select began
    "name",
    "runs",
    "cache",
    "overwrite",
    "redo",
    "check",
    "debug",
    "logger",
    "questions",
    "policy",
    "export",  # files asked for beside the run folder
    "output",
    "run",  # what task=export, score and rerank read
    "checkpoint",
    "format",
    "input",
    "predictions",  # somebody else's scores, for task=measure, which opens no run
    "threshold",
    "solutions",  # of task=sample and annotate
    "continuations",
    "aggregate",  # of task=rerank
    "backbone.gradient_checkpointing",
    "trainer.accelerator",  # the gradient does not depend on how a global batch is cut: resume on other devices
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.offload_optimizer",
    "trainer.max_tokens",
    "trainer.num_workers",
    "trainer.checkpoint_every",
    "trainer.checkpoint_minutes",
    "trainer.keep_optimizer",
    "trainer.non_finite",  # a run that stops is finished with skip; what was skipped stands in its summary
    "trainer.validate_every",
)

# Last parts of the keys that hold paths.
PATHS = ("root", "annotations", "images", "path", "exclude")
CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED = "mprm/chartworld/weights/"  # is in the checkout, from wherever a command is run

# Of the two lines of work each leaves out of its hash what belongs to the other alone.
OF_JUDGES = ("preferences", "reward_benchmark", "judge", "sft", "grpo")
OF_STEP_SCORERS = ("dataset", "objective", "recipe", "benchmark", "held_out")

LOCK_ATTEMPTS = 5

PACKAGES = ("mprm", "torch", "transformers", "pytorch-lightning", "torchmetrics", "deepspeed", "datasets", "numpy")


def config_hash(cfg: DictConfig, leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256, in hex, of the resolved config without NOT_IN_HASH and `leave_out`, and of FORMAT_VERSION.

    The order of keys does not matter, nor how a path is spelled. One inside the checkout counts from there, so that a
    checkout may be moved with its runs.
    """
    content = {"format": FORMAT_VERSION, "config": _hashed_values(cfg, leave_out)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_run(cfg: DictConfig) -> RunFolder:
    """Open runs/<name> and lock it: a new folder, or the one that the same config left behind, finished or not.

    Args:
        cfg: the composed config, its `name` filled in (mprm.config.validate does).

    Raises:
        ValueError: the folder belongs to another config and overwrite is false (with overwrite=true it is emptied),
            is no run folder, or is in use by another process.
    """
    path, this_hash = Path(cfg.runs) / cfg.name, config_hash(cfg)
    if not is_rank_zero():
        return RunFolder(path, this_hash, None)
    path.mkdir(parents=True, exist_ok=True)
    held = lock(path, "give another name=")
    try:
        _claim(path, this_hash, cfg)
        run = RunFolder(path, this_hash, held)
        if cfg.get("redo") is not None:
            if max(int(os.environ.get(key, "1")) for key in ("WORLD_SIZE", "SLURM_NTASKS")) > 1:
                raise ValueError(
                    f"redo={cfg.redo} is for one process, and a launcher has started several; run task=select with it "
                    "first (task=judge for judges), then this command without it"
                )
            run.forget(cfg.redo)
    except BaseException:
        held.close()
        raise
    return run


def latest_run(runs: Path) -> Path:
    """The run below a folder whose stages changed last. Raises ValueError if there is none."""
    found = sorted(runs.glob(f"*/{STAGES}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise ValueError(f"run=latest: there is no run below runs={runs}; give its folder, run=runs/NAME, or runs=DIR")
    return found[-1].parent


def wait_for_rank_zero(run: RunFolder, stage: str) -> None:
    """In a further rank: return when the first has opened the folder with the same config and finished `stage`.

    In the first rank: return at once. Waits for ever; the launcher ends the further ranks when the first one fails.
    """
    while not is_rank_zero():
        with suppress(ValueError):  # not opened yet, or being emptied of another config's files
            record = read_json(run.path / STAGES)
            if record["config_hash"] == run.config_hash and stage in record["stages"]:
                return
        sleep(0.5)


def _claim(path: Path, this_hash: str, cfg: DictConfig) -> None:
    """Make the locked folder this config's own, or raise ValueError."""
    for leftover in list(path.rglob(TEMPORARY + "*")):  # of a killed process: nobody else can be writing here
        remove(leftover)
    contents = [entry for entry in path.iterdir() if entry.name != ".lock"]
    is_run = (path / STAGES).exists() or all((path / name).exists() for name in ("config.yaml", "versions.json"))
    if contents and not is_run:
        raise ValueError(f"{path} holds files but is no run folder (no {STAGES}); give another name= or runs=")
    if contents and (fault := _fault(path, this_hash, cfg)):
        if not cfg.overwrite:
            raise ValueError(fault)
        # stages.json goes last: until then a killed process leaves a folder that is still known as a run
        for entry in sorted(contents, key=lambda entry: entry.name == STAGES):
            remove(entry)
    if not (path / STAGES).exists():
        write_json(path / STAGES, {"format": FORMAT_VERSION, "config_hash": this_hash, "stages": {}})
    if _stored_hash(path) != this_hash:  # new, or damaged
        write_text(path / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    try:
        read_json(path / "versions.json")
    except ValueError:
        write_json(path / "versions.json", {package: _version(package) for package in PACKAGES})


def _fault(path: Path, this_hash: str, cfg: DictConfig) -> str | None:
    """Why the run in a folder can not be gone on with, in one line; None if it can."""
    try:
        with reading(path / STAGES, START_AGAIN):
            record = json.loads((path / STAGES).read_bytes())
            stored = record["config_hash"]
            record["stages"].keys()
    except ValueError as error:
        return str(error)
    if stored == this_hash:
        return None
    return (
        f"{path} was made with another config ({_differences(path, cfg)}); "
        "give another name=, or overwrite=true to empty the folder and start again"
    )


def _stored_hash(path: Path) -> str | None:
    """config_hash of the folder's config.yaml, None when it can not be read."""
    try:
        stored = OmegaConf.load(path / "config.yaml")
        return config_hash(stored) if isinstance(stored, DictConfig) else None
    except Exception:  # YAML's, OmegaConf's and the decoder's have no common base
        return None


def lock(path: Path, remedy: str) -> IO[str]:
    """Lock a folder against other processes, until the file is closed or the process ends.

    Raises ValueError, with the other's process id and the remedy, if it is locked.
    """
    # Opened without truncation: the pid in it is the holder's until the lock is ours.
    held = open(path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held until the caller closes it
    for attempt in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt + 1 == LOCK_ATTEMPTS:
                held.seek(0)
                holder = held.read().strip() or "unknown"
                held.close()
                raise ValueError(f"{path} is in use by process {holder}; wait until it ends, or {remedy}") from None
            sleep(0.1)  # in_use() of another process holds it for a moment
    held.truncate(0)
    held.write(str(os.getpid()))
    held.flush()
    return held


def in_use(path: Path) -> bool:
    """Does a living process hold the folder's lock?"""
    if not (path / ".lock").exists():
        return False
    with open(path / ".lock", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


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


def _differences(path: Path, cfg: DictConfig) -> str:
    """The first keys in which cfg differs from the folder's config, as `key there -> here`."""
    if _stored_hash(path) is None:
        return "its config.yaml is missing or can not be read"
    stored = OmegaConf.load(path / "config.yaml")
    assert isinstance(stored, DictConfig), path
    there, here = _hashed_values(stored), _hashed_values(cfg)
    changed = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
    shown = [f"{key} {there.get(key)} -> {here.get(key)}" for key in changed[:3]]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "") or "another format version"


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
