"""Attention inside the segments of one long row, in few large calls.

Shape suffixes: T tokens, H query heads, G key-value heads, R query heads that share one, D head size, S segments of a
block, Q queries, K keys; P places of all blocks, N of one, padding included, X all numbers of a token.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from mprm.batching.collate import Padded, Segments

try:
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.10 has the function without the masks of 2.11, and 2.11 may lack grouped heads.
    VARLEN = set(inspect.signature(varlen_attn).parameters)
except ImportError:
    VARLEN = set()

SEGMENTED = "mprm_segments"  # transformers' name for attend()


def attend(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, segments: Segments, scale: float) -> Tensor:
    """Attention of every query to its segment's keys, (T, H, D): no query sees a key outside its segment. On CUDA in
    half precision a single variable-length flash-attention call; elsewhere batches of padded segments."""
    if _is_flash(q_THD, q_THD.dtype):
        return _flash(q_THD, k_TGD, v_TGD, segments, scale)
    if torch.compiler.is_compiling():
        return _node(q_THD, k_TGD, v_TGD, list(segments.padded), scale)
    return _padded(q_THD, k_TGD, v_TGD, segments.padded, scale)


def make_ready(segments: Segments | None, x: Tensor) -> None:
    """Work out the padding, if attention over tokens such as x needs it, before a compiled layer looks for it."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if segments is not None and not _is_flash(x, dtype):
        _ = segments.padded


def _is_flash(x: Tensor, dtype: torch.dtype) -> bool:
    return x.is_cuda and dtype in (torch.bfloat16, torch.float16) and "window_size" in VARLEN


def _flash(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, segments: Segments, scale: float) -> Tensor:
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
    assert isinstance(attended_THD, Tensor)
    return attended_THD


# ---- padded


def _blocks(q_PX: Tensor, kv_PX: Tensor, padded: Padded) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Queries (S, Q, X), keys with values (S, K, X) and mask of every block."""
    blocks: list[list[int]] = padded.shapes.view(-1, 4).tolist()
    queries, keys = q_PX.split([s * q for s, q, _, _ in blocks]), kv_PX.split([s * k for s, _, k, _ in blocks])
    masks = padded.mask.split([*(s * n_rows * k for s, _, k, n_rows in blocks), 2])
    for (s, q, k, n_rows), q_NX, kv_NX, mask_N in zip(blocks, queries, keys, masks[:-1], strict=True):
        yield q_NX.view(s, q, -1), kv_NX.view(s, k, -1), mask_N.view(s, 1, n_rows, k) if n_rows else None


def _gathered(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, padded: Padded) -> tuple[Tensor, Tensor]:
    """Queries, and keys with values, of all blocks, (P, X): one look-up. As an embedding: its backward is faster than
    that of indexing."""
    q_PX = nn.functional.embedding(padded.query_P, q_THD.flatten(1))
    return q_PX, nn.functional.embedding(padded.key_P, torch.cat([k_TGD, v_TGD], dim=1).flatten(1))


def _padded(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, padded: Padded, scale: float) -> Tensor:
    size, outputs = q_THD.shape[2], []
    for q_SQX, kv_SKX, mask in _blocks(*_gathered(q_THD, k_TGD, v_TGD, padded), padded):
        q_SHQD = q_SQX.unflatten(-1, (-1, size)).transpose(1, 2)
        k_SGKD, v_SGKD = kv_SKX.unflatten(-1, (-1, size)).transpose(1, 2).chunk(2, dim=1)
        attended_SHQD = nn.functional.scaled_dot_product_attention(
            q_SHQD, k_SGKD, v_SGKD, mask, scale=scale, enable_gqa=q_SHQD.shape[1] != k_SGKD.shape[1]
        )
        outputs.append(attended_SHQD.transpose(1, 2).flatten(0, 1).flatten(1))
    return nn.functional.embedding(padded.place_T, torch.cat(outputs)).view_as(q_THD)


@torch.library.custom_op("mprm::attend", mutates_args=())
def _node(q: Tensor, k: Tensor, v: Tensor, padded: list[Tensor], scale: float) -> Tensor:
    """_padded() as one node of a compiled layer, which knows nothing of blocks: their number would compile it anew."""
    return _padded(q, k, v, Padded(*padded), scale)


@torch.library.custom_op("mprm::attend_backward", mutates_args=())
def _node_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, padded: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. A block's weights, (S, G, R, Q, K) float32, are computed again and held meanwhile."""
    (n_tokens, n_heads, size), n_shared = q.shape, k.shape[1]
    laid, found = Padded(*padded), []
    given_PX = gradient.new_zeros(len(laid.query_P), n_heads * size)  # what pads a block has no gradient
    given_PX[laid.place_T] = gradient.flatten(1)
    q_PX, kv_PX = _gathered(q, k, v, laid)
    for both_SQX, kv_SKX, seen in _blocks(torch.cat([q_PX, given_PX], dim=1), kv_PX, laid):
        q_SGRQD, given_SGRQD = both_SQX.unflatten(-1, (2, n_shared, -1, size)).permute(2, 0, 3, 4, 1, 5)
        k_SG1KD, v_SG1KD = kv_SKX.unflatten(-1, (2, n_shared, 1, size)).permute(2, 0, 3, 4, 1, 5)
        score = (q_SGRQD @ k_SG1KD.mT).float() * scale
        weight = (score if seen is None else score.masked_fill(~seen[:, None], -torch.inf)).softmax(-1)
        to_weight = (given_SGRQD @ v_SG1KD.mT).float()
        to_score = (weight * (to_weight - (to_weight * weight).sum(-1, keepdim=True)) * scale).to(q.dtype)
        to_kv = torch.stack([to_score.mT @ q_SGRQD, weight.to(q.dtype).mT @ given_SGRQD]).sum(3)
        to_q = (to_score @ k_SG1KD).permute(0, 3, 1, 2, 4)
        found.append((to_q.flatten(0, 1).flatten(1), to_kv.permute(1, 3, 0, 2, 4).flatten(0, 1).flatten(1)))
    sums = zip(map(torch.cat, zip(*found, strict=True)), (laid.query_P, laid.key_P), strict=True)
    q_TX, kv_TX = (torch.ops.aten.embedding_dense_backward(x_PX, at, n_tokens, -1, False) for x_PX, at in sums)
    kv_TGD = kv_TX.view(n_tokens, 2, *k.shape[1:]).unbind(1)
    k_TGD, v_TGD = (x_TGD.clone(memory_format=torch.contiguous_format) for x_TGD in kv_TGD)
    return q_TX.view(q.shape), k_TGD, v_TGD


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3], *inputs[3])
    ctx.scale = inputs[4]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    q, k, v, *padded = ctx.saved_tensors
    return (*_node_backward(gradient, q, k, v, padded, ctx.scale), [None] * len(padded), None)


_node.register_fake(lambda q, *_: q.new_empty(q.shape))
_node_backward.register_fake(lambda _, *qkv: tuple(x.new_empty(x.shape) for x in qkv[:3]))
_node.register_autograd(_gradients, setup_context=_keep)


# ---- what transformers calls


def _language_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    segments: Segments,
    **_: Any,  # transformers passes positions, dropout and window of its own kernels
) -> tuple[Tensor, None]:
    """transformers' interface: (1, heads, T, D) in, (1, T, heads, D) out. `segments` comes through the model's call."""
    # Under autocast the rotation has made queries and keys float32 again.
    q_THD, k_TGD, v_TGD = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return attend(q_THD, k_TGD, v_TGD, segments, scaling)[None], None


AttentionInterface.register(SEGMENTED, _language_attention)
