"""Responses as a judge is trained on them: the places that predict their tokens, and the log-likelihood of these.

Shape suffixes: M marks (one before every token of a response), C marks of a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.checkpoint import checkpoint

from mprm.backbones.chat import ChatModel
from mprm.batching.collate import Batch, Example, collate

CHUNK = 1024  # marks whose logits are held at once


@dataclass(frozen=True)
class Responses:
    """A row of prompts with responses. token_M: the token that each mark of the row predicts; the row's weight_M is the
    weight of that token in the loss."""

    row: Batch
    token_M: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Responses:
        return Responses(self.row.to(device, non_blocking), self.token_M.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Responses:
        return replace(self, row=self.row.pin_memory())


def in_a_row(examples: Sequence[Example]) -> Responses:
    """Collate what answered() gave; prompts that are alike stand in the row once."""
    return Responses(collate(examples), torch.cat([example.input_ids[example.marks + 1] for example in examples]))


def log_likelihood(model: ChatModel, responses: Responses, temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of every token given all before it, (M,) float32, at the temperature it was drawn with, among
    the tokens that can be written: a piece of an image cannot.

    Logits of the whole vocabulary are held for a chunk of the marks only, and computed again for the gradient.
    """
    h_MD = model.marked(responses.row)
    parts = zip(h_MD.split(CHUNK), responses.token_M.split(CHUNK), strict=True)
    return torch.cat([checkpoint(_chunk, model, *part, temperature, use_reentrant=False) for part in parts])


def _chunk(model: ChatModel, h_CD: torch.Tensor, token_C: torch.Tensor, temperature: float) -> torch.Tensor:
    logits_CV = model.hf.lm_head(h_CD).float() / temperature
    logits_CV[:, model.hf.config.image_token_id] = -torch.inf
    return logits_CV.log_softmax(-1).gather(-1, token_C[:, None])[:, 0]
