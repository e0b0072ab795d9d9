"""What can be trained on, found before anything is computed: pictures that decode, examples that are short enough.

CACHE/pictures.journal remembers the sound pictures by path, size and modification time of their file; the few others
are decoded again by every run, for what is wrong may lie outside the file. CACHE/lengths keeps what the first rank has
measured, for the others and for a run that goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import BadZipFile

import numpy as np

from mprm.batching.collate import Example, common_prefix
from mprm.batching.examples import image_fault, open_images
from mprm.batching.loading import loaded
from mprm.batching.order import Lengths
from mprm.runs.artifacts import atomic_file
from mprm.runs.journal import journal
from mprm.terminal import tracked

CHUNK = 256  # examples or pictures that a loader worker looks at at a time


class HasImages(Protocol):
    """Per example: ids; images, names whose files image_path gives; question, an integer, the same for the same images
    and question; origin, what a list names it by."""

    image_path: Callable[[Any], Path]

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def images(self) -> Sequence[Sequence[Any]]: ...

    @property
    def question(self) -> np.ndarray: ...

    def origin(self, position: int) -> dict[str, Any]: ...

    def layout(self, position: int) -> Example:
        """The example without its pixels. ValueError: an image is not there, or of a shape that is refused."""
        ...


class Fault(NamedTuple):
    """Why an example is left out."""

    reason: str  # missing_image_file, unreadable_image, refused_image or too_long
    image: Any  # or a list of them, where any may be meant
    message: str


@dataclass(frozen=True)
class Measured:
    """Examples that were looked at."""

    examples: Any  # they have `entropy`, (N,), and give those of a list of (position, weight)
    lengths: Lengths  # by position, 0 with a faulty image
    usable: np.ndarray  # positions of those that can be used
    left_out: dict[str, int]  # how many others there are, by reason


def measure(
    examples: HasImages, max_length: int, num_workers: int, cache: str | Path, kept: Path | None = None
) -> tuple[Measured, dict[int, Fault]]:
    """Look at every picture and example: what can be used, and why the others cannot, by position.

    kept: file of the lengths, named by all that they depend on besides the pictures."""
    broken = broken_pictures(examples, num_workers, Path(cache))
    faults: dict[int, Fault] = {}
    for position, names in enumerate(examples.images):
        if found := [broken[name] for name in names if name in broken]:
            faults[position] = found[0]
    refused: dict[int, str] = {}
    lengths = _lengths(examples, num_workers, kept, faults, refused)
    for position, message in refused.items():
        names = [str(name) for name in examples.images[position]]
        faults[position] = Fault("refused_image", names[0] if len(names) == 1 else names, message)
    for position in np.flatnonzero(lengths.tokens > max_length).tolist():
        tokens = lengths.tokens[position]
        faults[position] = Fault("too_long", None, f"{tokens} tokens, more than backbone.max_length={max_length}")
    reasons = {position: fault.reason for position, fault in faults.items()}
    return _without(examples, lengths, reasons), dict(sorted(faults.items()))


def measure_again(
    examples: HasImages, left_out: dict[int, str], num_workers: int, kept: Path | None = None
) -> Measured:
    """What measure() gave when it left these positions out, each for a reason. kept: as there.

    Raises ValueError if an image has gone since, or changed into one that cannot be laid out.
    """
    faulty = [position for position, reason in left_out.items() if reason != "too_long"]
    return _without(examples, _lengths(examples, num_workers, kept, faulty), left_out)


def _lengths(
    examples: HasImages,
    num_workers: int,
    kept: Path | None,
    left_out: Collection[int],
    refused: dict[int, str] | None = None,
) -> Lengths:
    """token_lengths() as the file keeps them, while no image changes; measured, and kept, where it does not."""
    if kept is None:
        return token_lengths(examples, num_workers, left_out, refused)
    names = dict.fromkeys(name for names in examples.images for name in names)
    states = hashlib.sha256("".join(_state(_path(examples, name)) for name in names).encode()).hexdigest()
    with suppress(OSError, ValueError, KeyError, BadZipFile), np.load(kept) as found:  # not there, or damaged
        if str(found["states"]) == states:
            if refused is not None:
                refused |= {int(position): why for position, why in json.loads(str(found["refused"])).items()}
            return Lengths(found["tokens"], found["shared"], examples.question)
    lengths = token_lengths(examples, num_workers, left_out, refused)
    with atomic_file(kept) as temporary, open(temporary, "wb") as file:
        told = np.array(json.dumps(refused or {}))
        np.savez(file, tokens=lengths.tokens, shared=lengths.shared, states=np.array(states), refused=told)
    return lengths


def _path(examples: HasImages, name: Any) -> Path:
    try:
        return examples.image_path(name)
    except ValueError:  # it is not there, which will be said
        return Path(str(name))


def _without(examples: HasImages, lengths: Lengths, left_out: dict[int, str]) -> Measured:
    usable = np.setdiff1d(np.arange(len(lengths)), list(left_out))
    return Measured(examples, lengths, usable, dict(Counter(left_out.values()).most_common()))


def token_lengths(
    examples: HasImages, num_workers: int, left_out: Collection[int] = (), refused: dict[int, str] | None = None
) -> Lengths:
    """Lengths by position, 0 of those left out; `shared` is over the examples of a question that are in `examples`.

    refused: filled with why some cannot be laid out. Without it that raises ValueError: an image file is missing, its
    header is broken or its shape refused.
    """
    question = examples.question
    chosen = np.setdiff1d(np.arange(len(question)), list(left_out))
    by_question = chosen[np.argsort(question[chosen], kind="stable")]
    borders = np.flatnonzero(np.diff(question[by_question])) + 1
    chunks = np.split(by_question, borders[np.diff(borders // CHUNK, prepend=0) > 0])
    measured = np.zeros((2, len(question)), dtype=np.int64)
    faults: dict[int, str] = {} if refused is None else refused
    found = _in_workers(partial(_laid_out, examples), chunks, num_workers, "reading lengths")
    for chunk, (lengths, faults_of_chunk) in zip(chunks, found, strict=True):
        measured[:, chunk] = lengths
        faults |= faults_of_chunk
    if faults and refused is None:
        raise ValueError(faults[min(faults)])
    return Lengths(tokens=measured[0], shared=measured[1], question=question)


def _laid_out(examples: HasImages, chunk: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Tokens and shared tokens, (2, examples), of a chunk of whole questions; and by position why some have none."""
    groups: dict[int | None, list[tuple[int, Any]]] = {}
    refused = {}
    for place, position in enumerate(chunk.tolist()):
        try:
            example = examples.layout(position)
        except ValueError as error:
            refused[position] = _line(error)
        else:
            groups.setdefault(example.group, []).append((place, example.input_ids))
    lengths = np.zeros((2, len(chunk)), dtype=np.int64)
    for members in groups.values():
        places, ids = zip(*members, strict=True)
        lengths[0, list(places)] = [len(tokens) for tokens in ids]
        lengths[1, list(places)] = common_prefix(ids)
    return lengths, refused


def broken_pictures(examples: Any, num_workers: int, cache: Path) -> dict[Any, Fault]:
    """What is wrong with pictures, by name. examples: with `images` and `image_path`."""
    broken: dict[Any, Fault] = {}
    paths: dict[Any, Path] = {}
    for name in dict.fromkeys(name for names in examples.images for name in names):
        try:
            paths[name] = examples.image_path(name)
        except ValueError as error:
            broken[name] = Fault(image_fault(error), str(name), str(error))
    with journal(cache / "pictures", [], cache_of="list of sound pictures") as kept:
        waiting = [(name, path) for name, path in paths.items() if _state(path) not in kept.done]
        chunks = [waiting[start : start + CHUNK] for start in range(0, len(waiting), CHUNK)]
        for states, faults in _in_workers(_decoded, chunks, num_workers, "reading pictures"):
            kept.add({state: 0 for state in states if state not in kept.done})  # a file may have two names
            broken |= faults
    return broken


def _state(path: Path) -> str:
    """Stands for the content of a file; empty if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return ascii((os.path.abspath(path), status.st_size, status.st_mtime_ns))


def _decoded(pictures: Sequence[tuple[Any, Path]]) -> tuple[list[str], dict[Any, Fault]]:
    """The states of the sound files, taken before they were read, and by name what is wrong with the others."""
    sound, faults = [], {}
    for name, path in pictures:
        state = _state(path)
        try:
            open_images([path])
            sound.append(state)
        except ValueError as error:
            faults[name] = Fault(image_fault(error), str(path), _line(error))
    return sound, faults


def _line(error: ValueError) -> str:
    return " ".join(str(error).split())


def _in_workers(look: Callable[[Any], Any], chunks: Sequence[Any], num_workers: int, description: str) -> Iterator[Any]:
    """What loader workers find in every chunk."""
    return tracked(loaded(chunks, look, num_workers), len(chunks), description)
