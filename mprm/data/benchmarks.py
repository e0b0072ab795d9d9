"""Benchmarks whose solutions lie under keys of their own: a label per step, the first wrong step, or all wrong ones.

ProcessBench (arXiv 2412.06559) and PRMBench (arXiv 2501.03124) are such files, and need no code: conf/benchmark names
their keys.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import HEAD_BYTES, Unusable, check_json_lines, check_text, lines_of, read_each, value_at
from mprm.data.records import BenchmarkFile, Solution, id_and_source, images_and_question, step_label


@dataclass(kw_only=True)  # not frozen: OmegaConf could not fill it inside another one
class SolutionFields:
    """Where in a record its parts are: a key, or keys of objects in each other with dots between.

    Labels are one of three: `label` of every step (1 or true, -1 or false, 0 not judged), a key of the elements of
    `steps`, or of the record where these are texts; `first_wrong`, the index of the first wrong step from 0, -1 for
    none, behind which nothing is judged; `wrong`, the numbers of all wrong steps from 1.
    """

    id: str = "id"  # FILE_STEM:LINE from 0 where a record has none
    source: str = "source"  # the file's name where a record has none
    image: str = "image"
    question: str = "question"
    steps: str = "steps"
    step: str = "step"
    label: str | None = "label"
    first_wrong: str | None = None
    wrong: str | None = None


@dataclass(frozen=True, kw_only=True)
class JsonSolutions(BenchmarkFile):
    """A file, or a folder of *.jsonl and *.json, all of them one benchmark. A file has an object a line, or is one list
    of objects."""

    fields: SolutionFields = field(default_factory=SolutionFields)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [key for key in ("label", "first_wrong", "wrong") if getattr(self.fields, key) is not None]
        if len(named) != 1:
            raise ValueError(
                f"benchmark.fields names {' and '.join(named) or 'no labels'}; give one of label, first_wrong and "
                "wrong, and null for the others"
            )

    @property
    def wanted(self) -> str:  # type: ignore[override]
        named = asdict(self.fields)
        keys = [f"{key} ({part})" if key != part else key for part, key in named.items() if key is not None]
        return f"JSON with {', '.join(keys)} (benchmark.fields)"

    def records(self) -> Iterator[Any]:
        items = ((number, (file.stem, item)) for file in self.files() for number, item in _items(file))
        return read_each("benchmark", items, lambda number, item: self.whole(item[1], item[0], number))

    def files(self) -> list[Path]:
        """In name order. Raises ValueError when there is none."""
        if self.path is None or not Path(self.path).is_dir():
            return [self.file()]
        found = sorted(path for path in Path(self.path).iterdir() if path.suffix.lower() in (".jsonl", ".json"))
        if not found:
            raise ValueError(f"benchmark.path={self.path} holds no *.jsonl or *.json file; give {self.wanted}")
        return found

    @cached_property
    def image_folder(self) -> ImageFolder:
        return ImageFolder(self.images or self.files()[0].parent, "restore it, or give benchmark.images")

    def read(self, record: dict[str, Any], stem: str, number: int) -> Solution:
        keys = self.fields
        images, question = images_and_question(value_at(record, keys.image), value_at(record, keys.question))
        name, source = value_at(record, keys.id), value_at(record, keys.source)
        name, source = id_and_source(f"{stem}:{number}" if name is None else name, stem if source is None else source)
        given = value_at(record, keys.steps)
        if not isinstance(given, list) or not given:
            raise Unusable("no_steps")
        steps = [value_at(step, keys.step) if isinstance(step, dict) else step for step in given]
        if not all(isinstance(step, str) for step in steps):
            raise Unusable("bad_step")
        labels = self._labels(record, given)
        check_text(name, source, question, *images, *steps)
        return Solution(name, source, images, question, tuple(steps), labels)

    def _labels(self, record: dict[str, Any], steps: list[Any]) -> tuple[int, ...]:
        keys, n = self.fields, len(steps)
        if keys.first_wrong is not None:
            (first,) = _places([value_at(record, keys.first_wrong)], -1, n - 1)
            return (1,) * n if first == -1 else (1,) * first + (-1,) + (0,) * (n - first - 1)
        if keys.wrong is not None:
            given = value_at(record, keys.wrong)
            if not isinstance(given, list):
                raise Unusable("bad_label")
            wrong = _places(given, 1, n)
            return tuple(-1 if place in wrong else 1 for place in range(1, n + 1))
        key = str(keys.label)
        labels = value_at(record, key) if isinstance(steps[0], str) else [value_at(step, key) for step in steps]
        if not isinstance(labels, list) or len(labels) != n:
            raise Unusable("length_mismatch")
        return tuple((1 if label else -1) if isinstance(label, bool) else step_label(label) for label in labels)


def _places(values: list[Any], lowest: int, highest: int) -> list[int]:
    """Places of steps, each within the solution; or Unusable."""
    if not all(type(value) is int and lowest <= value <= highest for value in values):
        raise Unusable("bad_label")
    return values


def _items(file: Path) -> Iterable[tuple[int, Any]]:
    """The numbered lines of a file, or the objects of its list."""
    with open(check_json_lines(file, "benchmark.path"), "rb") as stream:
        if not stream.read(HEAD_BYTES).lstrip().startswith(b"["):
            return lines_of(file, "benchmark.path")
    try:
        return enumerate(json.loads(file.read_bytes()))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"benchmark.path: {file} is no JSON list ({reason}); download it again") from error
