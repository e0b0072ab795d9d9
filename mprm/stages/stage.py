"""What is done once: a stage of a run, and the output of a command.

A stage is skipped when it is done, taken from another run that did the same, else done and recorded.

Of what a command is told to write nothing is lost unless overwrite=true says so. An output that the same command
finished with the same inputs is left as it is, which is said. Anything else that is there is refused, or replaced with
overwrite=true; an input of the command, or a file of a run, is never replaced. CACHE/outputs remembers what was
finished; without that cache an output is refused, never taken for another. (report.html and its figures are made again
whenever they are asked for.)
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mprm.config import Config
from mprm.runs.artifacts import (
    STAGES,
    atomic_file,
    file_hash,
    file_states,
    is_rank_zero,
    left_by,
    read_json,
    write_json,
)
from mprm.runs.run_folder import FORMAT_VERSION, NEW, RunFolder, open_run, used_config
from mprm.terminal import say

if TYPE_CHECKING:
    from mprm.reporting.tracking import Tracker

LEFT_OUT = "left_out.jsonl"  # what a training cannot use, and why


@dataclass
class Work:
    """What the stages of a line are given."""

    cfg: Config
    run: RunFolder
    started: float = field(default_factory=monotonic)


W = TypeVar("W", bound=Work)


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[W]):
    """A stage, or a part of one (curate/responses), as what the runner below knows of it."""

    name: str
    # content hashes, by name, of all that it is computed from
    inputs: Callable[[W], dict[str, str]]
    # does it, says what came of it, and returns its summary
    do: Callable[[W], dict[str, Any]]
    # what it leaves in the run folder: files, and folders with all that is in them; a training's weights last
    files: tuple[str, ...] = ()
    # what redo=STAGE removes besides: glob patterns
    remains: tuple[str, ...] = ()
    # what is said of one that is done already, from its summary and the run's folder {run}
    already: str = ""
    # what is said of one that another run beside this one ({shared_with}) did; None: never taken from there
    taken: str | None = None
    # what follows once it is recorded; told whether it was taken from another run
    then: Callable[[W, bool], None] | None = None
    # done again whenever it is asked for, rather than skipped
    again: bool = False
    # a training: further ranks take part once NAME/ready is recorded, and a lost file is not made again unasked
    every_rank: bool = False

    @property
    def ready(self) -> str:
        return f"{self.name}/ready"


def run_stage(stage: Stage[W], work: W) -> bool:
    """Do the stage, unless this run has done it, or another one beside it from the same inputs. Returns whether this
    run has it only now.

    Raises ValueError if this run has done it from other inputs, or a file of a training is gone.
    """
    run, cfg = work.run, work.cfg
    if not is_rank_zero():
        if stage.every_rank:
            wait_for_rank_zero(run, stage.ready)
            if not run.finished(stage.name):
                stage.do(work)
        return False
    inputs = stage.inputs(work)
    if not stage.again and run.finished(stage.name, costly=stage.every_rank):
        run.check_inputs(stage.name, inputs)
        if stage.already:
            say(stage.already.format(**run.summary(stage.name), run=run.path))
        return False
    with nullcontext() if stage.taken is None else one_at_a_time(run.path.parent, stage.name, inputs):
        # Further ranks that find it ready on a restart do not wait: then this run's own training goes on.
        own = stage.taken is None or cfg.redo is not None or run.finished(stage.ready)
        taken = not own and take_stage(run, stage, inputs)
        if not taken:
            started = monotonic()
            summary = stage.do(work)
            summary.setdefault("seconds", round(monotonic() - started, 1))
            run.finish(stage.name, summary, file_states(run.path, stage.files), inputs)
            if stage.every_rank:
                cfg.trainer.forget((run.path / stage.files[-1]).parent / "checkpoints")  # beside the weights
        elif stage.every_rank:
            run.finish(stage.ready, {})
        if taken and stage.taken:
            say(stage.taken.format(**run.summary(stage.name)))
        if stage.then is not None:
            stage.then(work, taken)
    return True


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


@contextmanager
def opened(kind: type[W], cfg: Config, line: Sequence[Stage[W]]) -> Iterator[W]:
    """The run of the config. redo=STAGE begins with undoing that stage of the line, and all that follow it."""
    with open_run(cfg.raw) as run:
        if cfg.redo is not None and is_rank_zero():
            if max(int(os.environ.get(key, "1")) for key in ("WORLD_SIZE", "SLURM_NTASKS")) > 1:
                raise ValueError(
                    f"redo={cfg.redo} is for one process, and a launcher has started several; run task=select with it "
                    "first (task=judge for judges), then this command without it"
                )
            names = [stage.name for stage in line]
            for stage in reversed(line[names.index(cfg.redo) :]):
                run.forget(stage.name, (*stage.files, *stage.remains))
        yield kind(cfg, run)


def take_stage(run: RunFolder, stage: Stage[W], inputs: Mapping[str, str]) -> bool:
    """Take over what another run beside this one made of the same inputs in the stage, if there is one.

    One whose files are not what it left there, or whose record is damaged, is passed over.
    """
    for path in sorted(run.path.parent.glob(f"*/{STAGES}")):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # a damaged record
            record = read_json(path)
            done, states = record["stages"][stage.name], record["files"][stage.name]
            if record["format"] != FORMAT_VERSION or record["inputs"][stage.name] != inputs or path.parent == run.path:
                continue
            if file_states(path.parent, stage.files) != states:
                continue
            for name in states:
                with atomic_file(run.path / name) as temporary:
                    try:  # a second name for the file: no run changes one in place once it is finished
                        os.link(path.parent / name, temporary)
                    except OSError:  # the disk can give none
                        shutil.copyfile(path.parent / name, temporary)
            shared = {"shared_with": done.get("shared_with", path.parent.name), "seconds": 0.0}
            run.finish(stage.name, done | shared, states, inputs)
            return True
    return False


@contextmanager
def one_at_a_time(runs: Path, stage: str, inputs: Mapping[str, str]) -> Iterator[None]:
    """Wait until no other process is at the same stage with the same inputs; the next one finds it finished."""
    key = hashlib.sha256(json.dumps([stage, dict(inputs)], sort_keys=True).encode()).hexdigest()
    # A byte of one file for every stage: the system lets go of it when the process ends, however it ends.
    with open(runs / ".trainings", "a+b") as file:
        byte = int(key[:8], 16)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            say(f"another run is at the same stage, {stage}; waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
        yield


def start_tracker(work: Work) -> Tracker:
    """The logger's mirror of this run; other ranks than the first mirror nothing."""
    from mprm.reporting.tracking import Tracker, start

    if not is_rank_zero():
        return Tracker()
    config = used_config(work.cfg.raw)
    return start(work.cfg.logger, work.run.path, config, work.cfg.selector.label if "selector" in config else "")


@dataclass(frozen=True)
class Output:
    cfg: Config
    # of the config, that names it
    key: str
    # all that it depends on, as JSON values, the contents of the inputs included (content())
    settings: Any
    # files and folders that the command reads
    inputs: Sequence[str | Path | None]
    # of an output that is a folder: a file that every such folder holds; no other folder is replaced
    mark: str | None = None

    @property
    def target(self) -> Path:
        return Path(getattr(self.cfg, self.key))

    def is_made(self) -> bool:
        """Has this very command finished it already? Says so.

        Raises ValueError if something else is there and may not be replaced.
        """
        target, given, mark = self.target, f"{self.key}={self.target}", self.mark
        for source in (Path(one) for one in self.inputs if one is not None):
            linked = source.exists() and target.exists() and os.path.samefile(source, target)
            inside = source.resolve().is_relative_to(target.resolve()) if mark else source.resolve() == target.resolve()
            if linked or inside:
                raise ValueError(f"{given} is an input of this command, or holds one ({source}); give another")
        if not target.exists():
            return False
        if target.is_dir() == (mark is None):
            raise ValueError(f"{given} is a {'folder; give a file' if mark is None else 'file; give a folder'}")
        opened = target.name in NEW and (target.parent / STAGES).exists()
        if opened or left_by(target) is not None or (target / STAGES).exists():
            raise ValueError(f"{given} belongs to a run; give another")
        if mark and (not any(target.iterdir()) or list(target.glob("*.journal"))):  # or begun, and not finished
            return False
        if self.cfg.overwrite:
            if mark and not (target / mark).is_file():
                raise ValueError(f"{given} holds files that no task={self.cfg.task} wrote; give another folder")
            return False
        with suppress(ValueError):  # nothing is remembered, or it is damaged
            if read_json(self._place()) == self._memory():
                say(f"{given} was written by this very command: nothing to do")
                return True
        kind = "folder" if mark else "file"
        raise ValueError(f"{given} is there already; give another {kind}, or overwrite=true to replace it")

    def remember(self) -> None:
        """Note that it is finished."""
        write_json(self._place(), self._memory())

    def _memory(self) -> dict[str, Any]:
        target, settings = self.target, json.dumps([FORMAT_VERSION, self.settings], sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()
        states = file_states(target.parent, [target.name])
        # `wandb sync` marks what it has uploaded
        states = {name: state for name, state in states.items() if "wandb" not in Path(name).parts[1:]}
        return {"output": str(target.resolve()), "settings": digest, "files": states}

    def _place(self) -> Path:
        name = hashlib.sha256(os.fsencode(self.target.resolve())).hexdigest()[:16]
        return Path(self.cfg.cache) / "outputs" / f"{name}.json"


def content(path: str | Path | None) -> str | None:
    """Hash of an input, None for what is no file, which its reader will say."""
    return file_hash(path) if path is not None and Path(path).is_file() else None
