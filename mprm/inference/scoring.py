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
from mprm.batching.examples import image_fault, neutralise
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
Sizes = list[tuple[int, int]]  # width, height
OpenImages = Callable[[Sequence[str]], list[Image.Image]]
Scored = Iterator[tuple[str, StepScores | NotScored]]


@dataclass(frozen=True)
class Scoring:
    """A model that reads solutions, those of one question together: their images are opened once, and images and prompt
    are computed once in a forward pass.

    A solution without a readable image or with more than max_length tokens is not scored, never shortened or replaced.
    At most max_tokens tokens share a forward pass. What is found depends on neither that nor company.
    """

    model: StepModel
    processor: Processor
    max_length: int
    max_tokens: int
    device: str

    def scores(self, requests: Sequence[ScoreRequest], open_images: OpenImages) -> Scored:
        """Scores of every solution by its id, or why it has none, as they come."""

        def encode(sizes: Sizes, request: ScoreRequest) -> Example:
            return self.processor.layout(sizes, request.question, list(request.steps))

        return self._each(requests, open_images, encode, partial(step_scores, self.model))

    def entropies(
        self, requests: Sequence[ScoreRequest], open_images: OpenImages
    ) -> Iterator[tuple[str, float | NotScored]]:
        """Entropy in nats of every solution by its id, or why it has none, as they come.

        It is the mean over the tokens of the steps, each ended by two newlines, of the entropy of the model's
        next-token distribution where that token comes: behind the chat prompt of the images and the question and all
        tokens before. Tokens of prompt and images are not counted.

        Raises ValueError for a model that does not write text.
        """
        model, processor = self.model, self.processor
        if not isinstance(model, ChatModel) or not isinstance(processor, ChatProcessor):
            raise ValueError(
                f"backbone: {type(model).__name__} writes no text, so that rollouts have no entropy under it; choose a "
                "chat model, e.g. backbone=chartworld_internvl"
            )
        asked = processor  # of a known type inside encode()

        def encode(sizes: Sizes, request: ScoreRequest) -> Example:
            return answered(asked.ask(sizes, request.question), step_ids(asked, request.steps, SEPARATOR))

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
        self.model.to(self.device).eval()
        held: list[Example] = []
        n_tokens = 0
        for (question, *images), members in groupby(sorted(requests, key=_asked), key=_asked):
            if n_tokens > HELD * self.max_tokens:
                yield from self._evaluated(held, evaluate)
                held, n_tokens = [], 0
            seen = _seen(images, open_images, self.processor)
            for request in members:
                if isinstance(seen, NotScored):
                    yield request.id, seen
                    continue
                sizes, vision = seen
                example = encode(sizes, request)
                length = len(example.input_ids)
                if length > self.max_length:
                    reason = f"{length} tokens, more than backbone.max_length={self.max_length}"
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


def _asked(request: ScoreRequest) -> tuple[str, ...]:
    return request.question, *request.images


def _seen(
    names: Sequence[str], open_images: OpenImages, processor: Processor
) -> tuple[Sizes, dict[str, torch.Tensor]] | NotScored:
    """Sizes and tensors of a question's images."""
    if not names:
        return NotScored("no_image", "there is no image")
    try:
        images = open_images(names)
    except ValueError as error:
        return NotScored(image_fault(error), " ".join(str(error).split()))
    try:
        return [image.size for image in images], processor.vision(images)
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
    """Of every example of the batch."""
    logits_M2, kappa_M = model(batch)
    log_odds = (logits_M2[:, 1] - logits_M2[:, 0]).cpu().split(batch.n_marks)
    kappas = [None] * len(log_odds) if kappa_M is None else kappa_M.cpu().split(batch.n_marks)
    for one, kappa in zip(log_odds, kappas, strict=True):
        yield StepScores(tuple(one.tolist()), None if kappa is None else tuple(kappa.tolist()))


def _mean_entropies(model: ChatModel, batch: Batch) -> Iterator[float]:
    """Of every example of the batch, the mean over its marks."""
    place_U, number_M = batch.mark_M.unique(return_inverse=True)  # what solutions share is computed once
    h_UD = model.marked(batch, place_U)
    entropy_U = torch.cat([token_entropy(model.hf.lm_head(h_CD)) for h_CD in h_UD.split(CHUNK)])
    for entropy in entropy_U.double()[number_M].cpu().split(batch.n_marks):
        yield float(entropy.mean())


def step_ids(processor: ChatProcessor, steps: Sequence[str], separator: str) -> list[int]:
    """Token ids of the steps, each with the separator that ends it.

    Step by step, so that the tokens of fewer steps are the first ones of more steps.
    """
    if not steps:
        return []
    texts = [neutralise(step) + separator for step in steps]
    return [token for piece in encode_text(processor.tokenizer, texts) for token in piece]


def answered(asked: Example, ids: list[int]) -> Example:
    """The tokens `ids` behind what ChatProcessor.ask() gave, marked at the place before each: the one that predicts it.

    Positions of text count on, alike in all dimensions.
    """
    begun, length = len(asked.input_ids), len(asked.input_ids) + len(ids)
    behind = asked.position_ids[..., -1:] + torch.arange(1, len(ids) + 1)
    return replace(
        asked,
        input_ids=torch.cat([asked.input_ids, torch.tensor(ids, dtype=torch.int64)]),
        position_ids=torch.cat([asked.position_ids, behind], dim=-1),
        marks=torch.arange(begun - 1, length - 1),
    )
