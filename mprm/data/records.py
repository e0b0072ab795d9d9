"""Files of JSON lines, and the records in them that name images."""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

from mprm.data.image_folder import ImageFolder
from mprm.data.rollouts import Dropped, Unusable, is_blank, json_object, numbered_lines
from mprm.runs.artifacts import TEMPORARY

Read = TypeVar("Read")
SOURCE_FILE = re.compile(r".*\.jsonl(\.(gz|bz2|xz|zst|zip))?", re.IGNORECASE | re.DOTALL)
UTF16 = (BOM_UTF16_LE, BOM_UTF16_BE, b"{\0", b"\0{")
HEAD_BYTES = 2**16


def check_json_lines(path: Path, key: str) -> Path:
    """The path of a file of JSON lines, whose first bytes were looked at.

    Raises ValueError if it is no file, its name is no UTF-8, or it is compressed, UTF-16, or one line between CRs.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key}: the file name {path.name!a} is not UTF-8; rename it") from None
    if not path.is_file():
        raise ValueError(f"{key}: {path} is no file that can be read to its end; give a file, or move it away")
    with open(path, "rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head[:2] in UTF16:
        raise ValueError(f"{key}: {path} is written in UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")):
        raise ValueError(f"{key}: {path} is compressed; unpack it, and give what was in it")
    if b"\r" in head.rstrip() and b"\n" not in head:
        raise ValueError(f"{key}: the lines of {path} end in CR alone; convert it: tr '\\r' '\\n'")
    return path


def source_files(
    folder: Path, key: str, only: Collection[str] | None = None, without: Collection[str] | None = None
) -> list[Path]:
    """The *.jsonl files of a folder in name order, each a source, which is the file's stem.

    only, without: the sources to take, and those to leave out; None: all, and none.

    Raises:
        ValueError: there is none, one can not be read (check_json_lines) or is there compressed, two are the same
            source, or `only` or `without` name one that is not there.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if SOURCE_FILE.fullmatch(path.name) and not path.name.startswith(TEMPORARY):
            files.setdefault(path.stem if path.suffix.lower() == ".jsonl" else Path(path.stem).stem, []).append(path)
    if not files:
        raise ValueError(f"{key}: {folder} holds no *.jsonl file; unpack the annotations there")
    for setting, names in (("sources", only), ("exclude_sources", without)):
        if unknown := sorted(set(names or ()).difference(files)):
            raise ValueError(f"dataset.{setting}: {unknown[0]} is not one of the sources {', '.join(files)}")
    chosen = {s: paths for s, paths in files.items() if (only is None or s in only) and s not in (without or ())}
    if not chosen:
        raise ValueError("dataset.sources and dataset.exclude_sources leave no source; leave one of them out")
    for source, paths in chosen.items():
        names = " and ".join(path.name for path in paths)
        if len(paths) > 1:
            raise ValueError(f"{key}: {names} in {folder} are the same source {source}; move one of them away")
        if paths[0].suffix.lower() != ".jsonl":
            raise ValueError(f"{key}: {paths[0]} is compressed and not read; unpack it, or move it out of the folder")
        check_json_lines(paths[0], key)
    return [path for paths in chosen.values() for path in paths]


def excluded_lines(path: Path, key: str) -> dict[str, set[int]]:
    """Lines by source of a list of records: JSON lines with `source` and `line`, as dropped.jsonl and left_out.jsonl.

    Raises ValueError if the file can not be read (check_json_lines) or a line of it names no record.
    """
    lines: dict[str, set[int]] = {}
    with open(check_json_lines(path, key), "rb") as stream:
        for number, _, _, line in numbered_lines(stream):
            if is_blank(line):
                continue
            try:
                record = json_object(line)
            except Unusable:
                record = {}
            source, place = record.get("source"), record.get("line")
            if not isinstance(source, str) or type(place) is not int:
                raise ValueError(
                    f'{key}: line {number} (from 0) of {path} names no record; write {{"source": "NAME", "line": 3}}, '
                    "lines counted from 0"
                )
            lines.setdefault(source, set()).add(place)
    return lines


def first_keys(path: Path) -> str:
    """In words, what the first record of a file has: its keys."""
    with open(path, "rb") as stream:
        for number, _, _, line in numbered_lines(stream):
            if not is_blank(line):
                try:
                    return f"line {number + 1} of {path} has the keys {', '.join(json_object(line))}"
                except Unusable as unusable:
                    return f"line {number + 1} of {path} is unusable ({unusable.reason})"
    return f"{path} is empty"


@dataclass(frozen=True, kw_only=True)
class RecordFile:
    """Records of `path`; their image paths start from `images`, by default the folder of `path`."""

    GROUP: ClassVar[str]  # of the configuration, for messages
    WANTED: ClassVar[str]  # what to give as `path`

    path: str | None = None
    images: str | None = None

    @cached_property
    def image_folder(self) -> ImageFolder:
        """Where images are looked for."""
        return ImageFolder(self.images or self.file().parent)

    def image_path(self, image: str) -> Path:
        """The file of an image path; ValueError when it is not there."""
        path = self.image_folder.path(image)
        if path is None:
            raise ValueError(
                f"image {image} is not under {self.image_folder.root}; restore it, or give {self.GROUP}.images"
            )
        return path

    def file(self) -> Path:
        """`path`; ValueError when it is not set or not there."""
        if self.path is None:
            raise ValueError(f"{self.GROUP}.path is not set; give {self.WANTED}")
        if not Path(self.path).is_file():
            raise ValueError(f"{self.GROUP}.path={self.path} is not a file; give {self.WANTED}")
        return Path(self.path)

    def each(self, read: Callable[[str, int, bytes], Read]) -> Iterator[Read | Dropped]:
        """What `read` makes of every line that is not blank, given the file's stem, the line's number and the line; a
        Dropped where it raises Unusable."""
        path = check_json_lines(self.file(), f"{self.GROUP}.path")
        with open(path, "rb") as stream:
            for number, _, _, line in numbered_lines(stream):
                if is_blank(line):
                    continue
                try:
                    yield read(path.stem, number, line)
                except Unusable as unusable:
                    yield Dropped(path.stem, number, unusable.reason, unusable.image)

    def usable(self, read: Iterable[Read | Dropped]) -> tuple[list[Read], dict[str, int]]:
        """What can be used of what was read of the file, and the number of the others by reason.

        Raises ValueError when nothing can.
        """
        records: list[Read] = []
        dropped = Counter[str]()
        missing = ""
        for record in read:
            if isinstance(record, Dropped):
                dropped[record.reason] += 1
                missing = missing or (record.image if record.reason == "missing_image_file" else "")
            else:
                records.append(record)
        if not records:
            reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common()) or "no line"
            why = self.image_folder.tried(missing) if missing else f"{first_keys(self.file())}; give {self.WANTED}"
            raise ValueError(f"{self.GROUP}.path={self.path} holds no usable record ({reasons}): {why}")
        return records, dict(dropped)
