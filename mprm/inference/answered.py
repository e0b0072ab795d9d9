"""A question as a chat model is asked it, and begun answers to it, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mprm.backbones.chat import ChatProcessor, encode_text
from mprm.batching.collate import Example
from mprm.batching.prompt import neutralise


def step_ids(processor: ChatProcessor, steps: Sequence[str], separator: str) -> list[int]:
    """Token ids of the steps, each with the separator that ends it.

    Step by step, so that the tokens of fewer steps are the first ones of more steps.
    """
    if not steps:
        return []
    texts = [neutralise(step) + separator for step in steps]
    return [token for piece in encode_text(processor.tokenizer, texts) for token in piece]


def answered(asked: Example, ids: list[int]) -> Example:
    """The tokens `ids` behind what ask() gave, all tokens marked. Positions of text count on, alike in all
    dimensions."""
    length = len(asked.input_ids) + len(ids)
    behind = asked.position_ids[..., -1:] + torch.arange(1, len(ids) + 1)
    return replace(
        asked,
        input_ids=torch.cat([asked.input_ids, torch.tensor(ids, dtype=torch.int64)]),
        position_ids=torch.cat([asked.position_ids, behind], dim=-1),
        marks=torch.arange(length),
    )
