"""What a step model says of solutions: the scores of one, and files of scores beside labels."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mprm.data.lines import HEAD_BYTES, Dropped, Unusable, check_json_lines, json_object, lines_of, read_each
from mprm.runs.artifacts import write_json_lines

OURS = ("id", "source", "labels", "scores")
PUBLISHED = ("data_source", "labels_per_step", "prm_scores")


@dataclass(frozen=True, slots=True)
class StepScores:
    """Of the steps of one solution."""

    log_odds: tuple[float, ...]  # logit(yes) - logit(no)
    kappa: tuple[float, ...] | None = None  # how many continuations P(yes) is worth, with a kappa head only

    @property
    def scores(self) -> list[float]:
        """P(yes) in [0, 1], one per step."""
        x = np.asarray(self.log_odds)
        return [float(p) for p in np.where(x >= 0, 1.0, np.exp(-abs(x))) / (1 + np.exp(-abs(x)))]

    @property
    def sigmas(self) -> list[float] | None:
        """Standard deviation of the success rate (arXiv 2605.15529): sqrt(mu (1 - mu) / (kappa + 1)), mu = P(yes). None
        without kappa. Example: log odds 0 and kappa 3 give sqrt(.25 / 4) = .25."""
        if self.kappa is None:
            return None
        mu = np.array(self.scores)
        return [float(s) for s in np.sqrt(mu * (1 - mu) / (np.array(self.kappa) + 1))]


@dataclass(frozen=True)
class NotScored:
    """Why a solution has no scores."""

    reason: str  # too_long, refused_image (the processor cannot take it), no_verdict, or one of image_fault()
    message: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """A scored solution. Raises ValueError if labels and scores are empty or differ in length, or hold other values."""

    id: str  # unique in its file
    source: str  # the part of the benchmark that the solution belongs to
    labels: tuple[int, ...]  # of every step: 1 correct, -1 incorrect, 0 neutral (no metric counts it)
    scores: tuple[float, ...]  # of every step: finite, larger for more probably correct; in [0, 1] if a probability

    def __post_init__(self) -> None:
        if not self.labels or len(self.labels) != len(self.scores):
            raise ValueError(f"{len(self.labels)} labels and {len(self.scores)} scores; give one of each per step")
        for step, (label, score) in enumerate(zip(self.labels, self.scores, strict=True), start=1):
            if isinstance(label, bool) or label not in (1, -1, 0):
                raise ValueError(
                    f"label {repr(label)[:40]} of step {step}; give 1 (correct), -1 (incorrect) or 0 (neutral)"
                )
            number = isinstance(score, int | float) and not isinstance(score, bool)
            # false for NaN, Infinity, and numbers so large that rounding them to decimals would overflow
            if not number or not -1e300 < score < 1e300:
                raise ValueError(f"score {repr(score)[:40]} of step {step}; give a finite number, such as P(correct)")


def with_labels(
    found: Mapping[str, StepScores | NotScored], known: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[list[Prediction], dict[str, int]]:
    """Predictions of the solutions that were scored, in the order of `known` (source and labels by id), and the counts
    of the others by reason."""
    scored = [(name, *labelled, found[name]) for name, labelled in known.items()]
    predictions = [
        Prediction(name, source, labels, tuple(one.scores))
        for name, source, labels, one in scored
        if isinstance(one, StepScores)
    ]
    return predictions, dict(Counter(one.reason for *_, one in scored if isinstance(one, NotScored)))


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write JSON Lines, one solution a line, atomically; read_predictions gives the same predictions back."""
    write_json_lines(path, map(asdict, predictions))


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read predictions from one of two formats, told apart by the first character.

    - JSON Lines, as write_predictions makes them: {"id", "source", "labels", "scores"} per line.
    - The JSON list of the published evaluation tool: [{"data_source", "labels_per_step", "prm_scores": [[...]]}, ...];
      a solution's id is its number in the list, from 1.

    Raises:
        ValueError: no such file, not JSON, a bad record (named by its number), an id twice, or no labelled step at all.
    """
    path = Path(path)
    items, unit = _items(path)

    def read(number: int, item: Any) -> Prediction:
        try:
            return _prediction(json_object(item) if isinstance(item, bytes) else item, number + 1)
        except ValueError as error:
            raise ValueError(f"{path}, {unit} {number + 1}: {error}") from error

    predictions = []
    for one in read_each(path.stem, items, read):
        if isinstance(one, Dropped):
            raise ValueError(f"{path}, {unit} {one.line + 1}: {one.reason}; give {', '.join(OURS)}, each id once")
        predictions.append(one)
    if not any(any(prediction.labels) for prediction in predictions):
        raise ValueError(
            f"{path}: none of its {len(predictions)} records has a step labelled 1 or -1; give labelled solutions"
        )
    return predictions


def _items(path: Path) -> tuple[Iterable[tuple[int, Any]], str]:
    """The numbered lines of the file, or the records of its list; and what one of them is called."""
    with open(check_json_lines(path, "predictions"), "rb") as stream:
        if not stream.read(HEAD_BYTES).removeprefix(BOM_UTF8).lstrip().startswith(b"["):
            return lines_of(path, "predictions"), "line"
    try:
        return enumerate(json.loads(path.read_bytes())), "record"
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not JSON ({reason}); give JSON Lines, or the published tool's JSON list") from error


def _prediction(record: Any, number: int) -> Prediction:
    if not isinstance(record, dict):
        raise Unusable("not_an_object")
    published = not any(key in record for key in OURS) and any(key in record for key in PUBLISHED)
    keys = PUBLISHED if published else OURS
    if missing := [key for key in keys if key not in record]:
        raise ValueError(f"no {', '.join(missing)}; give {', '.join(keys)}")
    for key in keys:
        is_text = key in ("id", "source", "data_source")
        if is_text and not isinstance(record[key], str):
            raise ValueError(f"{key} is not text; write it in quotes")
        if not is_text and not isinstance(record[key], list):
            raise ValueError(f"{key} is not a list; give one entry per step")
    if not published:
        return Prediction(record["id"], record["source"], tuple(record["labels"]), tuple(record["scores"]))
    scores = record["prm_scores"]
    if len(scores) != 1 or not isinstance(scores[0], list):
        raise ValueError("prm_scores is not a list of one list; give [[score of step 1, score of step 2, ...]]")
    return Prediction(str(number), record["data_source"], tuple(record["labels_per_step"]), tuple(scores[0]))
