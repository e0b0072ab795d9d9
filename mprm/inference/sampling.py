"""Which token comes next: random numbers that a solution owns, whatever is computed beside it.

Shape suffixes: R rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch

from mprm.inference.policy import key_hash


def uniforms(seed: int, key: str, continuation: int, count: int) -> np.ndarray:
    """Numbers in [0, 1) for the tokens of a continuation in turn, (count,) float64; a larger count only adds some."""
    return np.random.default_rng([seed, key_hash(key), continuation]).random(count)


def choose(logits_RV: torch.Tensor, uniform_R: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """The token of every row, (R,): the most likely one at temperature 0, else where the uniform number falls in the
    cumulated probabilities."""
    if temperature == 0:
        return logits_RV.argmax(-1)
    p_RV = (logits_RV.float() / temperature).softmax(-1)
    if top_p < 1:
        p_RV = nucleus(p_RV, top_p)
    below_RV = p_RV.double().cumsum(-1)
    return torch.searchsorted(below_RV, uniform_R[:, None] * below_RV[:, -1:], right=True)[:, 0]


def nucleus(p_RV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The most likely tokens that together reach top_p, (R, V); the others are 0, and the sum is not made 1 again."""
    sorted_RV, order_RV = p_RV.sort(dim=-1, descending=True, stable=True)
    before_RV = sorted_RV.double().cumsum(-1) - sorted_RV
    return torch.zeros_like(p_RV).scatter(-1, order_RV, sorted_RV.where(before_RV < top_p, 0))
