"""Several data sets as one, whose sources are PART/SOURCE; and what the caches of any data set depend on."""

import json
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Dropped, Unusable, chosen_sources, read_json_lines
from mprm.data.rollouts import Dataset, Rollout
from mprm.runs.artifacts import file_hash

PACKAGE = Path(__file__).resolve().parents[1]
PLACES = {"root", "path", "annotations", "images", "exclude", "sources", "exclude_sources"}  # say where, not how
NAME = re.compile(r"[\w-]+")
KEY = re.compile(r"(?<![\w./-])dataset\.(?!parts\.)")  # in what a reader says of its own options


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Data sets side by side, of any readers, each with options of its own."""

    parts: dict[str, Any] = field(default_factory=dict)  # by name a component of the group `dataset`
    # How the rollouts that are kept are divided among the parts (mprm/selection/places.py); None: each its own share.
    weights: dict[str, float] | None = None
    sources: list[str] | None = None  # only these, each as PART/SOURCE
    exclude_sources: list[str] | None = None
    exclude: str | None = None  # JSON lines with source, PART/SOURCE, and line of records to drop
    wanted = "what the readers of dataset.parts want"

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if isinstance(part, dict):
                raise ValueError(f"dataset.parts.{name} has no reader; add +dataset@dataset.parts.{name}=NAME")
            if not is_dataclass(part):
                raise ValueError(
                    f"dataset.parts.{name}={part} is no data set; write +dataset@dataset.parts.{name}=NAME instead"
                )
            if isinstance(part, Mixture):
                raise ValueError(f"dataset.parts.{name} is a mixture, too; give its parts to dataset.parts")
            if not NAME.fullmatch(name):
                raise ValueError(f"dataset.parts: {name!r} is no name of a part; use letters, digits, - and _ alone")
        for name, weight in (self.weights or {}).items():
            if name not in self.parts:
                raise ValueError(
                    f"dataset.weights: {name} is not one of the parts {', '.join(self.parts) or '(none)'}; take its "
                    f"weight out, as by ~dataset.weights.{name}"
                )
            if not 0 < weight < float("inf"):
                raise ValueError(
                    f"dataset.weights.{name}={weight:g} is not positive; to do without the part, take it out of "
                    f"dataset.weights and add ~dataset.parts.{name}"
                )
        if missing := [name for name in self.parts if self.weights and name not in self.weights]:
            raise ValueError(f"dataset.weights has none for {missing[0]}; give every part one, or dataset.weights=null")

    @cached_property
    def image_folder(self) -> ImageFolder:
        return PartFolders({name: part.image_folder for name, part in self.parts.items()})

    def files(self) -> dict[str, Path]:
        if not self.parts:
            raise ValueError("dataset.parts is empty; add a data set, such as +dataset@dataset.parts.text=prm800k")
        found: dict[str, Path] = {}
        for name, part in self.parts.items():
            with said_of(name):
                found |= {f"{name}/{source}": file for source, file in part.files().items()}
        chosen = chosen_sources(found, self.sources, self.exclude_sources)
        if left := set(self.parts).difference(map(part_of, chosen)):
            raise ValueError(
                f"dataset.sources and dataset.exclude_sources leave no source of {min(left)}; add "
                f"~dataset.parts.{min(left)} to do without it"
            )
        return chosen

    def read(self, line: bytes, source: str) -> Rollout:
        part, _, own = source.partition("/")
        rollout: Rollout = self.parts[part].read(line, own)
        return rollout


class PartFolders(ImageFolder):
    """The image folders of all parts. The name of an image begins with the part whose folder it is in: with the first
    of those that have the same folder, and with the one whose folder holds the others. So one file has one name."""

    def __init__(self, folders: Mapping[str, ImageFolder]) -> None:
        super().__init__(None)
        self.folders = folders
        for folder in folders.values():
            self.modified |= folder.modified
            folder.modified = self.modified  # one list of what was listed
        roots = {name: Path(folder.root).resolve() for name, folder in folders.items() if folder.root is not None}
        self.begins = dict(zip(folders, folders, strict=True))
        for name, root in roots.items():
            above = [other for other in roots if root.is_relative_to(roots[other])]
            owner = min(above, key=lambda other: len(roots[other].parts))
            self.begins[name] = posixpath.normpath(posixpath.join(owner, root.relative_to(roots[owner])))

    @property
    def place(self) -> str | None:
        return json.dumps({name: folder.place for name, folder in self.folders.items()})

    def names(self, images: Sequence[str], source: str = "") -> tuple[str, ...]:
        part, _, own = source.partition("/")
        return tuple([f"{self.begins[part]}/{name}" for name in self.folders[part].names(images, own)])

    def path(self, image: str) -> Path:
        part, _, own = image.partition("/")
        with said_of(part):
            return self.folders[part].path(own)

    def tried(self, images: Sequence[str], source: str = "") -> str:
        part, _, own = source.partition("/")
        return self.folders[part].tried(images, own)


def part_of(source: str) -> str:
    """The part that a source of a mixture belongs to."""
    return source.partition("/")[0]


def parts_in(dataset: Dataset) -> dict[str, Dataset]:
    """The parts of a mixture by name; none of any other data set."""
    return dataset.parts if isinstance(dataset, Mixture) else {}


@contextmanager
def said_of(part: str) -> Iterator[None]:
    """A ValueError of the part's reader in the block names its options as the mixture has them."""
    try:
        yield
    except ValueError as error:
        raise ValueError(KEY.sub(f"dataset.parts.{part}.", str(error))) from error


def reading_of(dataset: Dataset) -> list[Any]:
    """What is made of a line depends on these besides the line and the images."""
    if isinstance(dataset, Mixture):
        return [{name: reading_of(part) for name, part in dataset.parts.items()}]
    settings = asdict(dataset)  # type: ignore[call-overload]  # a component is a dataclass
    how = {name: value for name, value in settings.items() if name not in PLACES}
    return [type(dataset).__qualname__, how, code_of(dataset)]


def code_of(component: object) -> str | None:
    """Hash of the file that a component from elsewhere is written in, of a mixture those of its parts; None for one of
    ours."""
    if isinstance(component, Mixture):
        return " ".join(filter(None, map(code_of, component.parts.values()))) or None
    file = sys.modules[type(component).__module__].__file__
    return None if file is None or Path(file).is_relative_to(PACKAGE) else file_hash(file)


def excluded_lines(dataset: Dataset) -> dict[str, set[int]]:
    """Lines by source of the records that dataset.exclude lists, of a mixture those of its parts, too.

    Raises ValueError if a line of a list names no record.
    """
    lines: dict[str, set[int]] = {}
    for place in read_json_lines(Path(dataset.exclude), "dataset.exclude", _place) if dataset.exclude else ():
        if isinstance(place, Dropped):
            raise ValueError(
                f"dataset.exclude: line {place.line} (from 0) of {dataset.exclude} names no record; write "
                '{"source": "NAME", "line": 3}, lines counted from 0'
            )
        lines.setdefault(place[0], set()).add(place[1])
    for name, part in parts_in(dataset).items():
        with said_of(name):
            of_part = excluded_lines(part)
        for source, numbers in of_part.items():
            lines.setdefault(f"{name}/{source}", set()).update(numbers)
    return lines


def _place(number: int, record: dict[str, Any]) -> tuple[str, int]:
    source, line = record.get("source"), record.get("line")
    if not isinstance(source, str) or type(line) is not int:
        raise Unusable("no_place")
    return source, line
