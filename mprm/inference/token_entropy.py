"""How uncertain a model is of the next token.

Shape suffixes: N places, V vocabulary, C places of a chunk.
"""

from __future__ import annotations

import torch

CHUNK = 2**24  # float32 numbers held at once: whole rows of logits at least
NOTHING = -200.0  # a logit so far below the largest has probability 0 in float32, and times it is 0 even for -inf


def token_entropy(logits_NV: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of the softmax over the last dimension, (N,) float32, computed in float32.

    ln V where all are alike, 0 where one alone is possible. Tokens may be impossible (-inf), though not all of a row.
    """
    chunks = logits_NV.split(max(1, CHUNK // logits_NV.shape[-1]))
    return torch.cat([_entropy(chunk.float()) for chunk in chunks])


def _entropy(logits_CV: torch.Tensor) -> torch.Tensor:
    """ln sum(e^z) - sum(z e^z) / sum(e^z), with z the distance to the largest logit."""
    z_CV = (logits_CV - logits_CV.amax(dim=-1, keepdim=True)).clamp(min=NOTHING)
    p_CV = z_CV.exp()
    total_C = p_CV.sum(dim=-1)
    return total_C.log() - (p_CV * z_CV).sum(dim=-1) / total_C
