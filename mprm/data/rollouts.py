"""Annotated rollouts: what a data set gives, and what makes a rollout fit to train on."""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import xxhash

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Unusable, check_text

NUMBER = re.compile(r"[0-9.eE+-]+")
MAX_COUNT = 2**31 - 1
ROUNDING = 0.005  # a score may be written with two decimals

Measurement = tuple[float | None, int | None, int | None]  # score, num_mc_correct, num_mc_total


class Rollout(NamedTuple):
    """One annotated solution as it stands in its record: one step text, score and pair of counts per step."""

    images: Sequence[str]  # paths that start from the folder of images; empty: there is nothing but text
    question: str
    steps: Sequence[str]
    scores: Sequence[float | None]  # P(correct) in [0, 1]; None: never measured, no evidence for either label
    n_correct: Sequence[int | None] = ()  # K of N continuations that are right; empty: nothing was counted
    n_total: Sequence[int | None] = ()
    # As the published subset builder cleans: a rollout with one score is ranked even if it cannot be trained on.
    published: bool = False


class Dataset(Protocol):
    """A component of the group `dataset`: text files of annotations, one record a line."""

    @property
    def image_folder(self) -> ImageFolder:
        """Where images are looked for; ImageFolder(None) does not look for the files."""

    @property
    def exclude(self) -> str | None:
        """JSON lines with `source` and `line` of records that are not used, such as a left_out.jsonl; None: all are."""

    @property
    def wanted(self) -> str:
        """What a record should have, for messages."""

    def files(self) -> dict[str, Path]:
        """The annotation files by the name of their source. Raises ValueError if one cannot be used."""

    def read(self, line: bytes, source: str) -> Rollout:
        """The rollout of a line of that source; raises Unusable(reason) for a line that holds none."""


class CheckedRollout(NamedTuple):
    rollout: Rollout
    images: Sequence[str]  # the files, as paths from the folder of images
    n_words: int  # blanks and line breaks + 1: str.split is exact for doubled white space, and five times slower
    fault: str | None  # why it cannot be trained on although it is ranked, under published cleaning


def read_rollout(dataset: Dataset, line: bytes, source: str) -> CheckedRollout:
    """Read one line and look whether it can be trained on. Raises Unusable if not, unless it is ranked all the same."""
    rollout = dataset.read(line, source)
    joined = " ".join(rollout.steps)
    check_text(rollout.question, joined, *rollout.images)
    images, fault = rollout.images, None
    try:
        images = dataset.image_folder.names(rollout.images, source)
    except Unusable as unusable:
        fault = unusable.reason
    fault = fault or _fault(rollout)
    if fault is not None and not (rollout.published and any(score is not None for score in rollout.scores)):
        raise Unusable(fault)
    return CheckedRollout(rollout, images, joined.count(" ") + joined.count("\n") + 1, fault)


def _fault(rollout: Rollout) -> str | None:
    if not rollout.images and rollout.published:
        return "no_image"
    if not rollout.question and not rollout.published:
        return "no_question"
    if not rollout.steps:
        return "no_steps"
    if "" in rollout.steps:
        return "empty_step"
    if len(rollout.scores) != len(rollout.steps):
        return "length_mismatch"
    measured = scored(rollout)
    if not measured:
        return "no_usable_score"
    unmeasured = len(measured) < len(rollout.scores)
    return None if 0 <= min(measured) <= max(measured) <= 1 and not (unmeasured and rollout.published) else "bad_score"


def scored(rollout: Rollout) -> Sequence[float]:
    """The scores of the steps that have one."""
    scores = rollout.scores
    return [score for score in scores if score is not None] if None in scores else scores  # type: ignore[return-value]


def question_hash(question: str, images: Sequence[str]) -> int:
    """Signed 64-bit hash of question and image files, as paths from the folder of images: rollouts that share it share
    both, and the same folder gives the same hash on every machine."""
    digest = hashlib.blake2b("\0".join((question, *images)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def record_hash(line: bytes) -> int:
    """Signed 64-bit hash of a record as it stands in its file, the same on every machine."""
    return int.from_bytes(xxhash.xxh3_64_digest(line), "little", signed=True)  # a sixth of the scan with blake2b


def measurement(raw: object) -> Measurement:
    """Score, K and N of a step under strict cleaning, no score for 0 of 0; or Unusable."""
    if not isinstance(raw, dict):
        raise Unusable("bad_step")
    score, correct, total = raw.get("score"), raw.get("num_mc_correct"), raw.get("num_mc_total")
    counted = correct is not None or total is not None
    if counted and (type(correct) is not int or type(total) is not int or not 0 <= correct <= total <= MAX_COUNT):
        correct, total = _odd_counts(correct, total)
    if score is not None:
        score = score if type(score) is float else _number(score)
        if score is None or not 0 <= score <= 1:
            raise Unusable("bad_score")
    if total is None or correct is None:
        return score, None, None
    if total == 0:
        if score:
            raise Unusable("score_contradicts_counts")
        return None, 0, 0
    measured = correct / total
    if score is None or score == measured:
        return measured, correct, total
    if (score > 0) != (correct > 0) or abs(score - measured) > min(ROUNDING, 0.5 / total):
        raise Unusable("score_contradicts_counts")
    return score, correct, total


def _odd_counts(correct: object, total: object) -> tuple[int | None, int | None]:
    """K and N that are not plainly 0 <= K <= N: (0, 0) for a step without continuations, None twice for no counts."""
    k, n = _count(correct), _count(total)
    if k is None:
        return (0, 0) if n == 0 else (None, None)
    if n is not None and k > n:
        raise Unusable("bad_counts")
    return (None, None) if n is None else (k, n)


def _count(value: object) -> int | None:
    """A count that may be written as 8.0 or "8", None where there is none; or Unusable."""
    if value is None:
        return None
    count = _number(value)
    if count is None or not 0 <= count <= MAX_COUNT or count != int(count):
        raise Unusable("bad_counts")
    return int(count)


def _number(value: object) -> float | None:
    """A JSON number, or one that is written as text; None for anything else."""
    if type(value) is not int and type(value) is not float and not (isinstance(value, str) and NUMBER.fullmatch(value)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def published_measurement(raw: object) -> Measurement:
    """The same as the published subset builder takes it: whatever `float` takes, counts or none."""
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
