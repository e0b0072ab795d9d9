"""Reader of your own rollouts: JSON lines whose keys are named in the configuration."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Unusable, check_json_lines
from mprm.data.visualprm400k import Annotations, source_files


@dataclass(kw_only=True)  # not frozen: OmegaConf could not fill it inside another one
class Fields:
    """Where in a record its parts are: a key, or keys of objects in each other with dots between.

    `step` to `n_total` are keys of an element of `steps`. Where the elements are texts, `score`, `n_correct` and
    `n_total` are keys of the record, and what is there are lists beside `steps`. A score may be true or false.
    """

    image: str = "image"
    question: str = "question"
    steps: str = "steps"
    step: str = "step"
    score: str = "score"
    n_correct: str = "n_correct"
    n_total: str = "n_total"


@dataclass(frozen=True, kw_only=True)
class JsonLines(Annotations):
    """Rollouts of a file or a folder of *.jsonl, cleaned as VisualPRM400K's."""

    path: str | None = None  # image paths start from its folder where `images` is not set
    fields: Fields = field(default_factory=Fields)

    @property
    def wanted(self) -> str:
        named = [f"{key} ({part})" if key != part else key for part, key in asdict(self.fields).items()]
        return f"{', '.join(named[:3])}, with {', '.join(named[3:])} of every step (dataset.fields)"

    def files(self) -> list[Path]:
        path = self._path()
        if not path.exists():
            raise ValueError(f"dataset.path={path} is not there; give JSON lines with {self.wanted}")
        if self.images is not None and not Path(self.images).is_dir():
            raise ValueError(f"dataset.images={self.images} is not a folder; give the one that image paths start from")
        if path.is_dir():
            return source_files(path, "dataset.path", self.sources, self.exclude_sources)
        if self.sources is not None or self.exclude_sources is not None:
            raise ValueError(
                f"dataset.path={path} is one source; leave dataset.sources and dataset.exclude_sources out"
            )
        return [check_json_lines(path, "dataset.path")]

    @cached_property
    def image_folder(self) -> ImageFolder:
        path = self._path()
        return ImageFolder(self.images or (path if path.is_dir() else path.parent), "restore it, or select again")

    def _path(self) -> Path:
        if self.path is None:
            raise ValueError(f"dataset.path is not set; give JSON lines with {self.wanted}")
        return Path(self.path)

    def layout(self, record: dict[str, Any]) -> dict[str, Any]:
        names, steps = self.fields, _at(record, self.fields.steps)
        measured = (names.score, names.n_correct, names.n_total)
        if isinstance(steps, list) and any(isinstance(step, str) for step in steps):
            steps = _rows(steps, [_at(record, key) for key in measured])
        elif isinstance(steps, list):
            steps = [
                _raw(*(_at(step, key) for key in (names.step, *measured))) if isinstance(step, dict) else step
                for step in steps
            ]
        return {"image": _at(record, names.image), "question": _at(record, names.question), "steps_with_score": steps}


def _at(record: Any, key: str) -> Any:
    if isinstance(record, dict) and key in record:
        return record[key]
    for part in key.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record


def _rows(texts: list[Any], columns: list[Any]) -> list[dict[str, Any]]:
    """Steps that are texts, and lists of their scores and counts."""
    lists = [[None] * len(texts) if column is None else column for column in columns]
    if not all(isinstance(column, list) and len(column) == len(texts) for column in lists):
        raise Unusable("length_mismatch")
    return [_raw(*row) for row in zip(texts, *lists, strict=True)]


def _raw(text: object, score: object, correct: object, total: object) -> dict[str, Any]:
    score = float(score) if isinstance(score, bool) else score
    return {"step": text, "score": score, "num_mc_correct": correct, "num_mc_total": total}
