"""trainer.compile: decoder layers and vision blocks by torch.compile, each on its own, for rows of any length.

Equal layers share what is compiled. A layer is one graph: attention stands in it as a node that knows nothing of the
row's segments (backbones/attention.py), and activation checkpointing and DeepSpeed's hooks stay outside.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mprm.training.recipe import Machine


def compile_layers(model: nn.Module, machine: Machine) -> None:
    """Compile the forward pass of transformers' layers in place. The names of parameters stay what they are."""
    for layer in _layers(model):
        if machine.strategy == "deepspeed_stage_3":
            from deepspeed.utils import set_z3_leaf_module

            set_z3_leaf_module(layer, True)  # parameters are gathered before a layer, not inside it
        layer.forward = torch.compile(layer.forward, dynamic=True)


def restore_layers(model: nn.Module) -> None:
    """Undo compile_layers(): a model that is sent to another process holds nothing compiled."""
    for layer in _layers(model):
        vars(layer).pop("forward", None)


def _layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raises ValueError where torch.compile cannot work, e.g. without a C++ compiler."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0].split())[:300]
        raise ValueError(
            f"trainer.compile=true: torch.compile failed ({reason}); install what it names, such as a C++ compiler, "
            "or give trainer.compile=false"
        ) from None
