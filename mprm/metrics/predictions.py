"""Step scores of solutions beside their labels: the type, and its two file formats."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mprm.metrics.step_scores import NotScored, StepScores
from mprm.runs.artifacts import write_json_lines

OURS = ("id", "source", "labels", "scores")
PUBLISHED = ("data_source", "labels_per_step", "prm_scores")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One scored solution.

    Attributes:
        id: unique in its file.
        source: the part of the benchmark that the solution belongs to.
        labels: one per step: 1 correct, -1 incorrect, 0 neutral (no metric counts it).
        scores: one finite number per step, larger for more probably correct; in [0, 1] when it is a probability.

    Raises:
        ValueError: labels and scores are empty or differ in length, a label is none of the three, a score not finite.
    """

    id: str
    source: str
    labels: tuple[int, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.labels or len(self.labels) != len(self.scores):
            raise ValueError(f"{len(self.labels)} labels and {len(self.scores)} scores; give one of each per step")
        for step, label in enumerate(self.labels, start=1):
            if isinstance(label, bool) or label not in (1, -1, 0):
                raise ValueError(
                    f"label {repr(label)[:40]} of step {step}; give 1 (correct), -1 (incorrect) or 0 (neutral)"
                )
        for step, score in enumerate(self.scores, start=1):
            # false for NaN, Infinity, and numbers so large that rounding them to decimals would overflow
            if not _is_number(score) or not -1e300 < score < 1e300:
                raise ValueError(f"score {repr(score)[:40]} of step {step}; give a finite number, such as P(correct)")


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read predictions from one of two formats, told apart by the first character.

    - JSON Lines, as write_predictions makes them: {"id", "source", "labels", "scores"} per line.
    - The JSON list of the published evaluation tool: [{"data_source", "labels_per_step", "prm_scores": [[...]]}, ...];
      a solution's id is its number in the list, from 1.

    Raises:
        ValueError: no such file, not JSON, a bad record (named by its number), an id twice, or no labelled step at all.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark may come first
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ValueError(f"{path}: {reason}; give a file of predictions, e.g. runs/NAME/predictions.jsonl") from error
    predictions: list[Prediction] = []
    first_seen: dict[str, str] = {}
    for place, number, record in _published(path, text) if text.lstrip().startswith("[") else _ours(path, text):
        try:
            prediction = _prediction(record, number)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if prediction.id in first_seen:
            raise ValueError(
                f"{place}: id {prediction.id!r} was given at {first_seen[prediction.id]}; keep one of the two"
            )
        first_seen[prediction.id] = place
        predictions.append(prediction)
    if not any(label for prediction in predictions for label in prediction.labels):
        raise ValueError(
            f"{path}: none of its {len(predictions)} records has a step labelled 1 or -1; give labelled solutions"
        )
    return predictions


def with_labels(
    found: Mapping[str, StepScores | NotScored], known: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[list[Prediction], dict[str, int]]:
    """Predictions of the solutions that were scored, in the order of `known` (source and labels by id), and the counts
    of the others by reason."""

    predictions, skipped = [], Counter[str]()
    for name, (source, labels) in known.items():
        scored = found[name]
        if isinstance(scored, NotScored):
            skipped[scored.reason] += 1
        else:
            predictions.append(Prediction(id=name, source=source, labels=labels, scores=tuple(scored.scores)))
    return predictions, dict(skipped)


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write JSON Lines, one solution a line, atomically; read_predictions gives the same predictions back."""
    write_json_lines(
        path, ({"id": p.id, "source": p.source, "labels": p.labels, "scores": p.scores} for p in predictions)
    )


def _ours(path: Path, text: str) -> Iterator[tuple[str, int, Any]]:
    """(place for messages, record number, record) of every line that is not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, number, _json(line, place)


def _published(path: Path, text: str) -> Iterator[tuple[str, int, Any]]:
    for number, record in enumerate(_json(text, str(path)), start=1):
        yield f"{path}, record {number}", number, record


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{place}: not JSON ({reason}); give JSON Lines, or the published tool's JSON list") from error


def _prediction(record: Any, number: int) -> Prediction:
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object; give {', '.join(OURS)}")
    published = not any(key in record for key in OURS) and any(key in record for key in PUBLISHED)
    missing = [key for key in (PUBLISHED if published else OURS) if key not in record]
    if missing:
        raise ValueError(f"no {', '.join(missing)}; give {', '.join(PUBLISHED if published else OURS)}")
    if not published:
        return Prediction(
            _text(record, "id"),
            _text(record, "source"),
            tuple(_items(record, "labels")),
            tuple(_items(record, "scores")),
        )
    scores = _items(record, "prm_scores")
    if len(scores) != 1 or not isinstance(scores[0], list):
        raise ValueError("prm_scores is not a list of one list; give [[score of step 1, score of step 2, ...]]")
    labels = _items(record, "labels_per_step")
    return Prediction(str(number), _text(record, "data_source"), tuple(labels), tuple(scores[0]))


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise ValueError(f"{key} is not text; write it in quotes")
    return str(record[key])


def _items(record: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(record[key], list):
        raise ValueError(f"{key} is not a list; give one entry per step")
    return list(record[key])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
