"""Repositories of the Hugging Face hub in place of paths, through huggingface_hub: its cache, tokens, resumed downloads
and offline mode.

ORG/NAME, ORG/NAME@REVISION (a branch, a tag or a commit), and of a data set also ORG/NAME@REVISION/FILE. RUNS/hub.json
notes the commit that an id stood for when it was first used: all runs there use it, wherever the branch has moved.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from mprm.runs.artifacts import is_rank_zero, read_json, write_json

# The keys that take an id, and the kind of its repository.
KINDS = {f"{group}.path": "model" for group in ("backbone", "model", "policy")} | {"dataset.root": "dataset"}
DATA = ("dataset", "benchmark", "questions", "preferences", "reward_benchmark")
KINDS |= {f"{group}.path": "dataset" for group in DATA}

ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.-]+))?(/[\w./ -]+)?", re.ASCII)
PART = re.compile(r"dataset\.parts\.[^.]+\.")  # what the keys of a part of a mixture begin with
PINNED = re.compile(r"[^@]+@[0-9a-f]{40}(/.*)?")
PICKLED = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.h5", "*.msgpack"]  # weights that are never read
ARCHIVE = re.compile(r".*\.(zip|tar|tgz|7z)([._]\w+)?", re.IGNORECASE)  # images.zip, and a part of one, images.zip_aa
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


class Repository(NamedTuple):
    key: str  # of the configuration, for messages
    value: str  # what it was given
    kind: str  # model or dataset
    name: str  # ORG/NAME
    revision: str | None
    file: str  # /FILE, or empty

    @property
    def page(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


def repository(key: str, value: object) -> Repository | None:
    """What a value names on the hub; None for what is on this disk, or has not the form of an id."""
    kind = KINDS.get(PART.sub("dataset.", key), "model")
    found = ID.fullmatch(value) if isinstance(value, str) and not Path(value).exists() else None
    if found is None or (found[3] and (kind == "model" or not key.endswith(".path"))):
        return None
    return Repository(key, found[0], kind, found[1], found[2], found[3] or "")


def pin(raw: DictConfig, values: dict[str, Any], groups: Collection[str], runs: Path) -> None:
    """Write the commit behind every id in these groups into a config and into its resolved values: ORG/NAME@COMMIT.
    Raises as explained()."""
    for key in KINDS:
        group, _, name = key.partition(".")
        node = values.get(group) if group in groups else None
        parts = node.get("parts") if isinstance(node, dict) else None
        named = parts.items() if isinstance(parts, dict) else ()
        nodes = {group: node} | {f"{group}.parts.{part}": one for part, one in named}
        for place, one in nodes.items():
            # chartworld writes what is not there
            if isinstance(one, dict) and not str(one.get("_target_")).startswith("mprm.chartworld."):
                found = repository(f"{place}.{name}", one.get(name))
                if found is not None and not PINNED.fullmatch(found.value):
                    one[name] = f"{found.name}@{_noted(found, runs)}{found.file}"
                    OmegaConf.update(raw, f"{place}.{name}", one[name])


def _noted(one: Repository, runs: Path) -> str:
    """The commit that RUNS/hub.json has for an id. The first process of a run asks the hub where it has none."""
    place, name = runs / "hub.json", f"{one.kind}s/{one.name}" + (f"@{one.revision}" if one.revision else "")
    remedy = "delete it, and ids are looked up anew"
    while not is_rank_zero():
        if place.exists() and name in (known := read_json(place, remedy)):
            return str(known[name])
        sleep(0.5)
    runs.mkdir(parents=True, exist_ok=True)
    with open(runs / ".hub.lock", "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_json(place, remedy) if place.exists() else {}
        if name not in known:
            known[name] = _commit(one)
            write_json(place, known)
            print(f"{one.key}={one.value} is commit {known[name]}, noted in {place}", flush=True)
    return str(known[name])


def _commit(one: Repository) -> str:
    from huggingface_hub import HfApi

    with explained(one):
        return HfApi().resolve_revision(one.name, repo_type=one.kind, revision=one.revision).resolved


@cache
def local(key: str, value: str, has_pictures: bool = False) -> str:
    """The path on this disk of what an id names, downloaded where it is not there: by the first process of a machine,
    for which the others wait. What is no id is a path as it stands.

    has_pictures: the pictures of a data set are elsewhere; else it is refused if it has them in archives.
    Raises as explained().
    """
    one = repository(key, value)
    if one is None:
        return value
    from huggingface_hub import constants, errors, get_cached_repo_tree, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    wanted: dict[str, Any] = {"repo_id": one.name, "repo_type": one.kind, "revision": _commit(one)}
    ignored = PICKLED if one.kind == "model" else None
    first = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    folder = None
    while folder is None:
        with suppress(errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError):
            get_cached_repo_tree(**wanted)  # without the listing a part would pass for the whole
            folder = Path(snapshot_download(**wanted, ignore_patterns=ignored, local_files_only=True))
        if folder is None and first:
            print(f"downloading {one.value} into {constants.HF_HUB_CACHE}", flush=True)
            if not sys.stderr.isatty():
                disable_progress_bars()
            with explained(one):
                folder = Path(snapshot_download(**wanted, ignore_patterns=ignored))
        elif folder is None:
            sleep(0.5)
    if one.kind == "dataset" and not has_pictures:
        _check_unpacked(one, folder)
    lines = sorted(folder.glob("*.jsonl"))
    if one.kind == "dataset" and one.key.endswith(".path") and not one.file and len(lines) == 1:
        return str(lines[0])
    return f"{folder}{one.file}"


def _check_unpacked(one: Repository, folder: Path) -> None:
    """Raises ValueError if a data set has archives and no picture beside them."""
    files = []
    for path in folder.rglob("*"):
        if path.suffix.lower() in PICTURES:
            return  # there may be hundreds of thousands
        files.append(path)
    if archives := sorted(path.name for path in files if ARCHIVE.fullmatch(path.name)):
        has_lines = any(path.suffix == ".jsonl" for path in files)
        given = f"{one.key.rpartition('.')[0]}.images=DIR, too" if has_lines else f"{one.key}=DIR instead"
        raise ValueError(
            f"{one.key}={one.value} keeps its pictures in archives; unpack {', '.join(archives)} of {folder} into "
            f"a folder DIR (first join the parts of one: cat X.zip_* > X.zip), and give {given}"
        )


def push(folder: Path, name: str, again: str) -> str:
    """Upload an exported folder to a model repository, which is made, private, where there is none. Returns its page.
    Raises as explained(); `again` is the command that does it once more."""
    from huggingface_hub import HfApi

    one = Repository("push_to", name, "model", name, None, "")
    with explained(one, f"{folder} is whole, and this uploads it: {again}"):
        HfApi().create_repo(name, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a reward model")
    return one.page


@contextmanager
def explained(one: Repository, after: str = "") -> Iterator[None]:
    """One line for what goes wrong with the hub in the block: ValueError for what it does not have or does not give,
    OSError for a fault of the network or the disk. after: what to do then, where it is not to repeat the command."""
    from huggingface_hub import constants, errors, get_token

    given, disk = f"{one.key}={one.value}", constants.HF_HUB_CACHE
    lost = f"{given}:" if after else f"{given} is no path here, and"
    who = "the token in use does not open it" if get_token() else "no token is set"
    login = "; ".join(["HF_TOKEN=... or hf auth login gives a token", *([after] if after else [])])
    after = after or "whole files are kept; repeat the command with a network, or give a folder"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ValueError(f"{given} is gated and {who}; accept its licence on {one.page}; {login}") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{given} has no revision {one.revision}; see {one.page}/commits") from error
    except errors.RepositoryNotFoundError as error:
        kind = "data set" if one.kind == "dataset" else "model"
        raise ValueError(f"{lost} the hub has no such {kind} or hides it ({who}); see {one.page}; {login}") from error
    except errors.HFValidationError as error:
        raise ValueError(f"{given} is no id of the hub, ORG/NAME ({' '.join(str(error).split())})") from error
    except Exception as error:  # of httpx, of the threads of an upload, of the disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise ValueError(f"{given}: the hub refuses it, {status} ({who}); see {one.page}; {login}") from error
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(f"{given} does not fit the disk of {disk}; HF_HOME=DIR moves it; {after}") from error
        reason = " ".join(str(error.__cause__ or error).split())[:120] or type(error).__name__
        if constants.HF_HUB_OFFLINE:
            reason = f"HF_HUB_OFFLINE is set, and {disk} does not hold it whole"
        raise OSError(f"{lost} the hub cannot be reached, or broke off ({reason}); {after}") from error
