"""Stage 1, reasoning enhancement: supervised fine-tuning on traces whose verdict is the label.

Shape suffixes: M marks (one before every token of a response), C marks of a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from mprm.backbones.chat import ChatModel, ChatProcessor, encode_text
from mprm.batching.collate import Batch, Example, collate
from mprm.batching.examples import image_tensors, in_every_row, neutralise, open_images
from mprm.data.questions import Pair
from mprm.inference.scoring import answered
from mprm.judge.judge import JudgeSettings, PresentedPair, present
from mprm.training.lengths import Measured
from mprm.training.module import Mean, TrainingModule
from mprm.training.recipe import Recipe, Schedule

CHUNK = 1024  # marks whose logits are held at once


@dataclass(frozen=True, kw_only=True)
class SFT(Recipe):
    """Component `sft`; global_batch_size: traces per optimizer step."""

    GROUP: ClassVar[str] = "sft"


def faithful_traces(
    pairs: Iterable[Pair], judge: JudgeSettings, image_path: Callable[[str], Path]
) -> tuple[list[PresentedPair], dict[str, int]]:
    """The pairs whose trace ends in the label's verdict, in the order of the record, which is the trace's; and how many
    others there are: no_trace, no_verdict (not a single one, at the end) or other_verdict."""
    kept: list[PresentedPair] = []
    left_out = Counter[str]()
    for pair in pairs:
        if pair.trace is None:
            left_out["no_trace"] += 1
            continue
        one = present(pair, tuple(map(image_path, pair.images)), swapped=False)
        verdict = judge.verdict_of(pair.trace)
        if verdict == one.better:
            kept.append(one)
        else:
            left_out["no_verdict" if verdict is None else "other_verdict"] += 1
    return kept, dict(left_out)


# ---- responses in a row, and how likely they are


@dataclass(frozen=True)
class ResponseBatch:
    """A row of prompts with responses."""

    row: Batch  # its weight_M: of a mark's token in the loss
    token_M: torch.Tensor  # which every mark predicts

    def to(self, device: torch.device, non_blocking: bool = False) -> ResponseBatch:
        return ResponseBatch(self.row.to(device, non_blocking), self.token_M.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ResponseBatch:
        return replace(self, row=self.row.pin_memory())


def collate_responses(examples: Sequence[Example]) -> ResponseBatch:
    """Collate what answered() gave; prompts that are alike stand in the row once."""
    return ResponseBatch(collate(examples), torch.cat([example.input_ids[example.marks + 1] for example in examples]))


def log_likelihood(model: ChatModel, responses: ResponseBatch, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of every token given all before it, (M,) float32, at the temperature it was drawn with, among
    the tokens that can be written: a piece of an image cannot.

    Logits of the whole vocabulary are held for a chunk of the marks only, and computed again for the gradient.
    """
    h_MD = model.marked(responses.row)

    def chunk(h_CD: torch.Tensor, token_C: torch.Tensor) -> torch.Tensor:
        logits_CV = model.hf.lm_head(h_CD).float() / temperature
        for token in model.image_ids:  # a list would be copied to the device, which waits for it
            logits_CV[:, token] = -torch.inf
        return logits_CV.log_softmax(-1).gather(-1, token_C[:, None])[:, 0]

    parts = zip(h_MD.split(CHUNK), responses.token_M.split(CHUNK), strict=True)
    return torch.cat([checkpoint(chunk, *part, use_reentrant=False) for part in parts])


# ---- what is learnt


class PresentedPairs:
    """Map-style view of pairs, asked for as batching's Examples are. entropy: (N,), nats."""

    def __init__(
        self, pairs: Sequence[PresentedPair], processor: ChatProcessor, entropy: np.ndarray | None = None
    ) -> None:
        self.pairs, self.processor = pairs, processor
        self.entropy = np.full(len(pairs), np.nan) if entropy is None else entropy
        self.question = np.arange(len(pairs))  # no two pairs share their whole prompt
        self.ids = [one.pair.id for one in pairs]
        self.images = [one.images for one in pairs]
        self.image_path: Callable[[Any], Path] = Path

    def origin(self, position: int) -> dict[str, Any]:
        return {"id": self.ids[position], "source": self.pairs[position].pair.source}

    def __len__(self) -> int:
        return len(self.pairs)

    def pixels(self, keys: Sequence[tuple[int, float]]) -> list[dict[str, torch.Tensor]]:
        """Image tensors of every pair of a row."""
        images = [open_images(self.pairs[position].images) for position, _ in keys]
        return in_every_row([image_tensors(shown, self.processor) for shown in images], self.processor)


class Prompts(PresentedPairs):
    """What a judge is asked about pairs."""

    def __init__(
        self,
        pairs: Sequence[PresentedPair],
        processor: ChatProcessor,
        judge: JudgeSettings,
        entropy: np.ndarray | None = None,
    ) -> None:
        super().__init__(pairs, processor, entropy)
        self.judge = judge

    def layout(self, position: int) -> Example:
        """The prompt without its pixels."""
        asked = self.judge.layout(self.pairs[position], self.processor)
        return replace(asked, id=self.ids[position], group=position)

    def __getitems__(self, keys: Sequence[tuple[int, float]]) -> list[Any]:
        """Positions and weights: an image is opened where responses to its question are drawn."""
        return list(keys)


class Traces(Prompts):
    """Prompts with their traces, and with the errors of batching's Examples."""

    def layout(self, position: int) -> Example:
        """The prompt and its trace without its pixels."""
        trace = self.pairs[position].pair.trace
        assert trace is not None
        ids = encode_text(self.processor.tokenizer, [neutralise(trace.strip())])[0]
        return answered(super().layout(position), [*ids, self.processor.turn_end_id])

    def __getitems__(self, keys: Sequence[tuple[int, float]]) -> list[Example]:
        """The examples of one row, given by position and weight."""
        return [
            replace(self.layout(position), vision=pixels, weight=weight)
            for (position, weight), pixels in zip(keys, self.pixels(keys), strict=True)
        ]


class Imitation(TrainingModule):
    """Teaches a judge the tokens of its Traces. Logged: train/loss, the mean cross-entropy of a token, and
    train/likelihood, the mean probability."""

    model: ChatModel

    def __init__(self, model: ChatModel, schedule: Schedule) -> None:
        super().__init__(model, schedule, {"loss": Mean(), "likelihood": Mean()})

    @staticmethod
    def collate(examples: list[Example]) -> ResponseBatch:
        return collate_responses(examples)

    def prepare(self) -> None:
        self.model.train_generation()

    def terms(self, part: Measured) -> np.ndarray:
        """Tokens of every trace."""
        tokens = np.zeros(len(part.lengths), dtype=np.int64)
        tokens[part.usable] = [len(part.examples.layout(position).marks) for position in part.usable.tolist()]
        return tokens

    def loss(self, batch: ResponseBatch) -> torch.Tensor:
        logp_M = log_likelihood(self.model, batch)
        counted_M = (batch.row.weight_M > 0).float()  # a row left empty has a filler
        self.curve["loss"].update(-logp_M.detach(), counted_M)
        self.curve["likelihood"].update(logp_M.detach().exp(), counted_M)
        return -(logp_M * batch.row.weight_M).sum()
