"""Types that all readers share, and the reading of JSON lines that may be malformed.

A record is either used whole or dropped with one reason; nothing is repaired or replaced. Reasons:

    line_too_long       longer than MAX_LINE_BYTES
    not_utf8            bytes that are no UTF-8, or text that can not be written as UTF-8 (half a surrogate pair)
    not_json            cut off or otherwise unparsable
    not_an_object       JSON, but no object
    duplicate_key       a key that an object has twice
    no_image            no image path
    excluded            in the list of dataset.exclude
    missing_image_file  an image path without a file
    image_outside       an image path that leads out of the folder of images: .., an absolute path, a URL
    no_question         no question text; preferences: no prompt
    no_steps            no list of steps, or an empty one
    bad_step            a step of the wrong type
    empty_step          a step without text
    bad_counts          num_mc_correct and num_mc_total are no whole numbers with 0 <= correct <= total
    bad_score           a score that is no finite number in [0, 1]
    score_contradicts_counts  a score that is not num_mc_correct / num_mc_total
    no_usable_score     no step has a score
    no_source           benchmark: no data_source; questions and preferences: one that is no text
    no_answer           questions and preferences: no answer, or neither text nor a number
    bad_id              questions and preferences: an id that is neither text nor an integer
    duplicate_id        questions and preferences: an earlier record has the id
    bad_label           benchmark: a step label other than 1, -1, 0; conversations: one other than + and -;
                        preferences: a label other than a, b, a tie, or flipped is no boolean
    length_mismatch     not as many labels, scores or counts as steps
    bad_conversation    turns that do not alternate, or no question or no mark where one belongs
    same_answers        preferences: both answers are the same
    tie                 preferences: neither answer is better
    bad_trace           preferences: a trace that is blank or no text
"""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import xxhash

MAX_LINE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `score` is the Monte-Carlo score in [0, 1], None when it was never measured; K of N continuations."""

    text: str
    score: float | None
    n_correct: int | None
    n_total: int | None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One annotated solution. `line` counts the lines of its file from 0, blank ones included."""

    source: str
    line: int
    images: tuple[str, ...]
    question: str
    steps: tuple[Step, ...]

    @property
    def id(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that can not be used, and why. image: the one that is missing or outside, as it stands in the record."""

    source: str
    line: int
    reason: str
    image: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Solution:
    """One benchmark solution with a label per step: 1 correct, -1 incorrect, 0 neutral (not evaluated)."""

    id: str
    source: str
    images: tuple[str, ...]
    question: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]


class Unusable(Exception):
    """Raised inside the readers with the reason for which a record is dropped, and the image that is at fault."""

    def __init__(self, reason: str, image: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.image = image


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unusable("duplicate_key")
    return found


UNIQUE_KEYS = json.JSONDecoder(object_pairs_hook=_object)
LAST_KEY = json.JSONDecoder()  # of a key that is there twice the last value counts, as everywhere in Python


def numbered_lines(stream: BinaryIO, end: int | None = None) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (number, byte offset, length in bytes, line) of every line from here on that begins before `end`.

    Numbers count from 0. Of a line longer than MAX_LINE_BYTES only the first MAX_LINE_BYTES + 1 bytes are held, which
    `json_object` then refuses; the length is that of the whole line, newline included. The byte order mark that a file
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
    """Is there nothing in the line? Of a very long one the end is not known, which is no blank line but a record."""
    return (line.isspace() or not line) and len(line) <= MAX_LINE_BYTES


def rest_of_line(stream: BinaryIO) -> int:
    """Read on to the end of the line without holding it; returns how many bytes that were."""
    length = 0
    while part := stream.readline(2**20):
        length += len(part)
        if part.endswith(b"\n"):
            break
    return length


def json_object(line: bytes | str, decoder: json.JSONDecoder = UNIQUE_KEYS) -> dict[str, Any]:
    """Parse one line into an object, or raise Unusable."""
    if len(line) > MAX_LINE_BYTES:
        raise Unusable("line_too_long")
    try:
        text = (line.decode() if isinstance(line, bytes) else line).strip(" \t\r\n")
        record, end = decoder.raw_decode(
            text
        )  # json.loads without its checks of options: every microsecond counts here
    except UnicodeDecodeError:
        raise Unusable("not_utf8") from None
    except (ValueError, RecursionError):
        raise Unusable("not_json") from None
    if end != len(text):
        raise Unusable("not_json")
    if not isinstance(record, dict):
        raise Unusable("not_an_object")
    return record


def image_names(value: object) -> tuple[str, ...]:
    """Image paths of a record, given as a string or a list of strings; () when there is none or one is not a path."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value):
        return tuple(value)
    return ()


def check_text(*texts: str) -> None:
    """Raise Unusable for text that UTF-8 can not hold: JSON may spell half a surrogate pair."""
    text = "".join(texts)
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise Unusable("not_utf8") from None


def question_hash(question: str, images: tuple[str, ...] | list[str]) -> int:
    """Signed 64-bit hash of question and image files, as paths from the folder of images: rollouts that share it share
    both, and the same folder gives the same hash on every machine."""
    digest = hashlib.blake2b("\0".join((question, *images)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def record_hash(line: bytes) -> int:
    """Signed 64-bit hash of a record as it stands in its file, the same on every machine."""
    return int.from_bytes(xxhash.xxh3_64_digest(line), "little", signed=True)  # a sixth of the scan with blake2b
