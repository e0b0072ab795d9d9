"""The run folder and its rule: finished stages are skipped, an unfinished one goes on, another config is refused; and
what makes a config another one: the keys that enter its hash."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from omegaconf import DictConfig, OmegaConf

from mprm.runs.artifacts import (
    STAGES,
    TEMPORARY,
    FileState,
    file_hash,
    file_states,
    is_rank_zero,
    lock,
    read_json,
    reading,
    redo_remedy,
    remove,
    write_json,
    write_text,
)
from mprm.runs.hub import PINNED
from mprm.tasks import GROUPS, JUDGE_TASKS, NOT_IN_HASH, TASKS, unused

# Enters every config hash. Raise it when a file of the run folder changes its meaning: older runs are then refused.
FORMAT_VERSION = 3

PATHS = ("root", "annotations", "images", "path", "exclude")  # last parts of the keys that hold paths
CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED = "mprm/chartworld/weights/"  # is in the checkout, from wherever a command is run
START_AGAIN = "restore it, or give overwrite=true to empty the folder and start again"
NEW = {".lock", "config.yaml", STAGES, "versions.json"}  # what opening a run makes
PACKAGES = ("mprm", "torch", "transformers", "pytorch-lightning", "torchmetrics", "deepspeed", "datasets", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """An open run: `path` holds its files. Locked against other processes until closed, or until the process ends.

    A stage may have parts, such as train/examples, which are recorded by themselves and forgotten with it.
    """

    path: Path
    config_hash: str
    lock: IO[str] | None = field(repr=False)  # None: a further rank of a distributed run, which reads and never writes

    def finished(self, stage: str, costly: bool = False) -> bool:
        """Has `stage` ended with this config, and is all that it left still there?

        A stage that lost a file is forgotten, which is said, and so done again; what follows it is kept, and found
        again if its inputs come out the same. Only sizes are compared here; reading() compares contents.

        Raises ValueError instead for a costly one, a training: nobody wants to pay twice unasked.
        """
        record = self._record()
        if stage not in record["stages"] or self.lock is None:
            return stage in record["stages"]
        for name, (size, _) in record["files"][stage].items():
            path = self.path / name
            there = path.stat().st_size if path.is_file() else None
            if there == size:
                continue
            fault = f"{path} is missing" if there is None else f"{path} has {there} bytes instead of {size}"
            if costly:
                raise ValueError(f"{fault}; {redo_remedy(stage)}")
            print(f"{fault}: {stage.partition('/')[0]} is done again", flush=True)
            self._drop(record, [stage])
            return False
        return True

    def intact(self, stage: str, inputs: Mapping[str, str]) -> bool:
        """Has `stage` ended with these inputs, and are its files unchanged, to the bit?"""
        record = self._record()
        states = record["files"].get(stage, {})
        return record["inputs"].get(stage) == dict(inputs) and file_states(self.path, states) == states

    def content_hash(self, name: str) -> str:
        """SHA-256, in hex, of a file as its stage left it: nothing large is read twice."""
        recorded = [states[name][1] for states in self._record()["files"].values() if name in states]
        return recorded[0] if recorded else file_hash(self.path / name)

    def check_inputs(self, stage: str, inputs: Mapping[str, str]) -> None:
        """Raise ValueError that names what changed if the finished stage was computed from other inputs."""
        before = self._record()["inputs"][stage]
        changed = [f"{name} changed" for name in inputs if before.get(name, inputs[name]) != inputs[name]]
        changed += [f"{name} added" for name in inputs if name not in before]
        changed += [f"{name} gone" for name in before if name not in inputs]
        # What images lack is counted by record: other annotations change it, too.
        changed = [change for change in changed if not change.startswith("the images")] or changed
        if changed:
            shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            name = stage.partition("/")[0]
            raise ValueError(
                f"{self.path}: {shown} since task={name} was done; add task={name} redo={name} to do it and what "
                "follows again, or another name="
            )

    def summary(self, stage: str) -> dict[str, Any]:
        """What `stage` handed to finish(); KeyError when it has not finished."""
        return cast(dict[str, Any], self._record()["stages"][stage])

    def finish(
        self,
        stage: str,
        summary: dict[str, Any],
        files: Mapping[str, FileState] | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        """Record that `stage` is done. Call it after the stage's files are in place: from now on it is skipped.

        files: what it left, as file_states() gives it. inputs: what it was computed from, by name: a content hash each.
        """
        if self.lock is not None:
            record = self._record()
            for part, found in (("stages", summary), ("inputs", inputs), ("files", files)):
                record[part][stage] = dict(found or {})
            write_json(self.path / STAGES, record)

    def forget(self, stage: str, files: Iterable[str]) -> None:
        """Undo a stage and its parts: remove its files (glob patterns from the folder) and its records."""
        for pattern in files:
            for path in list(self.path.glob(pattern)):
                remove(path)
        record = self._record()
        self._drop(record, [name for name in record["stages"] if name.partition("/")[0] == stage])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        refused = self.lock is not None and isinstance(error, ValueError) and not self._record()["stages"]
        if refused and {entry.name for entry in self.path.iterdir()} <= NEW:
            remove(self.path)  # there is nothing to go on with
        if self.lock is not None:
            self.lock.close()

    def _record(self) -> dict[str, Any]:
        return cast(dict[str, Any], read_json(self.path / STAGES, START_AGAIN))

    def _drop(self, record: dict[str, Any], stages: list[str]) -> None:
        for part in ("stages", "inputs", "files"):
            for stage in stages:
                record[part].pop(stage, None)
        write_json(self.path / STAGES, record)


def open_run(cfg: DictConfig) -> RunFolder:
    """Open runs/<name> and lock it: a new folder, or the one that the same config left behind, finished or not.

    Raises ValueError if the folder belongs to another config or an earlier version and overwrite is false (with
    overwrite=true it is emptied), is no run folder, or is in use by another process.
    """
    path, this_hash = Path(cfg.runs) / cfg.name, config_hash(cfg)
    if not is_rank_zero():
        return RunFolder(path, this_hash, None)
    path.mkdir(parents=True, exist_ok=True)
    held = lock(path, "give another name=")
    try:
        _claim(path, this_hash, cfg)
    except BaseException:
        held.close()
        raise
    return RunFolder(path, this_hash, held)


def read_record(folder: Path) -> dict[str, Any]:
    """What stages.json says of the run. Raises ValueError if it is damaged, or the run of another version of mprm."""
    with reading(folder / STAGES, START_AGAIN):
        record: dict[str, Any] = json.loads((folder / STAGES).read_bytes())
        made = record.get("format")
        record["config_hash"], record["stages"].keys()
    if made != FORMAT_VERSION:
        raise ValueError(
            f"{folder} was made by another version of mprm (run format {made}, here {FORMAT_VERSION}); give another "
            "name= or runs=, or the run's command with overwrite=true to empty the folder and start again"
        )
    return record


def _claim(path: Path, this_hash: str, cfg: DictConfig) -> None:
    """Make the locked folder this config's own, or raise ValueError."""
    for leftover in list(path.rglob(TEMPORARY + "*")):  # of a killed process: nobody else can be writing here
        remove(leftover)
    contents = [entry for entry in path.iterdir() if entry.name != ".lock"]
    is_run = (path / STAGES).exists() or all((path / name).exists() for name in ("config.yaml", "versions.json"))
    if contents and not is_run:
        raise ValueError(f"{path} holds files but is no run folder (no {STAGES}); give another name= or runs=")
    if contents:
        try:
            if read_record(path)["config_hash"] != this_hash:
                stored = _stored_config(path)
                changed = "its config.yaml is missing or cannot be read" if stored is None else differences(stored, cfg)
                raise ValueError(
                    f"{path} was made with another config ({changed}); "
                    "give another name=, or overwrite=true to empty the folder and start again"
                )
        except ValueError:
            if not cfg.overwrite:
                raise
            # stages.json goes last: until then a killed process leaves a folder that is still known as a run
            for entry in sorted(contents, key=lambda entry: entry.name == STAGES):
                remove(entry)
    if not (path / STAGES).exists():
        empty = {"format": FORMAT_VERSION, "config_hash": this_hash, "stages": {}, "inputs": {}, "files": {}}
        write_json(path / STAGES, empty)
    stored = _stored_config(path)
    if stored is None or config_hash(stored) != this_hash:  # new, or damaged
        write_text(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(used_config(cfg))))
    try:
        read_json(path / "versions.json")
    except ValueError:
        versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
        for package in PACKAGES:
            with suppress(PackageNotFoundError):
                versions[package] = version(package)
        write_json(path / "versions.json", versions)


def _stored_config(path: Path) -> DictConfig | None:
    """The folder's config.yaml, None when it cannot be read."""
    try:
        stored = OmegaConf.load(path / "config.yaml")
    except Exception:  # YAML's, OmegaConf's and the decoder's have no common base
        return None
    return stored if isinstance(stored, DictConfig) else None


def config_hash(cfg: DictConfig | dict[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256, in hex, of the resolved config without NOT_IN_HASH and `leave_out`, and of FORMAT_VERSION.

    The order of keys does not matter, nor how a path is spelled. One inside the checkout counts from there, so that a
    checkout may be moved with its runs.
    """
    content = {"format": FORMAT_VERSION, "config": _hashed_values(cfg, leave_out)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def used_config(cfg: DictConfig) -> dict[str, Any]:
    """The config, resolved, without the groups that its task does not use."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in values.items() if key not in GROUPS or key in TASKS[cfg.task].groups}


def differences(before: DictConfig, now: DictConfig) -> str:
    """The first keys in which two configs differ, as `key before -> now`."""
    there, here = _hashed_values(before), _hashed_values(now)
    changed = [key for key in sorted(there | here) if there.get(key) != here.get(key)]
    shown = [f"{key} {there.get(key)} -> {here.get(key)}" for key in changed[:3]]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _hashed_values(cfg: DictConfig | dict[str, Any], leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The leaves that enter the hash, by dotted key."""
    served = cfg.get("task") in JUDGE_TASKS and (cfg.get("judge") or {}).get("engine") == "server"
    not_in_hash = (name for name in NOT_IN_HASH if not (served and name == "policy"))
    left_out = (*not_in_hash, *unused(cfg.get("task")), *leave_out)
    return {
        key: value
        for key, value in _leaves(OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg, "")
        if not any(key == name or key.startswith(name + ".") for name in left_out)
    }


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str) and key.rpartition(".")[2] in PATHS and not PINNED.fullmatch(node):
        path = (CHECKOUT / node if node.startswith(SHIPPED) else Path(node)).resolve()
        yield key, str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)
    elif isinstance(node, int) and not isinstance(node, bool):
        yield key, float(node)  # alpha=1 is alpha=1.0
    else:
        yield key, node
