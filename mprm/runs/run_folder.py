"""The run folder and its rule: finished stages are skipped, an unfinished one goes on, another config is refused."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import IO, Any, Self

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
from mprm.runs.config_hash import FORMAT_VERSION, config_hash, differences

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
        fault = self._fault(record["files"][stage])
        if fault is None:
            return True
        if costly:
            raise ValueError(f"{fault}; {redo_remedy(stage)}")
        print(f"{fault}: {stage.partition('/')[0]} is done again", flush=True)
        self._drop(record, [stage])
        return False

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
        summary: dict[str, Any] = self._record()["stages"][stage]
        return summary

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
            record["stages"][stage] = summary
            record["inputs"][stage] = dict(inputs or {})
            record["files"][stage] = dict(files or {})
            write_json(self.path / STAGES, record)

    def forget(self, stage: str, files: Iterable[str]) -> None:
        """Undo a stage and its parts: remove its files, which are glob patterns from the folder, and its records."""
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
        record: dict[str, Any] = read_json(self.path / STAGES, START_AGAIN)
        return record

    def _drop(self, record: dict[str, Any], stages: list[str]) -> None:
        for part in ("stages", "inputs", "files"):
            for stage in stages:
                record[part].pop(stage, None)
        write_json(self.path / STAGES, record)

    def _fault(self, states: Mapping[str, FileState]) -> str | None:
        """Which of these files is missing, or has another size."""
        for name, (size, _) in states.items():
            path = self.path / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != size:
                return f"{path} has {path.stat().st_size} bytes instead of {size}"
        return None


def open_run(cfg: DictConfig) -> RunFolder:
    """Open runs/<name> and lock it: a new folder, or the one that the same config left behind, finished or not.

    Args:
        cfg: the composed config, its `name` filled in (mprm.config.validate does).

    Raises:
        ValueError: the folder belongs to another config or an earlier version and overwrite is false (with
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


def latest_run(runs: Path) -> Path:
    """The trained run below a folder whose stages changed last. Raises ValueError if there is none."""
    weights = [*runs.glob("*/weights.safetensors"), *runs.glob("*/*/weights.safetensors")]
    folders = {runs / path.relative_to(runs).parts[0] / STAGES for path in weights}
    trained = sorted(filter(Path.exists, folders), key=lambda path: path.stat().st_mtime_ns)
    if not trained:
        raise ValueError(
            f"run=latest: no run below runs={runs} is trained; give its folder, run=runs/NAME, or runs=DIR"
        )
    return trained[-1].parent


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
    if contents:
        try:
            _check_same(path, this_hash, cfg)
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
        write_text(path / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    try:
        read_json(path / "versions.json")
    except ValueError:
        write_json(path / "versions.json", {package: _version(package) for package in PACKAGES})


def _check_same(path: Path, this_hash: str, cfg: DictConfig) -> None:
    """Raise ValueError if the run in a folder cannot be gone on with by this config."""
    if read_record(path)["config_hash"] != this_hash:
        stored = _stored_config(path)
        changed = "its config.yaml is missing or cannot be read" if stored is None else differences(stored, cfg)
        raise ValueError(
            f"{path} was made with another config ({changed}); "
            "give another name=, or overwrite=true to empty the folder and start again"
        )


def _stored_config(path: Path) -> DictConfig | None:
    """The folder's config.yaml, None when it cannot be read."""
    try:
        stored = OmegaConf.load(path / "config.yaml")
    except Exception:  # YAML's, OmegaConf's and the decoder's have no common base
        return None
    return stored if isinstance(stored, DictConfig) else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
