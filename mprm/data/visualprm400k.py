"""Reader of VisualPRM400K-v1.1-Raw: a folder of JSON lines files, one per source, and the images they name."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mprm.data.conversations import from_conversation
from mprm.data.image_folder import ImageFolder, plain_path
from mprm.data.measurement import measurement, published_measurement
from mprm.data.records import excluded_lines, source_files
from mprm.data.rollouts import (
    LAST_KEY,
    UNIQUE_KEYS,
    Dropped,
    Rollout,
    Step,
    Unusable,
    check_text,
    image_names,
    json_object,
)

LEADING_IMAGES = re.compile(r"\A(<image>\s*)+")


class Record(NamedTuple):
    """A record in columns, one entry per step; `reason` is set when it is ranked but can not be trained on.

    images: the files, as paths from the folder of images; image_names: as they stand in the record.
    """

    images: tuple[str, ...]
    image_names: tuple[str, ...]
    question: str
    texts: list[str]
    scores: tuple[float | None, ...]
    correct: tuple[int | None, ...]
    total: tuple[int | None, ...]
    n_words: int
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class VisualPRM400K:
    """Rollouts with Monte-Carlo scores; records of other public layouts are recognised, see mprm.data.conversations.

    cleaning="strict": a rollout that can not be trained on is dropped before ranking. A step's score is its `score`, or
    num_mc_correct / num_mc_total where that is absent or null; a step with neither was never measured and has None.
    A number may be written as text. Scores outside [0, 1], impossible counts, a score that is not that of the counts
    (but for rounding to two decimals) and a key that is there twice drop the rollout.

    cleaning="published": as the published subset builder does. Scores are whatever `float` takes, counts are not
    looked at, and a rollout with one usable score is ranked even if it lacks an image, a step's text or another score:
    it takes a place in the top-k and is dropped afterwards. A missing question is the empty string.

    unsampled: what a step of 0 continuations is. Annotators stop behind the first step that no continuation leads right
    from: "implied" takes 0 of 0 behind a step with score 0 for a negative, and any other for no evidence; "negative"
    takes all for negatives, as the published work does; "ignore" none. The published cleaning takes the score that the
    record gives them, whatever this says.
    """

    root: str | None = None
    annotations: str | None = None
    images: str | None = None
    cleaning: str = "strict"
    unsampled: str = "implied"
    sources: list[str] | None = None
    exclude_sources: list[str] | None = None
    exclude: str | None = None

    def __post_init__(self) -> None:
        if self.cleaning not in ("strict", "published"):
            raise ValueError(f"dataset.cleaning={self.cleaning} is unknown; choose strict or published")
        if self.unsampled not in ("implied", "negative", "ignore"):
            raise ValueError(f"dataset.unsampled={self.unsampled} is unknown; choose implied, negative or ignore")

    def files(self) -> list[Path]:
        """Annotation files in name order, one per source, which is the file's stem.

        Raises:
            ValueError: a folder that was named is not there, or one of its files can not be used (source_files).
        """
        if self.annotations is None and self.root is None:
            raise ValueError(
                "dataset.root is not set; give the folder of annotations/ and images, or dataset.annotations=DIR"
            )
        if self.image_folder is not None and not Path(self.image_folder.root).is_dir():
            where = f"{self._images_key}={self.image_folder.root}"
            raise ValueError(f"{where} is not a folder; give the one that image paths start from")
        key, folder = "dataset.annotations", self.annotations
        if folder is None:
            key, folder = "dataset.root", f"{self.root}/annotations"
        if not Path(folder).is_dir():
            raise ValueError(f"{key}: {folder} is not a folder; give the one that holds the annotations as *.jsonl")
        return source_files(Path(folder), key, self.sources, self.exclude_sources)

    def excluded(self) -> dict[str, set[int]]:
        """Lines by source of the records that are not to be used, whatever is in them.

        Raises ValueError if the list of them can not be read.
        """
        return {} if self.exclude is None else excluded_lines(Path(self.exclude), "dataset.exclude")

    @cached_property
    def image_folder(self) -> ImageFolder | None:
        """Where images are looked for; None, and their files are not checked, when neither images nor root is set."""
        folder = self.images or self.root
        return None if folder is None else ImageFolder(folder)

    @property
    def _images_key(self) -> str:
        return "dataset.images" if self.images else "dataset.root"

    def image_path(self, image: str) -> Path:
        """The file of an image path.

        Raises:
            ValueError: no folder is set, or the file is not there.
        """
        if self.image_folder is None:
            raise ValueError("dataset.images is not set; give the folder that image paths start from")
        path = self.image_folder.path(image)
        if path is None:
            where = f"{self._images_key}={self.image_folder.root}"
            raise ValueError(f"image {image} is not under {where}; restore it, or select again")
        return path

    def rollout(self, source: str, line_number: int, line: bytes | str) -> Rollout | Dropped:
        """Parse and clean one record."""
        try:
            record = self.read(line, source)
        except Unusable as unusable:
            return Dropped(source, line_number, unusable.reason)
        if record.reason is not None:
            return Dropped(source, line_number, record.reason)
        columns = zip(record.texts, record.scores, record.correct, record.total, strict=True)
        return Rollout(source, line_number, record.images, record.question, tuple([Step(*step) for step in columns]))

    def read(self, line: bytes | str, source: str = "") -> Record:
        """Parse and clean one record into columns, which is what the signals of half a million records are made from.

        source: that of the file, which helps to find its images.

        Raises:
            Unusable: nothing can be made of it. A record that can not be trained on but is ranked all the same, as the
                published cleaning does, is returned with a `reason`.
        """
        published = self.cleaning == "published"
        fields = self.parse(line)
        names = image_names(fields.get("image"))
        question = _published_question(fields) if published else question_text(fields)
        raw_steps = fields.get("steps_with_score")
        if not isinstance(raw_steps, list) or not raw_steps:
            raise Unusable("no_steps")
        measure = published_measurement if published else measurement
        scores, correct, total = zip(*[measure(raw) for raw in raw_steps], strict=True)
        if 0 in total and not published:
            scores = self._with_unsampled(scores, total)
        texts = [text.strip() if isinstance(text := raw.get("step"), str) else "" for raw in raw_steps]
        joined = " ".join(texts)
        check_text(question, joined, *names)
        images, reason = self._found(names, source)
        reason = reason or self._defect(question, texts, scores)
        ranked = published and any(score is not None for score in scores)
        if reason is not None and not ranked:
            raise Unusable(reason)
        return Record(images, names, question, texts, scores, correct, total, _count_words(joined), reason)

    def parse(self, line: bytes | str) -> dict[str, Any]:
        """A record in the layout of VisualPRM400K-v1.1-Raw, whichever it is in; or Unusable."""
        fields = json_object(line, LAST_KEY if self.cleaning == "published" else UNIQUE_KEYS)
        return from_conversation(fields) if "conversations" in fields and "steps_with_score" not in fields else fields

    def reading(self) -> list[Any]:
        """The settings that what is read of a line depends on, images apart."""
        return [self.cleaning, self.unsampled]

    def _with_unsampled(
        self, scores: tuple[float | None, ...], total: tuple[int | None, ...]
    ) -> tuple[float | None, ...]:
        """The scores of a rollout with steps of 0 continuations."""
        negative, decided = self.unsampled == "negative", []
        for score, n in zip(scores, total, strict=True):
            if n == 0:
                score = 0.0 if negative else None
            elif score == 0:
                negative = self.unsampled != "ignore"
            decided.append(score)
        return tuple(decided)

    def _found(self, names: tuple[str, ...], source: str) -> tuple[tuple[str, ...], str | None]:
        """The image files of a record, or why it has none."""
        if not names or self.image_folder is None:
            return tuple(map(plain_path, names)), None if names else "no_image"
        try:
            return self.image_folder.names(names, source), None
        except Unusable as unusable:
            return names, unusable.reason

    def tried(self, line: bytes, source: str) -> str:
        """In words, where the first image that a record lacks was looked for."""
        assert self.image_folder is not None
        for name in image_names(self.parse(line).get("image")):
            if self.image_folder.find(name, source) is None:
                return self.image_folder.tried(name, source)
        raise AssertionError("no image is missing")

    def wanted(self) -> str:
        """The keys that a record should have."""
        return "image, question_orig or question, and steps_with_score"

    def _defect(self, question: str, texts: list[str], scores: tuple[float | None, ...]) -> str | None:
        """Why a record with images that could be read can not be trained on."""
        if not question and self.cleaning == "strict":
            return "no_question"
        if "" in texts:
            return "empty_step"
        unmeasured = scores.count(None)
        if unmeasured == len(scores):
            return "no_usable_score"
        if unmeasured and self.cleaning == "published":
            return "bad_score"
        return None


def _count_words(text: str) -> int:
    """Blanks and line breaks + 1: str.split is exact where white space is doubled, and five times slower."""
    return text.count(" ") + text.count("\n") + 1


def question_text(record: dict[str, Any]) -> str:
    """The question of a record, without the <image> that it may begin with; "" when there is none."""
    original = record.get("question_orig")
    if original is not None and not isinstance(original, str):
        return ""  # nothing else takes the place of what can not be read
    return _text(original) or LEADING_IMAGES.sub("", _text(record.get("question")))


def _published_question(record: dict[str, Any]) -> str:
    """Without `question_orig` the published builder keeps the <image> that `question` begins with."""
    return _text(record.get("question_orig", record.get("question")))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
