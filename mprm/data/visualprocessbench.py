"""Reader of VisualProcessBench: one JSON lines file of solutions whose steps people labelled."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mprm.data.rollouts import (
    Dropped,
    ImageFolder,
    Solution,
    Unusable,
    check_text,
    image_names,
    json_object,
    numbered_lines,
)


@dataclass(frozen=True, kw_only=True)
class VisualProcessBench:
    """Solutions of `path` (test.jsonl); their image paths start from `images`, by default the folder of `path`.

    Texts are given as they stand: placeholders such as <image1> are left to the prompt renderer. A solution is never
    shortened or repaired, so that a score is always over the steps that were labelled.
    """

    path: str | None = None
    images: str | None = None

    @cached_property
    def image_folder(self) -> ImageFolder:
        """Where images are looked for."""
        return ImageFolder(self.images or self._file().parent)

    def image_path(self, image: str) -> Path:
        """The file of an image path as it stands in a record; ValueError when it is not there."""
        path = self.image_folder.find(image)
        if path is None:
            raise ValueError(
                f"image {image} is not under {self.image_folder.root}; restore it, or give benchmark.images"
            )
        return path

    def solutions(self) -> Iterator[Solution | Dropped]:
        """Every record in file order, as a Solution or as the reason why it can not be one.

        Raises:
            ValueError: no file is set, or it is not there.
        """
        path = self._file()
        with open(path, "rb") as stream:
            for number, _, _, line in numbered_lines(stream):
                if line.isspace():
                    continue
                try:
                    yield self._solution(path.stem, number, line)
                except Unusable as unusable:
                    yield Dropped(path.stem, number, unusable.reason)

    def _file(self) -> Path:
        if self.path is None:
            raise ValueError("benchmark.path is not set; give the test.jsonl of VisualProcessBench")
        if not Path(self.path).is_file():
            raise ValueError(f"benchmark.path={self.path} is not a file; give the test.jsonl of VisualProcessBench")
        return Path(self.path)

    def _solution(self, stem: str, number: int, line: bytes) -> Solution:
        record = json_object(line)
        images = image_names(record.get("image"))
        if not images:
            raise Unusable("no_image")
        if not all(map(self.image_folder.find, images)):
            raise Unusable("missing_image_file")
        question, source = record.get("question"), record.get("data_source")
        if not isinstance(question, str) or not question.strip():
            raise Unusable("no_question")
        if not isinstance(source, str) or not source:
            raise Unusable("no_source")
        steps, labels = _steps_and_labels(record.get("response"))
        check_text(source, question, *images, *steps)
        return Solution(f"{stem}:{number}", source, images, question, steps, labels)


def _steps_and_labels(response: object) -> tuple[tuple[str, ...], tuple[int, ...]]:
    steps = response.get("steps") if isinstance(response, dict) else None
    labels = response.get("process_correctness") if isinstance(response, dict) else None
    if not isinstance(steps, list) or not steps:
        raise Unusable("no_steps")
    if not all(isinstance(step, str) for step in steps):
        raise Unusable("bad_step")
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise Unusable("length_mismatch")
    if not all(type(label) is int and label in (1, -1, 0) for label in labels):
        raise Unusable("bad_label")
    return tuple(steps), tuple(labels)
