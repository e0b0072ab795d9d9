"""`task=score`: a file of solutions in, the same file with step scores out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mprm.artifacts import atomic_file
from mprm.data.rollouts import Unusable, check_text, image_names, json_object, numbered_lines
from mprm.evaluation.predict import Scorable

Score = Callable[[list[Scorable], Callable[[str], Path]], tuple[dict[str, list[float]], dict[str, int]]]


def score_file(source: Path, target: Path, score: Score) -> tuple[int, dict[str, int]]:
    """Score every record of a JSON lines file and write it again with `step_scores`, null where it could not be scored.

    A record has image (a path, or a list of paths, from the file's own folder or from the working folder), question and
    steps. Lines that are no JSON object are left out. Returns the number scored and the others by reason.
    Raises ValueError if the source is not there.
    """
    if not source.is_file():
        raise ValueError(f"input={source} is not a file; give JSON lines with image, question and steps")
    records: dict[str, dict[str, Any]] = {}
    solutions, skipped = [], Counter[str]()
    with open(source, "rb") as stream:
        for number, _, _, line in numbered_lines(stream):
            if line.isspace():
                continue
            try:
                record = json_object(line)
                check_text(json.dumps(record, ensure_ascii=False))  # it will be written again
                records[str(number)] = record
                solutions.append(_solution(str(number), record))
            except Unusable as unusable:
                skipped[unusable.reason] += 1
    scores, failed = score(solutions, lambda name: _image(source.parent, name))
    with atomic_file(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for key, record in records.items():
            file.write(json.dumps(record | {"step_scores": scores.get(key)}, ensure_ascii=False) + "\n")
    return len(scores), dict(skipped + Counter(failed))


def _solution(number: str, record: dict[str, Any]) -> Scorable:
    images, question, steps = image_names(record.get("image")), record.get("question"), record.get("steps")
    if not images:
        raise Unusable("no_image")
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no_question")
    if not isinstance(steps, list) or not steps:
        raise Unusable("no_steps")
    if not all(isinstance(step, str) for step in steps):
        raise Unusable("bad_step")
    return Scorable(number, images, question, steps)


def _image(folder: Path, name: str) -> Path:
    beside = folder / name
    return beside if beside.is_file() else Path(name)
