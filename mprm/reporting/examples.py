"""Solutions of the benchmark to look at: what a model finds, misses and accuses wrongly, chosen by rule."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mprm.metrics.predictions import Prediction
from mprm.reporting.report import Card, Cards, Marked
from mprm.runs.artifacts import read_json, redo_remedy, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

    from mprm.data.records import Solution

FOUND, MISSED, ALARM = "First error found", "First error missed", "False alarm"
WORST_MISS, WORST_ALARM = "Worst miss: the wrong step of the highest score", "Worst alarm: the right step of the lowest"
TYPICAL = {FOUND: 2, MISSED: 1, ALARM: 1}
WORDS = {1: "right", -1: "wrong", 0: "neutral"}
EDGE = 420  # pixels of a picture at most


@dataclass(frozen=True, kw_only=True)
class Example:
    """A scored solution."""

    why: str  # it is shown
    id: str
    source: str
    question: str
    steps: Sequence[str]
    labels: Sequence[int]  # of every step, as of a Prediction
    scores: Sequence[float]
    pictures: Sequence[str]  # data URLs


def chosen(predictions: Sequence[Prediction], threshold: float) -> dict[str, str]:
    """Ids of at most six solutions, and why each is shown.

    The two worst mistakes; of the solutions whose first wrong step is the first rejected one (found), those whose first
    wrong step is accepted (missed), and those with a rejected step before it (false alarm) the typical ones: ordered by
    the score of the step that decides, the one in the middle, or the two at the quartiles.
    """
    kinds: dict[str, list[tuple[float, str]]] = {kind: [] for kind in (*TYPICAL, WORST_MISS, WORST_ALARM)}
    for one in predictions:
        labelled = [(label, score) for label, score in zip(one.labels, one.scores, strict=True) if label]
        end = (0, 0.0)
        wrong = next((place for place, (label, _) in enumerate(labelled) if label < 0), len(labelled))
        rejected = next((place for place, (_, score) in enumerate(labelled) if score < threshold), len(labelled))
        (label, first_wrong), (_, first_rejected) = [*labelled, end][wrong], [*labelled, end][rejected]
        if label and wrong == rejected:
            kinds[FOUND].append((first_wrong, one.id))
        elif label and first_wrong >= threshold:
            kinds[MISSED].append((first_wrong, one.id))
        if rejected < wrong:
            kinds[ALARM].append((first_rejected, one.id))
        kinds[WORST_MISS] += [(-score, one.id) for label, score in labelled if label < 0 and score >= threshold]
        kinds[WORST_ALARM] += [(score, one.id) for label, score in labelled if label > 0 and score < threshold]
    found: dict[str, str] = {}
    for kind in (WORST_MISS, WORST_ALARM):
        found |= {name: kind for _, name in [one for one in sorted(kinds[kind]) if one[1] not in found][:1]}
    typical: dict[str, str] = {}
    for kind, number in TYPICAL.items():
        rest = [name for _, name in sorted(kinds[kind]) if name not in found | typical]
        places = {(2 * one + 1) * len(rest) // (2 * number) for one in range(number)} if rest else ()
        typical |= {rest[place]: kind for place in sorted(places)}
    return typical | found


def write_examples(
    path: Path,
    predictions: Sequence[Prediction],
    solutions: Sequence[Solution],
    open_images: Callable[[Sequence[str]], list[Image]],
    threshold: float,
) -> None:
    """Write the chosen solutions with small pictures as JSON. open_images: as the model sees them, by their names."""
    by_id, scored = {one.id: one for one in solutions}, {one.id: one for one in predictions}
    examples = []
    for name, why in chosen(predictions, threshold).items():
        solution, prediction = by_id[name], scored[name]
        example = Example(
            why=why,
            id=name,
            source=solution.source,
            question=solution.question,
            steps=solution.steps,
            labels=prediction.labels,
            scores=prediction.scores,
            pictures=[small(image) for image in open_images(solution.images)],
        )
        examples.append(asdict(example))
    write_json(path, examples)


def small(image: Image) -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    image.thumbnail((EDGE, EDGE))
    image.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def read_examples(path: Path) -> list[Example]:
    """[] where there is no such file. Raises ValueError for a damaged one."""
    return [Example(**one) for one in read_json(path, redo_remedy("evaluate"))] if path.exists() else []


def section(examples: Sequence[Example], threshold: float) -> Cards:
    """Colours: orange far below the threshold, blue far above it, by the ratio of their odds."""
    odds = threshold / max(1 - threshold, 1e-9)
    cards = []
    for one in examples:
        steps = []
        for text, label, score in zip(one.steps, one.labels, one.scores, strict=True):
            verdict = 1 if score >= threshold else -1
            below = f"score {score:.3f}: {WORDS[verdict]}; label: {WORDS[label]}"
            hue = round(100 * score / max(score + odds * (1 - score), 1e-9))
            steps.append(Marked(text, below, hue, differs=label not in (0, verdict)))
        cards.append(Card(f"{one.why} ({one.source})", one.pictures, one.question, steps))
    note = (
        "Chosen by rule: of the first errors that are found those at the quartiles of the deciding score, of those "
        "that are missed and of the false alarms the one in the middle, and the two worst mistakes. A step is taken "
        f"for right from the threshold {threshold:.3f} on; blue is far above it, orange far below, and a dashed frame "
        "is a mistake."
    )
    return Cards("Examples", note, cards, "examples")
