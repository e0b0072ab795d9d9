"""Rollouts in a file of JSON lines, or in a folder of them; and those whose steps have labels that nothing counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import check_json_lines, json_object, source_files
from mprm.data.rollouts import Rollout


@dataclass(frozen=True, kw_only=True)
class RolloutFiles:
    """Base of readers of one file, or of a folder of *.jsonl, each of them a source."""

    wanted: ClassVar[str]  # what a record should have, for messages

    path: str | None = None  # image paths start from its folder where `images` is not set
    images: str | None = None  # folder that image paths start from
    sources: list[str] | None = None  # only these files of a folder
    exclude_sources: list[str] | None = None
    exclude: str | None = None  # JSON lines with source and line of records to drop

    def files(self) -> dict[str, Path]:
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
        return {path.stem: check_json_lines(path, "dataset.path")}

    @cached_property
    def image_folder(self) -> ImageFolder:
        path = self._path()
        return ImageFolder(self.images or (path if path.is_dir() else path.parent), "restore it, or select again")

    def _path(self) -> Path:
        if self.path is None:
            raise ValueError(f"dataset.path is not set; give JSON lines with {self.wanted}")
        return Path(self.path)


class Labelled(NamedTuple):
    """What is read of a record that names no image."""

    question: str
    steps: Sequence[str]
    scores: Sequence[float | None]  # 1 right, 0 wrong, None no label


@dataclass(frozen=True, kw_only=True)
class LabelledFiles(RolloutFiles):
    """Base of readers of text rollouts whose steps have a label of right or wrong, and no counts: the reliability R of
    such a rollout is 1 wherever BIS looks at it."""

    final_step: str = "keep"  # drop: without the last step, which states the answer

    def __post_init__(self) -> None:
        if self.final_step not in ("keep", "drop"):
            raise ValueError(f"dataset.final_step={self.final_step} is unknown; choose keep or drop")

    def labelled(self, record: dict[str, Any]) -> Labelled:
        """Question, steps and scores of a record; or Unusable."""
        raise NotImplementedError

    def read(self, line: bytes, source: str) -> Rollout:
        question, steps, scores = self.labelled(json_object(line))
        if self.final_step == "drop":
            steps, scores = steps[:-1], scores[:-1]
        return Rollout((), question, steps, scores)
