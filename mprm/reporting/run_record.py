"""What a run folder holds for its report, and the solutions of the benchmark that are chosen, by rule, to be looked at:
what a model finds, misses and accuses wrongly."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from mprm.metrics.predictions import Prediction, read_predictions
from mprm.metrics.results import StepResults, read_results
from mprm.runs import manifest as manifests
from mprm.runs.artifacts import MODEL_FILE, STAGES, TRAININGS, read_json, reading, redo_remedy, write_json
from mprm.runs.manifest import Manifest
from mprm.runs.run_folder import read_record

if TYPE_CHECKING:
    from PIL.Image import Image

    from mprm.data.records import Solution

SIGNALS = ["p_pos", "reliability", "ranked"]  # what the map needs of half a million rows
FOUND, MISSED, ALARM = "First error found", "First error missed", "False alarm"
WORST_MISS, WORST_ALARM = "Worst miss: the wrong step of the highest score", "Worst alarm: the right step of the lowest"
TYPICAL = {FOUND: 2, MISSED: 1, ALARM: 1}
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


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the run folder of a step scorer holds; a piece that is not there (yet) is None."""

    folder: Path
    config: dict[str, Any] | None
    versions: dict[str, Any] | None
    manifest: Manifest | None
    kept: pa.Table | None
    signals: pa.Table | None  # the rollouts that a selector could choose from
    metrics: list[dict[str, Any]] | None
    results: StepResults | None
    predictions: list[Prediction] | None  # of the benchmark
    examples: list[Example]

    @property
    def model(self) -> dict[str, Any] | None:
        """Whose model it is, of an evaluation that no training belongs to."""
        return read_json_object(self.folder / MODEL_FILE)

    @property
    def who(self) -> str:
        """What the numbers are of."""
        return "this training" if self.model is None or self.model["run"] else "this model"


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    The signals table lies in a cache outside the folder, at the path that the manifest names, and may be gone.
    Raises ValueError when the folder does not exist or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a run folder; give one that `python run.py` wrote, e.g. runs/NAME")
    manifest, results = read_manifest(folder), folder / "results.json"
    return RunRecord(
        folder=folder,
        config=read_config(folder),
        versions=read_json_object(folder / "versions.json"),
        manifest=manifest,
        kept=read_parquet(folder / "subset" / "kept.parquet"),
        signals=_signals(manifest),
        metrics=read_json_lines(folder / "metrics.jsonl"),
        results=read_results(results, StepResults) if results.exists() else None,
        predictions=_predictions(folder / "predictions.jsonl"),
        examples=read_examples(folder / "examples.json"),
    )


def run_folders(directory: Path) -> list[Path]:
    """The folders of runs, and of what task=evaluate, rerank and search wrote, directly under `directory`, by name.

    Raises ValueError when there is none.
    """
    marks = ("config.yaml", MODEL_FILE, "choices.jsonl")
    found = {path.parent for name in marks for path in directory.glob(f"*/{name}")}
    if not found:
        raise ValueError(f"{directory} holds no run folder; give the folder of your runs, e.g. runs=runs")
    return sorted(found)


def check_whole(folder: Path) -> None:
    """Raise ValueError for the first file of a run that comparisons read and that is damaged."""
    if (folder / STAGES).exists():
        read_record(folder)
    read_config(folder), read_manifest(folder)
    if (folder / "results.json").exists():
        read_results(folder / "results.json")
    read_parquet(folder / "subset" / "kept.parquet")
    _predictions(folder / "predictions.jsonl")
    for stage in TRAININGS:
        read_json_lines(folder / stage / "metrics.jsonl")


def read_config(folder: Path) -> dict[str, Any] | None:
    """The resolved config of a run, or None."""
    return _mapping(folder / "config.yaml", lambda path: OmegaConf.to_container(OmegaConf.load(path), resolve=True))


def read_json_object(path: Path) -> dict[str, Any] | None:
    return _mapping(path, lambda path: json.loads(path.read_text(encoding="utf-8")))


def _mapping(path: Path, parse: Callable[[Path], Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with reading(path, "restore it, or run the run's command again"):
        content = parse(path)
        if not isinstance(content, dict):
            raise TypeError("not a mapping")
        return content


def read_manifest(folder: Path) -> Manifest | None:
    """What the selection kept and dropped, or None."""
    path = folder / "subset" / "manifest.json"
    return manifests.read_manifest(path) if path.exists() else None


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table | None:
    if not path.exists():
        return None
    with reading(path, redo_remedy("select")):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def _signals(manifest: Manifest | None) -> pa.Table | None:
    """None when the table is not in its cache, or damaged there."""
    try:
        table = read_parquet(Path(manifest.signals), SIGNALS) if manifest else None
    except ValueError:
        return None
    return table.filter(table["ranked"]) if table is not None else None


def read_json_lines(path: Path) -> list[dict[str, Any]] | None:
    if not path.exists():
        return None
    rows = []
    with reading(path, "remove that line and run task=report again"):
        # A line without its newline is still being written, or was cut off when the run was killed.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return rows


def read_solutions(folder: Path) -> dict[str, dict[str, Any]]:
    """What was scored of a benchmark, by id: images (absolute paths), question and steps; {} when it was not kept."""
    return {one["id"]: one for one in read_json_lines(folder / "solutions.jsonl") or []}


def _predictions(path: Path) -> list[Prediction] | None:
    if not path.exists():
        return None
    with reading(path, redo_remedy("evaluate")):
        return read_predictions(path)


# ---- solutions to look at


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
