"""Files and folders that are written whole or not at all, their hashes, and reading with one-line errors."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import sleep, time
from typing import IO, Any
from uuid import uuid4

TEMPORARY = ".tmp-"
STAGES = "stages.json"  # of a run folder: what each stage has left there
JUDGE_FILE = "judge.json"  # of an exported judge: how it is asked
TRAININGS = ("rl", "sft", "reward_model", ".")  # folders of a run that may hold one, the last first
REWARD_FILE = "reward_model.json"  # of an exported reward model of whole answers
MODEL_FILE = "model.json"  # of an evaluation that no training belongs to: whose model it was

FileState = list[Any]  # size in bytes, SHA-256 in hex

# What a new file may be read and written by; safetensors writes for the owner alone.
os.umask(UMASK := os.umask(0o077))


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` when the block ends, and vanishes when it raises.

    A reader, or a process that starts after a crash or a power cut, sees the old file or the whole new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        with _full_disk_named(path):
            yield temporary
            temporary.chmod(0o666 & ~UMASK)
            _fsync(temporary)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; it becomes `path` when the block ends, and vanishes when it raises.

    An older folder at `path` is moved aside first (two folders cannot be exchanged in one step): a process killed
    between the two renames leaves no folder at `path`, never a half-written one. Leftovers of a killed process are
    removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"{TEMPORARY}*-{glob.escape(path.name)}"):
        with _held(leftover) as mine:
            # one a moment old may be about to be held
            if mine and leftover.is_dir() and time() - leftover.stat().st_mtime > 1:
                shutil.rmtree(leftover, ignore_errors=True)
    temporary, old = _temporary_sibling(path), _temporary_sibling(path)
    temporary.mkdir()
    try:
        with _held(temporary), _full_disk_named(path):
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    Path(folder, name).chmod(0o666 & ~UMASK)
                    _fsync(Path(folder, name))
                _fsync(Path(folder))
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Is the folder ours, and no living process's? Then it stays so until the block ends."""
    with ExitStack() as stack:
        mine = False
        with suppress(OSError):  # another's, gone, or on a file system without locks: then it is no leftover
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        yield mine


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """A full disk is an OSError that names `path`: safetensors and torch raise errors of their own, without it."""
    try:
        yield
    except Exception as error:
        chain = [one for one in (error, error.__cause__, error.__context__) if one is not None]
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if any(getattr(one, "errno", None) == number or f"os error {number})" in str(one) for one in chain):
                raise OSError(number, os.strerror(number), str(path)) from error
        raise


def write_text(path: str | Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically. NaN and Infinity are no JSON and raise: give None."""
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_json(path: str | Path, remedy: str = "restore it") -> Any:
    """Read one JSON file; raises as reading()."""
    with reading(path, remedy):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def file_hash(path: str | Path) -> str:
    """SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_states(folder: Path, names: Iterable[str]) -> dict[str, FileState]:
    """State by name of these files, those of folders one by one. The names start from `folder`."""
    paths = [path for name in names for path in [folder / name, *sorted((folder / name).rglob("*"))] if path.is_file()]
    return {str(path.relative_to(folder)): [path.stat().st_size, file_hash(path)] for path in paths}


@contextmanager
def reading(path: str | Path, remedy: str = "restore it") -> Iterator[None]:
    """Read a file inside the block: any fault becomes a ValueError with the file's name and a remedy.

    A file that a stage of a run left must be unchanged, to the bit; the remedy is to redo that stage. For any other
    file it is `remedy`.
    """
    path = Path(path)
    stage, state = left_by(path) or (None, None)
    if stage is not None:
        remedy = redo_remedy(stage)
    try:
        if state is not None and state != [path.stat().st_size, file_hash(path)]:
            raise ValueError(f"it is not what {stage} has left there")
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read ({reason[:200]}); {remedy}") from error


def redo_remedy(stage: str) -> str:
    """What to do about a damaged file of a stage, or of a part of one (train/examples)."""
    whole = stage.partition("/")[0]
    return f"restore it, or add task={whole} redo={whole} to the run's command to make it again"


def left_by(path: Path) -> tuple[str, FileState] | None:
    """The finished stage that has left this file in its run's folder, and the file's state then."""
    for folder in path.parents[:2]:
        try:
            files = json.loads((folder / STAGES).read_bytes())["files"]
        except (OSError, ValueError, KeyError, TypeError):  # no run, one of an earlier version, or damaged itself
            continue
        name = str(path.relative_to(folder))
        return next(((stage, states[name]) for stage, states in files.items() if name in states), None)
    return None


def latest_run(runs: Path) -> Path:
    """The trained run below a folder whose stages changed last. Raises ValueError if there is none."""
    weights = [*runs.glob("*/weights.safetensors"), *runs.glob("*/*/weights.safetensors")]
    folders = {runs / path.relative_to(runs).parts[0] / STAGES for path in weights}
    trained = sorted(filter(Path.exists, folders), key=lambda path: path.stat().st_mtime_ns)
    if trained:
        return trained[-1].parent
    raise ValueError(f"run=latest: no run below runs={runs} is trained; give its folder, run=DIR/NAME")


def last_trained(run: Path) -> Path:
    """The weights that the last training of a run has left."""
    found = [run / stage / "weights.safetensors" for stage in TRAININGS]
    return next((path for path in found if path.is_file()), found[-1])


def weights_written(folder: str | Path) -> int:
    """When the newest weights in a folder were written, in ns; 0 without any.

    It stands for the weights where hashing them, tens of gigabytes, would take too long.
    """
    files = (path for kind in ("*.safetensors", "pytorch_model*.bin") for path in Path(folder).glob(kind))
    return max((path.stat().st_mtime_ns for path in files), default=0)


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{uuid4().hex[:8]}-{path.name}")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path, remedy: str) -> IO[str]:
    """Lock a folder against other processes, until the file is closed or the process ends.

    Raises ValueError, with the other's process id and the remedy, if it is locked.
    """
    # Opened without truncation: the pid in it is the holder's until the lock is ours.
    held = open(path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held until the caller closes it
    for _ in range(5):
        with suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.truncate(0)
            held.write(str(os.getpid()))
            held.flush()
            return held
        sleep(0.1)  # in_use() of another process holds it for a moment
    held.seek(0)
    holder = held.read().strip() or "unknown"
    held.close()
    raise ValueError(f"{path} is in use by process {holder}; wait until it ends, or {remedy}")


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


def is_rank_zero() -> bool:
    """False in the further processes of a distributed run, which launchers name by environment variables."""
    return all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
