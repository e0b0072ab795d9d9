"""Which parts of a backbone are trained: all of a part, low-rank adapters beside its linear layers, or nothing."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

FROZEN, TRAINED, LORA = "frozen", "trained", "lora"


def set_trained(parameters: Iterable[nn.Parameter], choice: str) -> None:
    """Adapters are trained on their own: the part they stand in is frozen."""
    for parameter in parameters:
        parameter.requires_grad_(choice == TRAINED)


def add_adapters(model: nn.Module, layers: set[nn.Module], rank: int, alpha: int) -> None:
    """Put trained adapters (LoRA, peft) beside these linear layers of the model.

    Their first matrix is drawn from torch's generator, the second is zero: the model computes what it did before.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, module in model.named_modules() if module in layers]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), model)
    for name, parameter in model.named_parameters():  # peft has frozen everything else
        parameter.requires_grad_("lora_" in name or name in trained)
        if "lora_" in name:
            parameter.data = parameter.data.float()


def merge_adapters(model: nn.Module) -> None:
    """Add every adapter into its layer's weight and put the layer back in its place."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
