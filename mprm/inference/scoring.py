"""What a model says of solutions that are given: P(yes) of every step, and the entropy of their tokens.

Shape suffixes: L tokens of a solution, M marks of a row of tokens, U different places among them, C places of a chunk,
D hidden size, 2 logits (no, yes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from mprm.backbones.base import Processor, StepModel
from mprm.backbones.chat import ChatModel, ChatProcessor, encode_text
from mprm.batching.collate import Batch, Example, collate, common_prefix, group_members
from mprm.batching.examples import image_fault, image_tensors, neutralise
from mprm.batching.loading import check_shared_memory, loaded, pixel_bytes
from mprm.batching.order import Lengths, pack, rows_needed
from mprm.data.rollouts import question_hash
from mprm.inference.decoding import token_entropy
from mprm.metrics.predictions import NotScored, StepScores

SEPARATOR = "\n\n"  # ends a step whose entropy is asked for, as the published data joins them
CHUNK = 1024  # places whose logits are held at once
HELD = 8  # rows of max_tokens tokens that are held in memory at once, images included


@dataclass(frozen=True)
class ScoreRequest:
    """One solution to be scored. images: whatever `open_images` knows them by."""

    id: str
    images: Sequence[str]
    question: str
    steps: Sequence[str]


Found = TypeVar("Found")
Vision = dict[str, torch.Tensor]
Sizes = list[tuple[int, int]]  # width, height
OpenImages = Callable[[Sequence[str]], list[Image.Image]]
Scored = Iterator[tuple[str, StepScores | NotScored]]
Looked = tuple[Vision, dict[str, "Example | NotScored"]]  # at a question: its image tensors, its solutions by id


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
    num_workers: int = 0  # processes that decode, tile and tokenise ahead; what is found does not depend on them

    def scores(self, requests: Sequence[ScoreRequest], open_images: OpenImages, whole: bool = False) -> Scored:
        """Scores of every solution by its id, or why it has none, as they come. whole: by a reward model of whole
        answers, each the only step of its request."""

        def encode(sizes: Sizes, request: ScoreRequest) -> Example:
            if whole:
                assert isinstance(self.processor, ChatProcessor)
                return conversation(self.processor, sizes, request.question, *request.steps)
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
        """What `evaluate` makes of every example of a forward pass; it computes when it is called, and what it returns
        waits for the device."""
        self.model.to(self.device).eval()
        questions = [list(members) for _, members in groupby(sorted(requests, key=asked), key=asked)]
        look = partial(self._look, open_images, encode)
        if self.num_workers and questions:
            seen = look_at(max((one[0].images for one in questions), key=len), open_images, self.processor)
            check_shared_memory(0 if isinstance(seen, NotScored) else pixel_bytes([seen[1]]), self.num_workers)
        unusable: list[tuple[str, NotScored]] = []
        batches = self._batches(loaded(questions, look, self.num_workers), unusable)
        batch = next(batches, None)
        while batch is not None:
            found, ids = evaluate(batch), batch.ids
            batch = next(batches, None)  # while a GPU computes, the next row is loaded and on its way
            yield from zip(ids, found, strict=True)
            yield from unusable
            unusable.clear()
        yield from unusable

    def _look(
        self,
        open_images: OpenImages,
        encode: Callable[[Sizes, ScoreRequest], Example],
        members: Sequence[ScoreRequest],
    ) -> Looked:
        """At the solutions of a question, in a loader worker."""
        question, *images = asked(members[0])
        seen = look_at(images, open_images, self.processor)
        if isinstance(seen, NotScored):
            return {}, dict.fromkeys([request.id for request in members], seen)
        sizes, vision = seen
        found: dict[str, Example | NotScored] = {}
        for request in members:
            example = encode(sizes, request)
            found[request.id] = replace(example, id=request.id, group=question_hash(question, images))
            if (length := len(example.input_ids)) > self.max_length:
                reason = f"{length} tokens, more than max_length={self.max_length}"
                found[request.id] = NotScored("too_long", reason)
        return vision, found

    def _batches(self, questions: Iterator[Looked], unusable: list[tuple[str, NotScored]]) -> Iterator[Batch]:
        """Rows on the device; beside them solutions that have none."""
        held: list[Example] = []
        n_tokens = 0
        for vision, found in questions:
            if n_tokens > HELD * self.max_tokens:
                yield from self._moved(held)
                held, n_tokens = [], 0
            if self.num_workers:  # out of the memory that processes share, of which there may be little
                vision = {name: tensor.clone() for name, tensor in vision.items()}
            for name, example in found.items():
                if isinstance(example, NotScored):
                    unusable.append((name, example))
                else:
                    held.append(replace(example, vision=vision))
                    n_tokens += len(example.input_ids)
        yield from self._moved(held)

    def _moved(self, examples: list[Example]) -> Iterator[Batch]:
        device = torch.device(self.device)
        for row in rows(examples, max(self.max_tokens, self.max_length)):
            batch = collate(row)
            yield (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True)


def asked(request: ScoreRequest) -> tuple[str, ...]:
    """The same for the solutions of a question."""
    return request.question, *request.images


def look_at(names: Sequence[str], open_images: OpenImages, processor: Processor) -> tuple[Sizes, Vision] | NotScored:
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
    log_odds_M = logits_M2[:, 1] - logits_M2[:, 0]

    def found() -> Iterator[StepScores]:
        log_odds = log_odds_M.cpu().split(batch.n_marks)
        kappas = [None] * len(log_odds) if kappa_M is None else kappa_M.cpu().split(batch.n_marks)
        for one, kappa in zip(log_odds, kappas, strict=True):
            yield StepScores(tuple(one.tolist()), None if kappa is None else tuple(kappa.tolist()))

    return found()


def _mean_entropies(model: ChatModel, batch: Batch) -> Iterator[float]:
    """The mean over the marks of every example."""
    place_U, number_M = batch.mark_M.unique(return_inverse=True)  # what solutions share is computed once
    h_UD = model.marked(batch, place_U)
    entropy_U = torch.cat([token_entropy(model.hf.lm_head(h_CD)) for h_CD in h_UD.split(CHUNK)])
    entropy_M = entropy_U.double()[number_M]

    def found() -> Iterator[float]:
        for entropy in entropy_M.cpu().split(batch.n_marks):
            yield float(entropy.mean())

    return found()


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


def conversation(processor: ChatProcessor, sizes: Sizes, prompt: str, answer: str) -> Example:
    """A question and its answer in two whole turns, marked at the last token, where a reward model has its score."""
    ids = encode_text(processor.tokenizer, [neutralise(answer)])[0]
    whole = answered(processor.ask(sizes, prompt), [*ids, *processor.closing_ids])
    return replace(whole, marks=torch.tensor([len(whole.input_ids) - 1]))
