"""backbone.exact=false: transformers' own forward pass, one solution after the other, with its own attention, windows
and dropout. Slow, and right whatever the layers are.

Shape suffixes: T tokens of the row, L tokens of a solution, M marks, N image tokens, D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch

from mprm.batching.collate import Batch


def one_by_one(
    batch: Batch, mark_M: torch.Tensor, forward: Callable[[torch.Tensor, int], torch.Tensor]
) -> torch.Tensor:
    """Last hidden states at places of the batch's row, (M, D). forward: those of one solution, (L, D), by the places of
    its tokens and the number of its group."""
    segments, wanted_T = batch.segments, torch.zeros_like(batch.input_ids_T, dtype=torch.bool)
    wanted_T[mark_M] = True
    key = torch.arange(len(wanted_T), device=mark_M.device) if segments.key is None else segments.key
    # A segment's keys are a solution up to the segment's end. What solutions share comes with the longest of them.
    solutions = sorted(key.split(segments.key_border.diff().tolist()), key=len, reverse=True)
    groups = sorted({int(place_L[0]) for place_L in solutions})
    number_T = torch.empty_like(batch.input_ids_T)
    found: list[torch.Tensor] = []
    n_found = 0
    for place_L in solutions:
        own_L = wanted_T[place_L]
        own = place_L[own_L]
        if not len(own):
            continue
        wanted_T[own] = False
        found.append(forward(place_L, groups.index(int(place_L[0])))[own_L])
        number_T[own] = torch.arange(n_found, n_found + len(own), device=own.device)
        n_found += len(own)
    return torch.cat(found)[number_T[mark_M]]


def by_language_model(
    language_model: Any, embeds_1TD: torch.Tensor, deepstack: dict[str, Any], batch: Batch, mark_M: torch.Tensor
) -> torch.Tensor:
    """one_by_one() over a language model that is given what ChatModel.embed() makes of the row."""
    position_ids = batch.position_ids.unsqueeze(-2)

    def forward(place_L: torch.Tensor, group: int) -> torch.Tensor:
        own = {"inputs_embeds": embeds_1TD[:, place_L], "position_ids": position_ids[..., place_L]}
        h_1LD: torch.Tensor = language_model(
            use_cache=False, **own, **_deepstack_of(deepstack, place_L)
        ).last_hidden_state
        return h_1LD[0]

    return one_by_one(batch, mark_M, forward)


def _deepstack_of(deepstack: dict[str, Any], place_L: torch.Tensor) -> dict[str, Any]:
    """Of the tokens at these places."""
    if not deepstack:
        return {}
    (is_image_T,) = deepstack["visual_pos_masks"]
    number_N = (is_image_T.cumsum(0) - 1)[place_L][is_image_T[place_L]]
    return {
        "visual_pos_masks": is_image_T[None, place_L],
        "deepstack_visual_embeds": [added_ND[number_N] for added_ND in deepstack["deepstack_visual_embeds"]],
    }
