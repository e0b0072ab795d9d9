"""JSON lines that may be malformed: a record is used whole, or dropped for one reason that is counted.

Nothing is repaired or replaced. docs/formats.md lists the reasons.
"""

import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mprm.runs.artifacts import TEMPORARY

Item = TypeVar("Item")
Record = TypeVar("Record")

MAX_LINE_BYTES = 16 * 2**20
HEAD_BYTES = 2**16
UTF16 = (BOM_UTF16_LE, BOM_UTF16_BE, b"{\0", b"\0{")
SOURCE_FILE = re.compile(r".*\.jsonl(\.(gz|bz2|xz|zst|zip))?", re.IGNORECASE | re.DOTALL)
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


class Unusable(Exception):
    """Raised inside the readers: why a record is dropped, and the image at fault as it stands in the record."""

    def __init__(self, reason: str, image: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.image = image


@dataclass(frozen=True, slots=True)
class Dropped:
    source: str  # stem of the file
    line: int  # from 0, blank lines counted
    reason: str
    image: str = field(default="", compare=False)  # the one at fault, as it stands in the record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unusable("duplicate_key")
    return found


UNIQUE_KEYS = json.JSONDecoder(object_pairs_hook=_unique)
LAST_KEY = json.JSONDecoder()  # the last value of a key counts, as everywhere in Python


def json_object(line: bytes | str, decoder: json.JSONDecoder = UNIQUE_KEYS) -> dict[str, Any]:
    """Parse one line into an object, or raise Unusable."""
    if len(line) > MAX_LINE_BYTES:
        raise Unusable("line_too_long")
    try:
        text = (line.decode() if isinstance(line, bytes) else line).strip(" \t\r\n")
        record, end = decoder.raw_decode(text)  # json.loads without its checks of options: every microsecond counts
    except UnicodeDecodeError:
        raise Unusable("not_utf8") from None
    except (ValueError, RecursionError):
        raise Unusable("not_json") from None
    if end != len(text):
        raise Unusable("not_json")
    if not isinstance(record, dict):
        raise Unusable("not_an_object")
    return record


def value_at(record: Any, key: str) -> Any:
    """What an object holds under a key, which may be keys of objects in each other with dots between; None where there
    is nothing."""
    if isinstance(record, dict) and key in record:
        return record[key]
    for part in key.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record


def check_text(*texts: str) -> None:
    """Raise Unusable for text that UTF-8 cannot hold: JSON may spell half a surrogate pair."""
    text = "".join(texts)
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise Unusable("not_utf8") from None


def numbered_lines(stream: BinaryIO, end: int | None = None) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (number, byte offset, length in bytes, line) of every line from here on that begins before `end`.

    Numbers count from 0. Of a line longer than MAX_LINE_BYTES only the first MAX_LINE_BYTES + 1 bytes are held, which
    json_object then refuses; the length is that of the whole line, newline included. The byte order mark that a file
    may begin with belongs to no line.
    """
    number, offset = 0, stream.tell()
    while (end is None or offset < end) and (line := stream.readline(MAX_LINE_BYTES + 1)):
        length = len(line)
        if length > MAX_LINE_BYTES and not line.endswith(b"\n"):
            length += rest_of_line(stream)
        mark = len(BOM_UTF8) if offset == 0 and line.startswith(BOM_UTF8) else 0
        yield number, offset + mark, length - mark, line[mark:]
        number += 1
        offset += length


def is_blank(line: bytes) -> bool:
    """Is there nothing in the line? The end of a very long one is not known: it is a record."""
    return (line.isspace() or not line) and len(line) <= MAX_LINE_BYTES


def rest_of_line(stream: BinaryIO) -> int:
    """Read on to the end of the line without holding it; returns the number of bytes."""
    length = 0
    while part := stream.readline(2**20):
        length += len(part)
        if part.endswith(b"\n"):
            break
    return length


def read_json_lines(path: Path, key: str, read: Callable[[int, dict[str, Any]], Record]) -> Iterator[Record | Dropped]:
    """What `read` makes of the number and the object of every line that is not blank; a Dropped where it, or the line,
    is Unusable. Raises ValueError as check_json_lines."""
    return read_each(path.stem, lines_of(path, key), lambda number, line: read(number, json_object(line)))


def lines_of(path: Path, key: str) -> Iterator[tuple[int, bytes]]:
    """Number and content of every line that is not blank."""
    with open(check_json_lines(path, key), "rb") as stream:
        for number, _, _, line in numbered_lines(stream):
            if not is_blank(line):
                yield number, line


def read_each(
    source: str, items: Iterable[tuple[int, Item]], read: Callable[[int, Item], Record]
) -> Iterator[Record | Dropped]:
    """What `read` makes of every numbered item, or the reason why it is Unusable. An id that a record has is unique."""
    seen: set[str] = set()
    for number, item in items:
        try:
            record = read(number, item)
            name = getattr(record, "id", None)
            if name in seen:
                raise Unusable("duplicate_id")
        except Unusable as unusable:
            yield Dropped(source, number, unusable.reason, unusable.image)
        else:
            if name is not None:
                seen.add(name)
            yield record


def check_json_lines(path: Path, key: str) -> Path:
    """The path of a file of JSON lines whose first bytes were looked at; `key` of the configuration names it.

    Raises ValueError if it is no file, its name is not UTF-8, or it is compressed, UTF-16, or one line between CRs.
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
    if head.startswith(COMPRESSED):
        raise ValueError(f"{key}: {path} is compressed; unpack it, and give what was in it")
    if b"\r" in head.rstrip() and b"\n" not in head:
        raise ValueError(f"{key}: the lines of {path} end in CR alone; convert it: tr '\\r' '\\n'")
    return path


def source_files(
    folder: Path, key: str, only: Collection[str] | None = None, without: Collection[str] | None = None
) -> dict[str, Path]:
    """The *.jsonl files of a folder in name order, each a source named by its stem: `only` these, `without` those.

    Raises ValueError if there is none, one cannot be read (check_json_lines) or is compressed, two are the same source,
    or as chosen_sources().
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if SOURCE_FILE.fullmatch(path.name) and not path.name.startswith(TEMPORARY):
            files.setdefault(path.stem if path.suffix.lower() == ".jsonl" else Path(path.stem).stem, []).append(path)
    if not files:
        raise ValueError(f"{key}: {folder} holds no *.jsonl file; unpack the annotations there")
    chosen = chosen_sources(files, only, without)
    for source, paths in chosen.items():
        names = " and ".join(path.name for path in paths)
        if len(paths) > 1:
            raise ValueError(f"{key}: {names} in {folder} are the same source {source}; move one of them away")
        if paths[0].suffix.lower() != ".jsonl":
            raise ValueError(f"{key}: {paths[0]} is compressed and not read; unpack it, or move it out of the folder")
        check_json_lines(paths[0], key)
    return {source: paths[0] for source, paths in chosen.items()}


def chosen_sources(
    files: Mapping[str, Item], only: Collection[str] | None, without: Collection[str] | None
) -> dict[str, Item]:
    """Of what stands under the names of sources `only` these, `without` those.

    Raises ValueError if one is not there, or nothing is left.
    """
    for setting, names in (("sources", only), ("exclude_sources", without)):
        if unknown := sorted(set(names or ()).difference(files)):
            raise ValueError(f"dataset.{setting}: {unknown[0]} is not one of the sources {', '.join(files)}")
    chosen = {s: one for s, one in files.items() if (only is None or s in only) and s not in (without or ())}
    if not chosen:
        raise ValueError("dataset.sources and dataset.exclude_sources leave no source; leave one of them out")
    return chosen


def first_keys(path: Path) -> str:
    """The keys of the first record of a file, in words."""
    for number, line in lines_of(path, "path"):
        try:
            return f"line {number + 1} of {path} has the keys {', '.join(json_object(line))}"
        except Unusable as unusable:
            return f"line {number + 1} of {path} is unusable ({unusable.reason})"
    return f"{path} is empty"
