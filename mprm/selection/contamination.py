"""Which questions and pictures training data and a benchmark share.

Rollouts that have question and image files in common are one question. Of every pair of a question of the training data
and one of the benchmark that are alike in some respect there is one finding:

    copy        the same question, or nearly, about the same picture, or nearly; where either has none, the question
    numbers     the same template with other numbers, whatever the picture
    picture     the same picture, or nearly, and another question
    question    the same question, or nearly, about another picture
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mprm.data.records import Solution
from mprm.data.rollouts import Dataset
from mprm.selection.examples import read_examples
from mprm.selection.likeness import NEAR, NUMBERS, OTHER, WAVES, Questions

FINDINGS = ("copy", "numbers", "picture", "question")
OF_QUESTIONS = ("same", "near", "numbers", "other")
OF_PICTURES = ("bytes", "pixels", "near", "none", "other")  # none: one of the two questions has no picture
NONE, OTHERS = OF_PICTURES.index("none"), OF_PICTURES.index("other")

MATCH = (
    *("finding", "questions are", "similarity", "pictures are", "distance", "source", "line", "rollouts"),
    *("benchmark id", "benchmark source", "solutions", "question", "benchmark question", "images", "benchmark images"),
)

Alike = tuple[int, int, int, int]  # as likeness.alike gives it


class Finding(NamedTuple):
    """Of two, the smaller one matters more."""

    kind: int  # of FINDINGS
    question: int  # of OF_QUESTIONS
    picture: int  # of OF_PICTURES
    distance: int  # of the pictures in bits, -1 where they are not alike
    unlike: float  # 1 - similarity of the questions, 1 where they are not alike


@dataclass
class Asked:
    """Different questions, and the pictures that they are about, each by its number."""

    pictures: dict[str, int] = field(default_factory=dict)  # path from the folder of images -> number
    shown: list[tuple[int, ...]] = field(default_factory=list)  # of every question

    def add(self, images: Iterable[str]) -> None:
        self.shown.append(tuple(self.pictures.setdefault(image, len(self.pictures)) for image in images))


@dataclass
class Benchmark(Asked):
    solutions: list[list[Solution]] = field(default_factory=list)  # of every question
    texts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # -> its questions


@dataclass
class Training(Asked):
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # of its first rollout in the signals
    like: list[dict[int, tuple[int, float]]] = field(default_factory=list)  # by number of the benchmark's text


def check_settings(similarity: float, distance: int, excluded: Collection[str]) -> None:
    """Raises ValueError if one cannot be used."""
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity={similarity} is not in 0 to 1, without 0; give e.g. 0.7")
    if distance >= WAVES**2:
        raise ValueError(
            f"distance={distance}: hashes of pictures have {WAVES**2} bits, so any two are near; give e.g. 16"
        )
    if unknown := sorted(set(excluded).difference(FINDINGS)):
        raise ValueError(f"excluded={unknown[0]} is no finding; give some of {', '.join(FINDINGS)}, as in [copy]")


def asked_by(solutions: Iterable[Solution]) -> Benchmark:
    """The questions of a benchmark's solutions."""
    numbers: dict[tuple[str, tuple[str, ...]], int] = {}
    found = Benchmark()
    for solution in solutions:
        question = (solution.question, tuple(solution.images))
        if question not in numbers:
            numbers[question] = len(numbers)
            found.add(solution.images)
            found.solutions.append([])
            found.texts[solution.question].append(numbers[question])
        found.solutions[numbers[question]].append(solution)
    return found


def asked_in(dataset: Dataset, signals: pa.Table, benchmark: Benchmark, similarity: float) -> Training:
    """The questions of the rollouts that can be trained on, read from the annotations, and what they are like."""
    usable = np.flatnonzero(signals["drop_reason"].is_null().to_numpy())
    _, first = np.unique(signals["question_hash"].take(pa.array(usable)).to_numpy(), return_index=True)
    found = Training(rows=usable[np.sort(first)])
    index = Questions(list(benchmark.texts), similarity)
    for batch in read_examples(dataset, signals.take(pa.array(found.rows))):
        for text, images in zip(batch["question"].to_pylist(), batch["images"].to_pylist(), strict=True):
            found.add(images)
            found.like.append(index.like(text))
    return found


def findings(
    training: Training, benchmark: Benchmark, alike: Iterable[Alike]
) -> tuple[dict[int, tuple[Finding, int]], dict[int, Finding]]:
    """By question of the training data the finding that matters most, and the benchmark's question; and by question of
    the benchmark the finding that matters most. alike: the pictures, numbered as in `training` and `benchmark`."""
    showing: dict[int, list[int]] = defaultdict(list)
    for number, pictures in enumerate(benchmark.shown):
        for picture in pictures:
            showing[picture].append(number)
    resembling: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for ours, theirs, kind, distance in alike:
        resembling[ours].append((kind, distance, theirs))
    of_training: dict[int, tuple[Finding, int]] = {}
    of_benchmark: dict[int, Finding] = {}
    texts = list(benchmark.texts.values())
    for number, pictures in enumerate(training.shown):
        seen: dict[int, tuple[int, int]] = {}  # question of the benchmark -> how like its picture is
        for kind, distance, theirs in (one for picture in pictures for one in resembling.get(picture, ())):
            for other in showing[theirs]:
                seen[other] = min(seen.get(other, (kind, distance)), (kind, distance))
        read = {other: like for text, like in training.like[number].items() for other in texts[text]}
        for other in seen.keys() | read.keys():
            without = not pictures or not benchmark.shown[other]
            finding = _finding(read.get(other), seen.get(other, (NONE if without else OTHERS, -1)))
            if number not in of_training or (finding, other) < of_training[number]:
                of_training[number] = finding, other
            if other not in of_benchmark or finding < of_benchmark[other]:
                of_benchmark[other] = finding
    return of_training, of_benchmark


def _finding(read: tuple[int, float] | None, seen: tuple[int, int]) -> Finding:
    question, similarity = read or (OTHER, 0.0)
    picture, distance = seen
    if question <= NEAR:
        name = "question" if picture == OTHERS else "copy"
    else:
        name = "numbers" if question == NUMBERS else "picture"
    return Finding(FINDINGS.index(name), question, picture, distance, 1 - similarity)


def excluded_records(
    signals: pa.Table, training: Training, found: Mapping[int, tuple[Finding, int]], kinds: Collection[str]
) -> Iterator[dict[str, Any]]:
    """source, line and reason of every rollout of a question with a finding of these kinds, and of those that the data
    set excludes already: one list takes the place of the other."""
    hashes = signals["question_hash"].fill_null(0).to_numpy()
    reasons = {
        int(hashes[training.rows[number]]): FINDINGS[finding.kind]
        for number, (finding, _) in found.items()
        if FINDINGS[finding.kind] in kinds
    }
    listed = np.isin(hashes, list(reasons)) & signals["ranked"].to_numpy()
    listed |= pc.equal(signals["drop_reason"].cast(pa.string()), "excluded").fill_null(False).to_numpy()
    places = signals.select(["source", "line"]).filter(pa.array(listed)).to_pylist()
    for place, question in zip(places, hashes[listed].tolist(), strict=True):
        yield place | {"reason": reasons.get(question, "excluded")}


def matches(
    dataset: Dataset,
    signals: pa.Table,
    training: Training,
    benchmark: Benchmark,
    found: Mapping[int, tuple[Finding, int]],
) -> Iterator[tuple[Any, ...]]:
    """MATCH of every question of the training data with a finding, in the order of the data."""
    numbers = sorted(found)
    rows = signals.take(pa.array(training.rows[numbers], pa.int64()))
    rollouts = Counter(signals["question_hash"].drop_null().to_pylist())
    examples = (example for batch in read_examples(dataset, rows) for example in batch.to_pylist())
    for number, line, example in zip(numbers, rows["line"].to_pylist(), examples, strict=True):
        finding, other = found[number]
        first, *_ = solutions = benchmark.solutions[other]
        ours = (example["source"], line, rollouts[example["question_hash"]])
        questions = (OF_QUESTIONS[finding.question], f"{1 - finding.unlike:.3f}")
        pictures = (OF_PICTURES[finding.picture], finding.distance if finding.distance >= 0 else "")
        texts = (example["question"], first.question, " ".join(example["images"]), " ".join(first.images))
        theirs = (first.id, first.source, len(solutions))
        yield FINDINGS[finding.kind], *questions, *pictures, *ours, *theirs, *texts


def counts_of(
    signals: pa.Table,
    training: Training,
    benchmark: Benchmark,
    of_training: Mapping[int, tuple[Finding, int]],
    of_benchmark: Mapping[int, Finding],
) -> dict[str, dict[str, dict[str, int]]]:
    """Of the training data's questions and of the benchmark's solutions, by source: how many there are `in all`, and
    how many have a finding of each kind."""
    sources = signals["source"].take(pa.array(training.rows)).to_pylist()
    questions = [(source, of_training[n][0] if n in of_training else None) for n, source in enumerate(sources)]
    solutions = [(one.source, of_benchmark.get(n)) for n, asked in enumerate(benchmark.solutions) for one in asked]
    return {"questions_of_the_training_data": _count(questions), "solutions_of_the_benchmark": _count(solutions)}


def _count(found: Sequence[tuple[str, Finding | None]]) -> dict[str, dict[str, int]]:
    counts = {name: {"in all": 0} | dict.fromkeys(FINDINGS, 0) for name in sorted({name for name, _ in found})}
    for name, finding in found:
        counts[name]["in all"] += 1
        if finding is not None:
            counts[name][FINDINGS[finding.kind]] += 1
    return counts
