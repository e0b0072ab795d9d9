"""The last layer of a language model, whose output is wanted at the marks alone.

Shape suffixes: B rows, L tokens of a row, M marks, D hidden size.
"""

from typing import Any

import torch
from torch import nn


class MarksOnly(nn.Module):
    """Mixed into the model's decoder layer, for the last one: behind its attention nothing but the marks matters, a
    hundredth of the tokens that the MLP, most of a layer's work, would see."""

    self_attn: nn.Module
    mlp: nn.Module
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module

    def forward(self, hidden_states: torch.Tensor, marks: torch.Tensor | None = None, **attention: Any) -> torch.Tensor:
        """Hidden states of the marks, (1, M, D), of all (B, L, D) without marks."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **attention)
        h = hidden_states + attended if marks is None else hidden_states[:, marks] + attended[:, marks]
        return h + self.mlp(self.post_attention_layernorm(h))

    def __reduce__(self) -> tuple[Any, ...]:
        """Ranks that are spawned get the layer pickled, and its class has no name in a module."""
        return _unpickled, (type(self).__mro__[2],), self.__dict__


def marks_only(layer: Any) -> Any:
    """A decoder layer's class that computes the marks alone behind its attention."""
    return type(f"MarksOnly{layer.__name__}", (MarksOnly, layer), {})


def _unpickled(layer: Any) -> Any:
    made = marks_only(layer)
    return made.__new__(made)
