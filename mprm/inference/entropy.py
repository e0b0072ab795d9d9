"""How uncertain a chat model is of solutions that are given: the mean entropy of the next token over their steps.

Shape suffixes: M marks of a row of tokens, U different places among them, C places of a chunk, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.batching.collate import Example, collate
from mprm.data.rollouts import question_hash
from mprm.inference.answered import answered, step_ids
from mprm.inference.predict import OpenImages, Scorable, rows, seen_by
from mprm.inference.token_entropy import token_entropy
from mprm.metrics.step_scores import NotScored

SEPARATOR = "\n\n"  # ends a step, as the published data joins them
CHUNK = 1024  # places whose logits are held at once
HELD = 8  # rows of max_tokens tokens that are held in memory at once, images included


@torch.inference_mode()
def rollout_entropies(
    model: ChatModel,
    processor: ChatProcessor,
    solutions: Sequence[Scorable],
    open_images: OpenImages,
    max_length: int,
    max_tokens: int,
    device: str,
) -> Iterator[tuple[str, float | NotScored]]:
    """Entropy in nats of every solution by its id, or why it has none, as they come: solutions of one question
    together.

    It is the mean over the tokens of the steps, each ended by two newlines, of the entropy of the model's next-token
    distribution where that token comes: behind the chat prompt of the images and the question and all tokens before.
    Tokens of prompt and images are not counted.

    A solution without a readable image or with more than max_length tokens, prompt included, has none. At most
    max_tokens tokens share a forward pass; solutions of one question share their prefix in it. The entropies depend on
    neither, but for the rounding of the logits.
    """
    model.to(device).eval()
    held: list[Example] = []
    n_tokens = 0
    for _, members in groupby(sorted(solutions, key=_asked), key=_asked):
        if n_tokens > HELD * max_tokens:
            yield from _entropies(model, held, max(max_tokens, max_length), device)
            held, n_tokens = [], 0
        for name, found in _encoded(processor, list(members), open_images, max_length):
            if isinstance(found, NotScored):
                yield name, found
            else:
                held.append(found)
                n_tokens += len(found.input_ids)
    yield from _entropies(model, held, max(max_tokens, max_length), device)


def _asked(solution: Scorable) -> tuple[str, ...]:
    return solution.question, *solution.images


def _encoded(
    processor: ChatProcessor, solutions: Sequence[Scorable], open_images: OpenImages, max_length: int
) -> Iterator[tuple[str, Example | NotScored]]:
    """Solutions of one question, marked where the next token is one of a step: one place before each of them."""
    question, images = solutions[0].question, solutions[0].images
    seen = seen_by(images, open_images, processor)
    if isinstance(seen, NotScored):
        yield from ((solution.id, seen) for solution in solutions)
        return
    sizes, vision = seen
    asked = replace(processor.ask(sizes, question), vision=vision, group=question_hash(question, list(images)))
    for solution in solutions:
        example = answered(asked, step_ids(processor, solution.steps, SEPARATOR))
        length = len(example.input_ids)
        if length > max_length:
            yield solution.id, NotScored("too_long", f"{length} tokens, more than backbone.max_length={max_length}")
        else:
            marks = torch.arange(len(asked.input_ids) - 1, length - 1)
            yield solution.id, replace(example, marks=marks, id=solution.id)


def _entropies(model: ChatModel, examples: list[Example], max_tokens: int, device: str) -> Iterator[tuple[str, float]]:
    """Mean entropies over the marks of encoded solutions, in forward passes of at most max_tokens tokens."""
    for row in rows(examples, max_tokens):
        batch = collate(row)
        place_U, number_M = batch.mark_M.unique(return_inverse=True)  # what solutions share is computed once
        batch = batch.to(torch.device(device))
        h_1UD = model.hidden(
            batch.input_ids_T[None],
            batch.position_ids.unsqueeze(-2),
            batch.vision,
            segments=batch.segments,
            marks=place_U.to(device),
        )
        entropy_U = torch.cat([token_entropy(model.hf.lm_head(h_CD)) for h_CD in h_1UD[0].split(CHUNK)])
        entropy_M = entropy_U.cpu().double()[number_M]
        yield from zip(batch.ids, (float(part.mean()) for part in entropy_M.split(batch.n_marks)), strict=True)
