"""What a model says of solutions that are given: P(yes) of every step, and the entropy of their tokens; and a file of
solutions written again with its step scores (`task=score`).

Shape suffixes: L tokens of a solution, M marks of a row of tokens, U different places among them, C places of a chunk,
D hidden size, 2 logits (no, yes).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from mprm.backbones.base import Processor, StepModel
from mprm.backbones.chat import ChatModel, ChatProcessor, encode_text
from mprm.batching.collate import Batch, Example, collate, common_prefix, group_members
from mprm.batching.examples import image_fault, image_tensors, neutralise
from mprm.batching.order import Lengths, pack, rows_needed
from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Dropped, Unusable, check_text, first_keys, read_json_lines
from mprm.data.records import image_field, image_names
from mprm.data.rollouts import question_hash
from mprm.data.visualprm400k import question_text
from mprm.inference.decoding import token_entropy
from mprm.metrics.predictions import NotScored, StepScores
from mprm.runs.artifacts import file_hash
from mprm.runs.journal import Journal, journal

SEPARATOR = "\n\n"  # ends a step whose entropy is asked for, as the published data joins them
CHUNK = 1024  # places whose logits are held at once
HELD = 8  # rows of max_tokens tokens that are held in memory at once, images included
WANTED = "JSON lines with image, question and steps, or records of VisualProcessBench or VisualPRM400K-v1.1-Raw"
AT_ONCE = 64  # solutions: what a kill can lose


@dataclass(frozen=True)
class ScoreRequest:
    """One solution to be scored. images: whatever `open_images` knows them by."""

    id: str
    images: Sequence[str]
    question: str
    steps: Sequence[str]


Found = TypeVar("Found")
Sizes = list[tuple[int, int]]  # width, height
OpenImages = Callable[[Sequence[str]], list[Image.Image]]
Scored = Iterator[tuple[str, StepScores | NotScored]]
Score = Callable[[Sequence[ScoreRequest]], Scored]


@dataclass(frozen=True)
class Scoring:
    """A model that reads solutions, those of one question together: images are opened once, and images and prompt are
    computed once in a forward pass. What is found depends on neither max_tokens nor company. A solution with an
    unreadable image or more than max_length tokens is not scored, never shortened or replaced."""

    model: StepModel
    processor: Processor
    max_length: int
    max_tokens: int  # that share a forward pass, at most
    device: str

    def scores(self, requests: Sequence[ScoreRequest], open_images: OpenImages) -> Scored:
        """Scores of every solution by its id, or why it has none, as they come."""

        def encode(sizes: Sizes, request: ScoreRequest) -> Example:
            return self.processor.layout(sizes, request.question, list(request.steps))

        return self._each(requests, open_images, encode, partial(step_scores, self.model))

    def entropies(
        self, requests: Sequence[ScoreRequest], open_images: OpenImages
    ) -> Iterator[tuple[str, float | NotScored]]:
        """Entropy in nats of every solution by its id, or why it has none, as they come: of the model's next-token
        distribution behind the chat prompt of images and question and all tokens before, the mean over the tokens of
        the steps, each ended by two newlines. Raises ValueError for a model that does not write text."""
        model, processor = self.model, self.processor
        if not isinstance(model, ChatModel) or not isinstance(processor, ChatProcessor):
            raise ValueError(
                f"backbone: {type(model).__name__} writes no text, so that rollouts have no entropy under it; choose a "
                "chat model, e.g. backbone=chartworld_internvl"
            )

        def encode(sizes: Sizes, request: ScoreRequest, processor: ChatProcessor = processor) -> Example:
            return answered(processor.ask(sizes, request.question), step_ids(processor, request.steps, SEPARATOR))

        return self._each(requests, open_images, encode, partial(_mean_entropies, model))

    @torch.inference_mode()
    def _each(
        self,
        requests: Sequence[ScoreRequest],
        open_images: OpenImages,
        encode: Callable[[Sizes, ScoreRequest], Example],
        evaluate: Callable[[Batch], Iterator[Found]],
    ) -> Iterator[tuple[str, Found | NotScored]]:
        """What `evaluate` makes of every example of a forward pass."""

        def asked(request: ScoreRequest) -> tuple[str, ...]:
            return request.question, *request.images

        self.model.to(self.device).eval()
        held: list[Example] = []
        n_tokens = 0
        for (question, *images), members in groupby(sorted(requests, key=asked), key=asked):
            if n_tokens > HELD * self.max_tokens:
                yield from self._evaluated(held, evaluate)
                held, n_tokens = [], 0
            seen = look_at(images, open_images, self.processor)
            for request in members:
                if isinstance(seen, NotScored):
                    yield request.id, seen
                    continue
                sizes, vision = seen
                example = encode(sizes, request)
                length = len(example.input_ids)
                if length > self.max_length:
                    reason = f"{length} tokens, more than max_length={self.max_length}"
                    yield request.id, NotScored("too_long", reason)
                    continue
                held.append(replace(example, vision=vision, id=request.id, group=question_hash(question, images)))
                n_tokens += length
        yield from self._evaluated(held, evaluate)

    def _evaluated(
        self, examples: list[Example], evaluate: Callable[[Batch], Iterator[Found]]
    ) -> Iterator[tuple[str, Found]]:
        for row in rows(examples, max(self.max_tokens, self.max_length)):
            batch = collate(row).to(torch.device(self.device))
            yield from zip(batch.ids, evaluate(batch), strict=True)


def look_at(
    names: Sequence[str], open_images: OpenImages, processor: Processor
) -> tuple[Sizes, dict[str, torch.Tensor]] | NotScored:
    """Sizes and tensors of the images of a solution, or why it cannot be used."""
    try:
        images = open_images(names)
    except ValueError as error:
        return NotScored(image_fault(error), " ".join(str(error).split()))
    try:
        return [image.size for image in images], image_tensors(images, processor)
    except ValueError as error:
        return NotScored("refused_image", " ".join(str(error).split()))


def rows(examples: list[Example], max_tokens: int) -> list[list[Example]]:
    """The examples in rows of at most max_tokens, those of one question together as far as they fit."""
    if not examples:
        return []
    shared = np.empty(len(examples), dtype=np.int64)
    question = np.empty(len(examples), dtype=np.int64)
    for number, members in enumerate(group_members(examples)):
        shared[members] = common_prefix([examples[i].input_ids for i in members])
        question[members] = number
    lengths = Lengths(np.array([len(example.input_ids) for example in examples]), shared, question)
    everything = list(range(len(examples)))
    packed = pack(lengths, everything, max_tokens, rows_needed(lengths, everything, max_tokens))
    assert packed is not None
    return [[examples[i] for i in row] for row in packed if row]


def step_scores(model: StepModel, batch: Batch) -> Iterator[StepScores]:
    logits_M2, kappa_M = model(batch)
    log_odds = (logits_M2[:, 1] - logits_M2[:, 0]).cpu().split(batch.n_marks)
    kappas = [None] * len(log_odds) if kappa_M is None else kappa_M.cpu().split(batch.n_marks)
    for one, kappa in zip(log_odds, kappas, strict=True):
        yield StepScores(tuple(one.tolist()), None if kappa is None else tuple(kappa.tolist()))


def _mean_entropies(model: ChatModel, batch: Batch) -> Iterator[float]:
    """The mean over the marks of every example."""
    place_U, number_M = batch.mark_M.unique(return_inverse=True)  # what solutions share is computed once
    h_UD = model.marked(batch, place_U)
    entropy_U = torch.cat([token_entropy(model.hf.lm_head(h_CD)) for h_CD in h_UD.split(CHUNK)])
    for entropy in entropy_U.double()[number_M].cpu().split(batch.n_marks):
        yield float(entropy.mean())


def step_ids(processor: ChatProcessor, steps: Sequence[str], separator: str) -> list[int]:
    """Token ids of the steps, each with the separator that ends it: the tokens of fewer steps begin those of more."""
    if not steps:
        return []
    texts = [neutralise(step) + separator for step in steps]
    return [token for piece in encode_text(processor.tokenizer, texts) for token in piece]


def answered(asked: Example, ids: list[int]) -> Example:
    """The tokens `ids` behind what ChatProcessor.ask() gave, marked at the place before each: the one that predicts it.
    Positions of text count on, alike in all dimensions."""
    begun, length = len(asked.input_ids), len(asked.input_ids) + len(ids)
    behind = asked.position_ids[..., -1:] + torch.arange(1, len(ids) + 1)
    return replace(
        asked,
        input_ids=torch.cat([asked.input_ids, torch.tensor(ids, dtype=torch.int64)]),
        position_ids=torch.cat([asked.position_ids, behind], dim=-1),
        marks=torch.arange(begun - 1, length - 1),
    )


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


def score_kept(kept: Journal, requests: Sequence[ScoreRequest], score: Score) -> dict[str, StepScores | NotScored]:
    """Scores of the solutions by id: those that the journal has, and the others', which it keeps as they come."""
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
