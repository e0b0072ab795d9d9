"""Records about images, or text alone, in a file of their own: benchmarks, questions and preferences."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Dropped, Unusable, check_text, first_keys, json_object, lines_of, read_each

# "<image>", "<image1>", "<image 1>" and the unclosed "<image7" of VisualProcessBench.
PLACEHOLDER = re.compile(r"<\s*image(?:\s*(\d+))?(?:\s*>)?", re.IGNORECASE)

Record = TypeVar("Record")
Given = TypeVar("Given", covariant=True)


class Records(Protocol[Given]):
    """A component of the groups benchmark (of Solution), questions (of Question), preferences or reward_benchmark (of
    Pair). Every record has a unique `id`, a `source` over which results are reported, and `images`."""

    @property
    def path(self) -> str | None:
        """The file that is read, which no output may replace; None when it is not one file."""

    @property
    def wanted(self) -> str:
        """What a record should have, for messages."""

    @property
    def image_folder(self) -> ImageFolder:
        """Where the images of the records are."""

    def records(self) -> Iterable[Given | Dropped]:
        """Every record in order, or why it cannot be used. Raises ValueError if there is nothing to read."""


@dataclass(frozen=True, kw_only=True)
class RecordFile:
    """Base of Records in one file of JSON lines: a subclass names its `group` and what is `wanted`, and reads one
    object of JSON."""

    group: ClassVar[str]  # of the configuration, for messages
    wanted: ClassVar[str]

    path: str | None = None
    images: str | None = None  # folder that image paths start from; None: the folder of `path`

    def read(self, record: dict[str, Any], stem: str, number: int) -> Any:
        """The record in line `number` of the file `stem`, its images as they stand there; or Unusable."""
        raise NotImplementedError

    def records(self) -> Iterator[Any]:
        stem = self.file().stem
        return read_each(stem, self.items(), lambda number, item: self.whole(item, stem, number))

    def whole(self, item: Any, stem: str, number: int) -> Any:
        """The record of one item with the files of its images; or Unusable."""
        fields = json_object(item) if isinstance(item, bytes) else item
        if not isinstance(fields, dict):
            raise Unusable("not_an_object")
        record = self.read(fields, stem, number)
        return replace(record, images=self.image_folder.names(record.images))

    def items(self) -> Iterable[tuple[int, Any]]:
        """Number and content of every record: a line, or what was read of another container."""
        return lines_of(self.file(), f"{self.group}.path")

    @cached_property
    def image_folder(self) -> ImageFolder:
        return ImageFolder(self.images or self.file().parent, f"restore it, or give {self.group}.images")

    def file(self) -> Path:
        """`path`; ValueError when it is not set or not there."""
        if self.path is None:
            raise ValueError(f"{self.group}.path is not set; give {self.wanted}")
        if not Path(self.path).is_file():
            raise ValueError(f"{self.group}.path={self.path} is not a file; give {self.wanted}")
        return Path(self.path)


def usable_records(reader: Records[Record], group: str) -> tuple[list[Record], dict[str, int]]:
    """The records that can be used, and the number of the others by reason. Raises ValueError if there are none."""
    records: list[Record] = []
    dropped = Counter[str]()
    missing = ""
    for record in reader.records():
        if isinstance(record, Dropped):
            dropped[record.reason] += 1
            missing = missing or (record.image if record.reason == "missing_image_file" else "")
        else:
            records.append(record)
    if not records:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common()) or "no line"
        read = None if reader.path is None else Path(reader.path)
        first = f"{first_keys(read)}; " if read is not None and read.is_file() else ""
        why = reader.image_folder.tried([missing]) if missing else f"{first}give {reader.wanted}"
        raise ValueError(f"{group}.path={reader.path} holds no usable record ({reasons}): {why}")
    return records, dict(dropped)


def images_and_question(images: object, question: object) -> tuple[tuple[str, ...], str]:
    """Both as a record has them; Unusable when there is no question or one is of the wrong type."""
    names = image_names(images)
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no_question")
    return names, question


def id_and_source(name: object, source: object) -> tuple[str, str]:
    """Both as a record has them; Unusable when one is missing or of the wrong type."""
    if type(name) not in (str, int) or name == "":
        raise Unusable("bad_id")
    if not isinstance(source, str) or not source:
        raise Unusable("no_source")
    return str(name), source


def image_names(value: object) -> tuple[str, ...]:
    """Image paths of a record, given as a string or a list of strings; () for None and []: there is nothing but text.
    Unusable when one is not a path."""
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise Unusable("no_image")
    return tuple(names)


def image_field(record: dict[str, Any]) -> object:
    """What a record says in `image`, or where that is empty in `images`."""
    image = record.get("image")
    return record.get("images") if image in (None, []) else image


@dataclass(frozen=True, slots=True)
class Solution:
    id: str
    source: str
    images: tuple[str, ...]
    question: str
    steps: tuple[str, ...]
    labels: tuple[int, ...]  # per step: 1 correct, -1 incorrect, 0 neutral (not evaluated)


class Benchmark(Records[Solution], Protocol):
    """A component of the group `benchmark`."""

    @property
    def error_rate(self) -> float | None:
        """Share of its labelled steps that are wrong, where it is known without these labels: it moves the threshold
        that is fitted on held-out rollouts, of which few are wrong. None: right and wrong steps weigh the same."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkFile(RecordFile):
    """Base of benchmarks in one file of JSON lines: RecordFile.read gives a Solution."""

    group = "benchmark"

    error_rate: float | None = None

    def __post_init__(self) -> None:
        if self.error_rate is not None and not 0 < self.error_rate < 1:
            raise ValueError(
                f"benchmark.error_rate={self.error_rate} is not between 0 and 1; give the share of wrong steps, such "
                "as 0.3, or null"
            )


@dataclass(frozen=True, kw_only=True)
class VisualProcessBench(BenchmarkFile):
    """Texts are given as they stand: placeholders such as <image1> are left to the prompt renderer. A solution is never
    shortened or repaired, so that a score is always over the steps that were labelled."""

    wanted = "the test.jsonl of VisualProcessBench"

    def read(self, record: dict[str, Any], stem: str, number: int) -> Solution:
        images, question = images_and_question(image_field(record), record.get("question"))
        name, source = id_and_source(f"{stem}:{number}", record.get("data_source"))
        response = found if isinstance(found := record.get("response"), dict) else {}
        steps, labels = response.get("steps"), response.get("process_correctness")
        if not isinstance(steps, list) or not steps:
            raise Unusable("no_steps")
        if not all(isinstance(step, str) for step in steps):
            raise Unusable("bad_step")
        if not isinstance(labels, list) or len(labels) != len(steps):
            raise Unusable("length_mismatch")
        numbers = tuple(map(step_label, labels))
        check_text(source, question, *images, *steps)
        return Solution(name, source, images, question, tuple(steps), numbers)


def step_label(value: object) -> int:
    """1, -1 or 0, which may be written as 1.0 or "1"; or Unusable."""
    try:
        label = float(value) if type(value) in (int, float, str) else None  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        label = None
    if label not in (1, -1, 0):
        raise Unusable("bad_label")
    return int(label)
