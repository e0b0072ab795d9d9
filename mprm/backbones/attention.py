"""Attention inside the segments of one long row, in few large calls.

On CUDA in half precision a single variable-length flash-attention call; elsewhere batches of padded segments.
Both are exact: no query sees a key outside its segment.

Shape suffixes: T tokens, H query heads, G key-value heads, D head size, S segments of a block, Q queries, K keys; P
places of all blocks, N of one, padding included, X all numbers of a token.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from mprm.batching.collate import Segments

try:
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.10 has the function without the masks of 2.11, and 2.11 may lack grouped heads.
    VARLEN = set(inspect.signature(varlen_attn).parameters)
except ImportError:
    VARLEN = set()

NAME = "mprm_segments"


def attend(
    q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, segments: Segments, scale: float
) -> torch.Tensor:
    """Attention of every query to its segment's keys, (T, H, D)."""
    if q_THD.is_cuda and q_THD.dtype in (torch.bfloat16, torch.float16) and "window_size" in VARLEN:
        return _flash(q_THD, k_TGD, v_TGD, segments, scale)
    blocks, place_T = segments.padded
    # One look-up for all blocks. As an embedding: its backward is faster than that of indexing.
    query_P = torch.cat([block.query_SQ.flatten() for block in blocks])
    key_P = torch.cat([block.key_SK.flatten() for block in blocks])
    q_PX = nn.functional.embedding(query_P, q_THD.flatten(1))
    kv_PX = nn.functional.embedding(key_P, torch.cat([k_TGD, v_TGD], dim=1).flatten(1))
    queries = q_PX.split([block.query_SQ.numel() for block in blocks])
    keys = kv_PX.split([block.key_SK.numel() for block in blocks])
    outputs = []
    for (query_SQ, key_SK, mask_S1QK), q_NX, kv_NX in zip(blocks, queries, keys, strict=True):
        q_SHQD = q_NX.view(*query_SQ.shape, *q_THD.shape[1:]).transpose(1, 2)
        kv_S2GKD = kv_NX.view(*key_SK.shape, -1, q_THD.shape[2]).transpose(1, 2)
        k_SGKD, v_SGKD = kv_S2GKD.chunk(2, dim=1)
        attended_SHQD = nn.functional.scaled_dot_product_attention(
            q_SHQD, k_SGKD, v_SGKD, mask_S1QK, scale=scale, enable_gqa=q_SHQD.shape[1] != k_SGKD.shape[1]
        )
        outputs.append(attended_SHQD.transpose(1, 2).flatten(0, 1).flatten(1))
    return nn.functional.embedding(place_T, torch.cat(outputs)).view_as(q_THD)


def _flash(
    q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, segments: Segments, scale: float
) -> torch.Tensor:
    if segments.key is not None:
        # As an embedding: its backward sums a prefix's gradients in float32 and in a fixed order.
        k_TGD, v_TGD = (
            nn.functional.embedding(segments.key, x.flatten(1)).unflatten(1, x.shape[1:]) for x in (k_TGD, v_TGD)
        )
    grouped: dict[str, Any] = {}
    if "enable_gqa" in VARLEN:
        grouped["enable_gqa"] = True
    else:
        repeats = q_THD.shape[1] // k_TGD.shape[1]
        k_TGD, v_TGD = (x.repeat_interleave(repeats, dim=1) for x in (k_TGD, v_TGD))
    attended_THD = varlen_attn(
        q_THD,
        k_TGD,
        v_TGD,
        segments.query_border,
        segments.key_border,
        segments.longest_query,
        segments.longest_key,
        scale=scale,
        # With fewer queries than keys the kernel aligns the last query with the last key, as Segments means it.
        window_size=(-1, 0) if segments.causal else (-1, -1),
        **grouped,
    )
    assert isinstance(attended_THD, torch.Tensor)
    return attended_THD


def _language_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    segments: Segments,
    **_: Any,  # transformers passes positions, dropout and window of its own kernels
) -> tuple[torch.Tensor, None]:
    """transformers' interface: (1, heads, T, D) in, (1, T, heads, D) out. `segments` comes through the model's call."""
    # Under autocast the rotation has made queries and keys float32 again.
    q_THD, k_TGD, v_TGD = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return attend(q_THD, k_TGD, v_TGD, segments, scaling)[None], None


AttentionInterface.register(NAME, _language_attention)
