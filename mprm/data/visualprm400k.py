"""Readers of annotated rollouts: VisualPRM400K-v1.1-Raw, the public layouts like it, and rollouts of your own.

Two public layouts are conversations and brought into that of VisualPRM400K-v1.1-Raw:

VisualPRM400K(-v1.1), a turn per step, each answered by + (score 1) or - (score 0):
    {"image": ..., "conversations": [{"from": "system", ...}, {"from": "human", "value": "### Question:\\n...\\n\\n###
     Solution Process:\\nfirst step"}, {"from": "gpt", "value": "+"}, {"from": "human", "value": "second step"}, ...]}

the published training format, with a label per mark, and with the counts K and N where BetaPRM wrote them:
    {"image": ..., "conversations": [{"from": "human", "value": "Question: ...\\nProcess: first step<prm>\\n\\nsecond
     step<prm>"}, {"from": "gpt", "value": [1.0, 0.25]}], "prm_counts": {"k": [16, 4], "n": [16, 16]}}
"""

import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import LAST_KEY, UNIQUE_KEYS, Unusable, json_object, source_files, value_at
from mprm.data.records import image_field, image_names
from mprm.data.rollout_files import RolloutFiles
from mprm.data.rollouts import Rollout, measurement, published_measurement

LEADING_IMAGES = re.compile(r"\A(<image>\s*)+")
QUESTION = re.compile(r"(?:<image>\s*)*### Question:\s*(.*?)\s*### Solution Process:\s*(.*)", re.DOTALL)
MARKED = re.compile(r"(?:<image>\s*)*Question: (.*?)\nProcess: (.*)<prm>\s*", re.DOTALL)
SCORES = {"+": 1.0, "-": 0.0}


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Base of the readers: cleaning, and which sources and records are used. A subclass says where the files and the
    images are, and brings a record into the layout of VisualPRM400K-v1.1-Raw."""

    images: str | None = None  # folder that image paths start from
    # strict: a rollout that cannot be trained on is dropped before ranking. A step's score is its `score`, or
    # num_mc_correct / num_mc_total where that is absent or null; a step with neither was never measured and has None. A
    # number may be written as text. Scores outside [0, 1], impossible counts, a score that is not that of the counts
    # (but for rounding to two decimals) and a key that is there twice drop the rollout.
    # published: as the published subset builder does. Scores are whatever `float` takes, counts are not looked at, and
    # a rollout with one usable score is ranked even if it lacks an image, a step's text or another score: it takes a
    # place in the top-k and is dropped afterwards. A missing question is the empty string.
    cleaning: str = "strict"
    # What a step of 0 continuations is. Annotators stop behind the first step that no continuation leads right from:
    # "implied" takes 0 of 0 behind a step with score 0 for a negative, and any other for no evidence; "negative" takes
    # all for negatives, as the published work does; "ignore" none. The published cleaning takes the score that the
    # record gives them, whatever this says.
    unsampled: str = "implied"
    # drop: without the last step, which states the answer. Continuations from behind an answer are all right or all
    # wrong, as the answer is, so that its label tells nothing of the reasoning.
    final_step: str = "keep"
    sources: list[str] | None = None  # only these
    exclude_sources: list[str] | None = None
    exclude: str | None = None  # JSON lines with source and line of records to drop

    def __post_init__(self) -> None:
        if self.cleaning not in ("strict", "published"):
            raise ValueError(f"dataset.cleaning={self.cleaning} is unknown; choose strict or published")
        if self.unsampled not in ("implied", "negative", "ignore"):
            raise ValueError(f"dataset.unsampled={self.unsampled} is unknown; choose implied, negative or ignore")
        if self.final_step not in ("keep", "drop"):
            raise ValueError(f"dataset.final_step={self.final_step} is unknown; choose keep or drop")

    def layout(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record in the layout of VisualPRM400K-v1.1-Raw; or Unusable."""
        raise NotImplementedError

    def read(self, line: bytes, source: str) -> Rollout:
        published = self.cleaning == "published"
        fields = self.layout(json_object(line, LAST_KEY if published else UNIQUE_KEYS))
        raw_steps = fields.get("steps_with_score")
        if not isinstance(raw_steps, list) or not raw_steps:
            raise Unusable("no_steps")
        measure = published_measurement if published else measurement
        scores, correct, total = zip(*[measure(raw) for raw in raw_steps], strict=True)
        if 0 in total and not published:
            scores = self._with_unsampled(scores, total)
        steps = [text.strip() if isinstance(text := raw.get("step"), str) else "" for raw in raw_steps]
        # Without question_orig the published builder keeps the <image> that `question` begins with.
        question = _text(fields.get("question_orig", fields.get("question"))) if published else question_text(fields)
        if self.final_step == "drop":
            steps, scores, correct, total = steps[:-1], scores[:-1], correct[:-1], total[:-1]
        return Rollout(self._images(fields), question, steps, scores, correct, total, published)

    def _images(self, fields: dict[str, Any]) -> tuple[str, ...]:
        try:
            return image_names(image_field(fields))
        except Unusable:
            if self.cleaning == "strict":
                raise
            return ()  # it is ranked, and dropped afterwards

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


@dataclass(frozen=True, kw_only=True)
class VisualPRM400K(Annotations):
    """A folder of JSON lines files, one per source, and the images that they name."""

    root: str | None = None  # holds annotations/ and the images
    annotations: str | None = None  # in place of ROOT/annotations
    wanted = "image, question_orig or question, and steps_with_score"

    def files(self) -> dict[str, Path]:
        if self.annotations is None and self.root is None:
            raise ValueError(
                "dataset.root is not set; give the folder of annotations/ and images, or dataset.annotations=DIR"
            )
        if self.image_folder.root is not None and not Path(self.image_folder.root).is_dir():
            key = "dataset.images" if self.images else "dataset.root"
            raise ValueError(
                f"{key}={self.image_folder.root} is not a folder; give the one that image paths start from"
            )
        key, folder = "dataset.annotations", self.annotations
        if folder is None:
            key, folder = "dataset.root", f"{self.root}/annotations"
        if not Path(folder).is_dir():
            raise ValueError(f"{key}: {folder} is not a folder; give the one that holds the annotations as *.jsonl")
        return source_files(Path(folder), key, self.sources, self.exclude_sources)

    @cached_property
    def image_folder(self) -> ImageFolder:
        return ImageFolder(self.images or self.root, "restore it, or select again")

    def layout(self, record: dict[str, Any]) -> dict[str, Any]:
        return _from_conversation(record) if "conversations" in record and "steps_with_score" not in record else record


@dataclass(kw_only=True)  # not frozen: OmegaConf could not fill it inside another one
class Fields:
    """Where in a record its parts are: a key, or keys of objects in each other with dots between.

    `step` to `n_total` are keys of an element of `steps`. Where the elements are texts, `score`, `n_correct` and
    `n_total` are keys of the record, and what is there are lists beside `steps`. A score may be true or false.
    """

    image: str = "image"
    question: str = "question"
    steps: str = "steps"
    step: str = "step"
    score: str = "score"
    n_correct: str = "n_correct"
    n_total: str = "n_total"


@dataclass(frozen=True, kw_only=True)
class JsonLines(RolloutFiles, Annotations):
    """Rollouts of a file or a folder of *.jsonl, cleaned as VisualPRM400K's."""

    fields: Fields = field(default_factory=Fields)

    @property
    def wanted(self) -> str:  # type: ignore[override]
        named = [f"{key} ({part})" if key != part else key for part, key in asdict(self.fields).items()]
        return f"{', '.join(named[:3])}, with {', '.join(named[3:])} of every step (dataset.fields)"

    def layout(self, record: dict[str, Any]) -> dict[str, Any]:
        names, steps = self.fields, value_at(record, self.fields.steps)
        measured = (names.score, names.n_correct, names.n_total)
        if isinstance(steps, list) and any(isinstance(step, str) for step in steps):
            steps = _rows(steps, [value_at(record, key) for key in measured])
        elif isinstance(steps, list):
            steps = [
                _raw(*(value_at(step, key) for key in (names.step, *measured))) if isinstance(step, dict) else step
                for step in steps
            ]
        return {
            "image": value_at(record, names.image),
            "question": value_at(record, names.question),
            "steps_with_score": steps,
        }


def question_text(record: dict[str, Any]) -> str:
    """The question of a record, without the <image> that it may begin with; "" when there is none."""
    original = record.get("question_orig")
    if original is not None and not isinstance(original, str):
        return ""  # nothing else takes the place of what cannot be read
    return _text(original) or LEADING_IMAGES.sub("", _text(record.get("question")))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _from_conversation(record: dict[str, Any]) -> dict[str, Any]:
    """The record with question and steps_with_score; Unusable when it is in neither form."""
    turns = record["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unusable("bad_conversation")
    turns = [turn for turn in turns if turn.get("from") != "system"]
    asked, answers = turns[::2], [turn.get("value") for turn in turns[1::2]]
    if [turn.get("from") for turn in turns] != ["human", "gpt"] * len(answers) or not answers:
        raise Unusable("bad_conversation")
    texts = [turn.get("value") for turn in asked]
    first = texts[0] if isinstance(texts[0], str) else ""
    marked = isinstance(answers[0], list) and len(turns) == 2
    found = (MARKED if marked else QUESTION).fullmatch(first)
    if found is None:
        raise Unusable("bad_conversation")
    if marked:
        steps = _marked_steps(found[2].split("<prm>"), answers[0], record.get("prm_counts"))
    else:
        if any(answer not in ("+", "-") for answer in answers):
            raise Unusable("bad_label")
        pairs = zip([found[2], *texts[1:]], answers, strict=True)
        steps = [{"step": text, "score": SCORES[answer]} for text, answer in pairs]
    return {"image": image_field(record), "question": found[1], "steps_with_score": steps}


def _marked_steps(texts: list[str], labels: list[Any], counts: Any) -> list[dict[str, Any]]:
    columns: list[Any] = [labels, *([counts.get("k"), counts.get("n")] if isinstance(counts, dict) else [])]
    if not all(isinstance(column, list) and len(column) == len(texts) for column in columns):
        raise Unusable("length_mismatch")
    if len(columns) == 1:
        return [{"step": text, "score": label} for text, label in zip(texts, labels, strict=True)]
    return [
        {"step": text, "score": None if _is_hard_label(label, k, n) else label, "num_mc_correct": k, "num_mc_total": n}
        for text, label, k, n in zip(texts, *columns, strict=True)
    ]


def _is_hard_label(label: object, k: object, n: object) -> bool:
    """Is the label no score but one that K of N were reduced to, s > tau?"""
    if type(k) is not int or type(n) is not int:
        return False
    return k > 0 if label == 1 else label == 0 and (k < n or n == 0)


def _rows(texts: list[Any], columns: list[Any]) -> list[dict[str, Any]]:
    """Steps that are texts, and lists of their scores and counts."""
    lists = [[None] * len(texts) if column is None else column for column in columns]
    if not all(isinstance(column, list) and len(column) == len(texts) for column in lists):
        raise Unusable("length_mismatch")
    return [_raw(*row) for row in zip(texts, *lists, strict=True)]


def _raw(text: object, score: object, correct: object, total: object) -> dict[str, Any]:
    score = float(score) if isinstance(score, bool) else score
    return {"step": text, "score": score, "num_mc_correct": correct, "num_mc_total": total}
