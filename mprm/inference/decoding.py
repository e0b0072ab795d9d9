"""Continuations of many begun solutions: their prefixes are computed in one packed row, then all go on in a batch.
Which token comes next is decided by random numbers that a solution owns, whatever is computed beside it.

Shape suffixes: T tokens of the packed row, B different last tokens of prompts, R rows of the batch, P tokens of the
longest prompt, N new tokens, K keys of a row (P + N), H query heads, G key-value heads, D size of a head, V vocabulary,
C places of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache

from mprm.backbones.attention import SEGMENTED
from mprm.backbones.chat import ChatModel
from mprm.batching.collate import Example, collate
from mprm.inference.policy import key_hash

NAME = "mprm_rows"
DROP = 0.75  # rows that have ended leave the batch when no more than this share of it goes on
CHUNK = 2**24  # float32 numbers held at once: whole rows of logits at least
NOTHING = -200.0  # a logit so far below the largest has probability 0 in float32, and times it is 0 even for -inf

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SharedPrefix:
    """Tokens that prompts begin with, computed once."""

    example: Example  # all tokens are marked, so that collate() tells where each stands
    n_question: int  # how many of them are the images and the question
    prompts: list[tuple[int, int]]  # numbers of prompts, and of how many of the tokens each consists


@dataclass(frozen=True)
class Begun:
    """A prompt whose tokens have been computed."""

    place_P: torch.Tensor  # where they stand in the row, (P,)
    position: int  # of the next token
    number: int  # of the row of its logits


@dataclass(frozen=True)
class Prefilled:
    """A packed row that has been computed."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]  # keys and values of every layer at all tokens, (G, T, D) each
    logits_BV: torch.Tensor  # of what comes behind the prompts
    begun: dict[int, Begun]  # by the number of the prompt


def prefill(model: ChatModel, row: Sequence[SharedPrefix], device: torch.device) -> Prefilled:
    """Compute a row, images included, in one pass."""
    batch = collate([prefix.example for prefix in row])
    places = zip(row, batch.mark_M.split(batch.n_marks), strict=True)
    prompts = [(number, place_L[:length]) for prefix, place_L in places for number, length in prefix.prompts]
    last_B, number_of = torch.stack([place_P[-1] for _, place_P in prompts]).unique(return_inverse=True)
    begun = {
        prompt: Begun(place_P, int(batch.position_ids[..., place_P[-1]].max()) + 1, int(number))
        for (prompt, place_P), number in zip(prompts, number_of, strict=True)
    }
    batch = batch.to(device)
    cache = DynamicCache()
    model.language_model.set_attn_implementation(SEGMENTED)
    h_BD = model.marked(batch, last_B.to(device), use_cache=True, past_key_values=cache)
    layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
    return Prefilled(layers, model.hf.lm_head(h_BD), begun)


def decode(
    model: ChatModel,
    prefilled: Prefilled,
    rows: Sequence[Begun],
    uniform_RN: torch.Tensor,
    choose: Choose,
    end_ids: Sequence[int],
    ended: Callable[[int, list[int]], bool] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to N tokens of every row, (R, N), and the entropy (nats) of what each was chosen from, (R, N) float32: of the
    model's own distribution, whatever `choose` makes of it. What stands behind the first one of `end_ids` is void.

    choose: the tokens (R,) for logits (R, V) and the uniform numbers (R,). ended: is a row, by its number, to end
    behind these tokens?
    """
    device = uniform_RN.device
    language_model = model.language_model
    language_model.set_attn_implementation(NAME)
    n_new = uniform_RN.shape[1]
    cache = Cache(prefilled, rows, n_new, device)
    position_R1 = torch.tensor([[row.position] for row in rows], device=device)
    logits_RV = prefilled.logits_BV[[row.number for row in rows]]
    end_E = torch.tensor(end_ids, device=device)
    tokens_RN = end_E[0].repeat(len(rows), n_new)
    entropy_RN = torch.zeros(len(rows), n_new, device=device)
    row_R = torch.arange(len(rows), device=device)  # of the rows in the batch, their number among all
    going_R = torch.ones_like(row_R, dtype=torch.bool)
    for step in range(n_new):
        entropy_RN[row_R, step] = token_entropy(logits_RV)
        logits_RV[:, model.image_ids] = -torch.inf  # a piece of an image cannot be written
        chosen_R = choose(logits_RV, uniform_RN[row_R, step])
        tokens_RN[row_R, step] = chosen_R
        going_R &= ~torch.isin(chosen_R, end_E)
        if ended is not None:
            written = zip(row_R.tolist(), tokens_RN[row_R, : step + 1].tolist(), strict=True)
            going_R &= torch.tensor([not ended(row, ids) for row, ids in written], device=device)
        n_going = int(going_R.sum())
        if n_going == 0 or step == n_new - 1:
            break
        if n_going <= DROP * len(row_R):
            cache.keep(going_R)
            row_R, chosen_R, position_R1 = row_R[going_R], chosen_R[going_R], position_R1[going_R]
            going_R = going_R[going_R]
        h_R1D = language_model(
            inputs_embeds=model.hf.get_input_embeddings()(chosen_R)[:, None],
            position_ids=position_R1 + step,
            attention_mask=cache.grow(),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits_RV = model.hf.lm_head(h_R1D[:, 0])
    return tokens_RN, entropy_RN


class Cache:
    """Keys and values of a batch's rows, padded on the left, with room for all new tokens: what transformers' layers
    call `past_key_values`."""

    def __init__(self, prefilled: Prefilled, rows: Sequence[Begun], n_new: int, device: torch.device) -> None:
        lengths = [len(row.place_P) for row in rows]
        self.end = max(lengths)
        place_RP = torch.zeros(len(rows), self.end, dtype=torch.int64)
        self.seen_R11K = torch.ones(len(rows), 1, 1, self.end + n_new, dtype=torch.bool, device=device)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            place_RP[number, self.end - length :] = row.place_P
            self.seen_R11K[number, ..., : self.end - length] = False
        place_RP = place_RP.to(device)
        self.layers = [
            (self._gathered(k, place_RP, n_new), self._gathered(v, place_RP, n_new)) for k, v in prefilled.layers
        ]

    def _gathered(self, x_GTD: torch.Tensor, place_RP: torch.Tensor, n_new: int) -> torch.Tensor:
        """(R, G, K, D)."""
        x_RGKD = x_GTD.new_empty(len(place_RP), len(x_GTD), self.end + n_new, x_GTD.shape[-1])
        x_RGKD[:, :, : self.end] = x_GTD[:, place_RP].transpose(0, 1)
        return x_RGKD

    def grow(self) -> torch.Tensor:
        """Make room for a token in every row; returns which keys it sees, (R, 1, 1, K)."""
        self.end += 1
        return self.seen_R11K[..., : self.end]

    def update(
        self, k_RG1D: torch.Tensor, v_RG1D: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the token's keys and values where there is room; returns all of the layer."""
        keys, values = self.layers[layer]
        keys[:, :, self.end - 1 : self.end] = k_RG1D
        values[:, :, self.end - 1 : self.end] = v_RG1D
        return keys[:, :, : self.end], values[:, :, : self.end]

    def keep(self, chosen_R: torch.Tensor) -> None:
        self.seen_R11K = self.seen_R11K[chosen_R]
        self.layers = [(keys[chosen_R], values[chosen_R]) for keys, values in self.layers]


def _row_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float,
    **_: Any,  # transformers passes positions, dropout and window of its own kernels
) -> tuple[torch.Tensor, None]:
    """transformers' interface for one new token per row: (R, H, 1, D) in, (R, 1, H, D) out. Heads that share keys are
    laid out as queries of one head, so that the keys need not be repeated for them."""
    q_RGQD = query.reshape(len(key), key.shape[1], -1, key.shape[-1])
    out_RGQD = nn.functional.scaled_dot_product_attention(q_RGQD, key, value, attention_mask, scale=scaling)
    return out_RGQD.reshape(len(key), 1, -1, key.shape[-1]), None


AttentionInterface.register(NAME, _row_attention)


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


def token_entropy(logits_NV: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of the softmax over the last dimension, (N,), computed in float32. Tokens may be impossible
    (-inf), though not all of a row."""
    entropies = []
    for logits_CV in logits_NV.split(max(1, CHUNK // logits_NV.shape[-1])):
        # ln sum(e^z) - sum(z e^z) / sum(e^z), with z the distance to the largest logit.
        z_CV = logits_CV.float()
        z_CV = (z_CV - z_CV.amax(dim=-1, keepdim=True)).clamp(min=NOTHING)
        p_CV = z_CV.exp()
        total_C = p_CV.sum(dim=-1)
        entropies.append(total_C.log() - (p_CV * z_CV).sum(dim=-1) / total_C)
    return torch.cat(entropies)
