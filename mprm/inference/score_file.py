"""A file of solutions written again with its step scores (`task=score`); a journal keeps what has been scored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Dropped, Unusable, check_text, first_keys, read_json_lines
from mprm.data.records import image_field, image_names
from mprm.data.visualprm400k import question_text
from mprm.inference.scoring import Scored, ScoreRequest, asked
from mprm.metrics.predictions import NotScored, StepScores
from mprm.runs.artifacts import file_hash
from mprm.runs.journal import Journal, journal

WANTED = "JSON lines with image, question and steps, or records of VisualProcessBench or VisualPRM400K-v1.1-Raw"
AT_ONCE = 64  # solutions: what a kill can lose

Score = Callable[[Sequence[ScoreRequest]], Scored]


def score_file(source: Path, target: Path, score: Score, settings: Any) -> tuple[int, int, dict[str, int]]:
    """Score every record of a JSON lines file and write it again with its scores.

    A record has image (a path, or a list of paths), question and steps, or is one of VisualProcessBench or of
    VisualPRM400K-v1.1-Raw. Added are step_scores, P(yes) of every step, and with a kappa head step_sigmas, their
    standard deviations; or step_scores null and not_scored, the reason. Lines that are no JSON object are left out.

    settings: all that the scores depend on besides the file.
    Returns how many were scored, how many name no image, and those that were not scored by reason. Raises ValueError if
    there is nothing to score.
    """
    if not source.is_file():
        raise ValueError(f"input={source} is not a file; give {WANTED}")
    records: dict[str, dict[str, Any]] = {}

    def read(number: int, record: dict[str, Any]) -> ScoreRequest:
        check_text(json.dumps(record, ensure_ascii=False))  # it will be written again
        records[str(number)] = record
        return _request(str(number), record)

    lines = list(read_json_lines(source, "input", read))
    requests = [one for one in lines if not isinstance(one, Dropped)]
    found: dict[str, StepScores | NotScored] = {
        str(one.line): NotScored(one.reason, one.reason) for one in lines if isinstance(one, Dropped)
    }
    if not requests:
        listed = ", ".join(sorted({one.reason for one in lines if isinstance(one, Dropped)})) or "no line"
        raise ValueError(f"input={source} has no usable record ({listed}): {first_keys(source)}; give {WANTED}")
    with journal(target, [file_hash(source), settings]) as kept:
        found |= score_kept(kept, requests, score)
        kept.finish(record | _scores(found[key]) for key, record in records.items())
    skipped = Counter(one.reason for one in found.values() if isinstance(one, NotScored))
    return len(found) - skipped.total(), sum(not one.images for one in requests), dict(skipped)


def score_kept(
    kept: Journal, requests: Sequence[ScoreRequest], score: Score, whole: bool = False
) -> dict[str, StepScores | NotScored]:
    """Scores of the solutions by id: those that the journal has, and the others', which it keeps as they come.

    whole: the solutions of a question may be scored against each other: a part of them that is kept is not used.
    """
    if whole:
        missing = {asked(request) for request in requests if request.id not in kept.done}
        for request in requests:
            if asked(request) in missing:
                kept.done.pop(request.id, None)
    scored = score([request for request in requests if request.id not in kept.done])
    kept.add_each(((name, asdict(found)) for name, found in scored), AT_ONCE)
    return {request.id: _found(kept.done[request.id]) for request in requests}


def _found(fields: dict[str, Any]) -> StepScores | NotScored:
    if "reason" in fields:
        return NotScored(**fields)
    kappa = fields["kappa"]
    return StepScores(tuple(fields["log_odds"]), None if kappa is None else tuple(kappa))


def _scores(found: StepScores | NotScored) -> dict[str, Any]:
    if isinstance(found, NotScored):
        return {"step_scores": None, "not_scored": found.message}
    return {"step_scores": found.scores} | ({} if found.sigmas is None else {"step_sigmas": found.sigmas})


def _request(number: str, record: dict[str, Any]) -> ScoreRequest:
    images = image_names(image_field(record))
    question, steps = record.get("question"), record.get("steps")
    response, raw = record.get("response"), record.get("steps_with_score")
    if "steps" not in record and isinstance(response, dict):  # VisualProcessBench
        steps = response.get("steps")
    elif "steps" not in record and isinstance(raw, list):
        texts = [step.get("step") if isinstance(step, dict) else None for step in raw]
        question, steps = question_text(record), [text.strip() if isinstance(text, str) else text for text in texts]
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no_question")
    if not isinstance(steps, list) or not steps:
        raise Unusable("no_steps")
    if not all(isinstance(step, str) for step in steps):
        raise Unusable("bad_step")
    return ScoreRequest(number, images, question, steps)


def path_beside(file: Path) -> Callable[[str], Path]:
    """Finds images by paths that start from the file's own folder, or from the working folder; else they are looked for
    as those of annotations, below the file's folder and the one above it."""
    folders = [ImageFolder(file.absolute().parent), ImageFolder(file.absolute().parent.parent)]

    def path(name: str) -> Path:
        for exact in (file.parent / name, Path(name)):
            if exact.is_file():
                return exact
        found = (Path(str(folder.root), image) for folder in folders if (image := folder.find(name, file.stem)))
        return next(found, Path(name))

    return path
