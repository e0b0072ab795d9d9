"""Reader of VisualPRM400K-v1.1-Raw: a folder of JSON lines files, one per source, and the images they name."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mprm.data.rollouts import Dropped, ImageFolder, Rollout, Step, Unusable, check_text, image_names, json_object

LEADING_IMAGES = re.compile(r"\A(<image>\s*)+")
MAX_COUNT = 2**31 - 1

Measurement = tuple[float | None, int | None, int | None]  # score, num_mc_correct, num_mc_total


class Record(NamedTuple):
    """A record in columns, one entry per step; `reason` is set when it is ranked but can not be trained on."""

    images: tuple[str, ...]
    question: str
    texts: list[str]
    scores: tuple[float | None, ...]
    correct: tuple[int | None, ...]
    total: tuple[int | None, ...]
    n_words: int
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class VisualPRM400K:
    """Rollouts with Monte-Carlo scores.

    cleaning="strict": a rollout that can not be trained on is dropped before ranking. A step's score is its `score`, or
    num_mc_correct / num_mc_total where that is absent or null; a step with neither was never measured and has None.
    Scores of another type or outside [0, 1], and impossible counts, drop the rollout.

    cleaning="published": as the published subset builder does. Scores are whatever `float` takes, counts are not
    looked at, and a rollout with one usable score is ranked even if it lacks an image, a step's text or another score:
    it takes a place in the top-k and is dropped afterwards. A missing question is the empty string.

    unsampled: steps with num_mc_total = 0 are no evidence ("ignore") or count as wrong ("negative"). The published
    cleaning takes the score that the record gives them, whatever this says.
    """

    root: str | None = None
    annotations: str | None = None
    images: str | None = None
    cleaning: str = "strict"
    unsampled: str = "ignore"

    def __post_init__(self) -> None:
        if self.cleaning not in ("strict", "published"):
            raise ValueError(f"dataset.cleaning={self.cleaning} is unknown; choose strict or published")
        if self.unsampled not in ("ignore", "negative"):
            raise ValueError(f"dataset.unsampled={self.unsampled} is unknown; choose ignore or negative")

    def files(self) -> list[Path]:
        """Annotation files in name order, one per source, which is the file's stem.

        Raises:
            ValueError: a folder that was named is not there, or holds no *.jsonl.
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
        files = sorted(Path(folder).glob("*.jsonl"))
        if not files:
            raise ValueError(f"{key}: {folder} holds no *.jsonl file; unpack the annotations there")
        return files

    @cached_property
    def image_folder(self) -> ImageFolder | None:
        """Where images are looked for; None, and their files are not checked, when neither images nor root is set."""
        folder = self.images or self.root
        return None if folder is None else ImageFolder(folder)

    @property
    def _images_key(self) -> str:
        return "dataset.images" if self.images else "dataset.root"

    def image_path(self, image: str) -> Path:
        """The file of an image path as it stands in a record.

        Raises:
            ValueError: no folder is set, or the file is not there.
        """
        if self.image_folder is None:
            raise ValueError("dataset.images is not set; give the folder that image paths start from")
        path = self.image_folder.find(image)
        if path is None:
            where = f"{self._images_key}={self.image_folder.root}"
            raise ValueError(f"image {image} is not under {where}; restore it, or select again")
        return path

    def rollout(self, source: str, line_number: int, line: bytes | str) -> Rollout | Dropped:
        """Parse and clean one record."""
        try:
            record = self.read(line)
        except Unusable as unusable:
            return Dropped(source, line_number, unusable.reason)
        if record.reason is not None:
            return Dropped(source, line_number, record.reason)
        columns = zip(record.texts, record.scores, record.correct, record.total, strict=True)
        return Rollout(source, line_number, record.images, record.question, tuple([Step(*step) for step in columns]))

    def read(self, line: bytes | str) -> Record:
        """Parse and clean one record into columns, which is what the signals of half a million records are made from.

        Raises:
            Unusable: nothing can be made of it. A record that can not be trained on but is ranked all the same, as the
                published cleaning does, is returned with a `reason`.
        """
        published = self.cleaning == "published"
        fields = json_object(line)
        images = image_names(fields.get("image"))
        question = _published_question(fields) if published else _question(fields)
        raw_steps = fields.get("steps_with_score")
        if not isinstance(raw_steps, list) or not raw_steps:
            raise Unusable("no_steps")
        measure = _published_measurement if published else self._measurement
        scores, correct, total = zip(*[measure(raw) for raw in raw_steps], strict=True)
        texts = [text.strip() if isinstance(text := raw.get("step"), str) else "" for raw in raw_steps]
        joined = " ".join(texts)
        check_text(question, joined, *images)
        reason = self._defect(images, question, texts, scores)
        ranked = published and any(score is not None for score in scores)
        if reason is not None and not ranked:
            raise Unusable(reason)
        return Record(images, question, texts, scores, correct, total, _count_words(joined), reason)

    def _measurement(self, raw: object) -> Measurement:
        """Score, K and N of a step under strict cleaning, or Unusable."""
        if not isinstance(raw, dict):
            raise Unusable("bad_step")
        score, correct, total = raw.get("score"), raw.get("num_mc_correct"), raw.get("num_mc_total")
        if type(correct) is not int or type(total) is not int or not 0 <= correct <= total <= MAX_COUNT:
            correct, total = _odd_counts(correct, total)
        if total == 0:  # before the score is looked at: 0 of 0 may well be written as NaN
            score = 0.0 if self.unsampled == "negative" else None
        elif score is None and total is not None and correct is not None:
            score = correct / total
        if score is None:
            return None, correct, total
        if type(score) not in (float, int) or not 0 <= score <= 1:
            raise Unusable("bad_score")
        return float(score), correct, total

    def _defect(
        self, images: tuple[str, ...], question: str, texts: list[str], scores: tuple[float | None, ...]
    ) -> str | None:
        """Why a record that could be read can not be trained on."""
        if not images:
            return "no_image"
        if self.image_folder is not None and not all(map(self.image_folder.find, images)):
            return "missing_image_file"
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


def _odd_counts(correct: object, total: object) -> tuple[int | None, int | None]:
    """K and N that are not plainly 0 <= K <= N: (0, 0) for a step without continuations, None twice for no counts."""
    if correct is None and total == 0:
        return 0, 0
    if correct is None or total is None:
        return None, None
    raise Unusable("bad_counts")


def _published_measurement(raw: object) -> Measurement:
    if not isinstance(raw, dict):
        raise Unusable("bad_step")
    try:
        score = float(raw.get("score"))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    correct, total = raw.get("num_mc_correct"), raw.get("num_mc_total")
    if type(correct) is not int or type(total) is not int or not 0 <= correct <= total <= MAX_COUNT:
        correct, total = None, None
    return score if 0 <= score <= 1 else None, correct, total


def _question(record: dict[str, Any]) -> str:
    return _text(record.get("question_orig")) or LEADING_IMAGES.sub("", _text(record.get("question")))


def _published_question(record: dict[str, Any]) -> str:
    """Without `question_orig` the published builder keeps the <image> that `question` begins with."""
    return _text(record.get("question_orig", record.get("question")))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
