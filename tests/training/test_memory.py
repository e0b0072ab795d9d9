"""The estimate of memory against what autograd really keeps and against real tensors."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from mprm.training.memory import (
    BUCKET,
    GATHERED,
    GIB,
    Memory,
    activation_bytes,
    check,
    estimate,
    kept_bytes,
    language_layer_bytes,
    numbers_of,
)
from mprm.training.recipe import Machine

TEXT = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 6}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 4}
PLAIN = Machine(precision="32-true")
MIXED = Machine(precision="bf16-mixed")
HALF = Machine(accelerator="gpu", strategy="deepspeed_stage_2", precision="bf16-true")
IMAGES, PATCHES = 40, 16  # patches of each, 4 tokens


class Model(nn.Module):
    """What the estimate looks at of a step model; images and text go in as in training, attention is fused."""

    def __init__(self, hf: Any, vision_trained: bool) -> None:
        super().__init__()
        self.hf = hf
        hf.lm_head.requires_grad_(False)
        for weight in tower_weights(hf):
            weight.requires_grad_(vision_trained)

    def forward(self, tokens: int, pixels: torch.Tensor) -> torch.Tensor:
        ids = torch.full((1, tokens), 5)
        ids[0, : IMAGES * 4] = self.hf.config.image_token_id
        if self.hf.config.model_type == "internvl":
            pixels = pixels.view(IMAGES, 3, 56, 56).to(self.hf.dtype)
            return self.hf.model(input_ids=ids, pixel_values=pixels, use_cache=False).last_hidden_state
        grid = torch.tensor([[1, 4, 4]] * IMAGES)
        positions = torch.arange(tokens).expand(3, 1, -1)
        return self.hf.model(
            input_ids=ids,
            pixel_values=pixels.to(self.hf.dtype),
            image_grid_thw=grid,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state


def tower_weights(hf: Any) -> list[nn.Parameter]:
    if hf.config.model_type == "internvl":
        return list(hf.model.vision_tower.parameters())
    merger = set(hf.model.visual.merger.parameters())
    return [weight for weight in hf.model.visual.parameters() if weight not in merger]


def build(family: str, vision_trained: bool = False, checkpointing: bool = False) -> Model:
    torch.manual_seed(0)
    if family == "internvl":
        vision = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
        vision |= {"image_size": [56, 56], "patch_size": [14, 14]}
        text = {"model_type": "llama", **TEXT}
        hf: Any = InternVLForConditionalGeneration(
            InternVLConfig(vision_config=vision, text_config=text, image_token_id=1, image_seq_length=4)
        )
    else:
        vision = {"hidden_size": 96, "intermediate_size": 192, "depth": 3, "num_heads": 4, "out_hidden_size": 128}
        vision |= {"window_size": 56, "fullatt_block_indexes": [2]}
        rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
        tokens = {"image_token_id": 1, "vision_start_token_id": 2, "vision_end_token_id": 3}
        hf = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(vision_config=vision, text_config={**TEXT, "rope_parameters": rope}, **tokens)
        )
    model = Model(hf, vision_trained)
    if checkpointing:
        # A frozen tower runs without autograd in training, so that there is nothing to checkpoint.
        part = hf if vision_trained else hf.model.language_model
        part.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


class Live(TorchDispatchMode):
    """Counts the bytes of living storages; `known` ones are not counted."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.storages = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.storages:
                storage = tensor.untyped_storage()
                self.storages.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size


def kept_for_backward(forward: Callable[[], torch.Tensor], besides: list[torch.Tensor]) -> int:
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    assert output.requires_grad
    return sum(sizes.values())


def compare(model: Model, machine: Machine, tokens: int) -> tuple[float, float]:
    """Estimated by measured bytes: kept for backward, and at the largest moment of forward and backward."""
    hf: Any = model.hf
    pixels = torch.randn(IMAGES * PATCHES, 3 * 14 * 14 * (1 if hf.config.model_type == "internvl" else 2))

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=machine.precision == "bf16-mixed"):
            return model(tokens, pixels)

    kept = kept_for_backward(forward, [*model.parameters(), pixels])
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    with Live([*model.parameters(), *gradients, pixels]) as live:
        forward().float().square().mean().backward()
    peak = live.peak + pixels.untyped_storage().nbytes()
    patches = IMAGES * PATCHES
    estimated = kept_bytes(hf, numbers_of(hf, machine), tokens, patches)
    return estimated / kept, activation_bytes(model, machine, tokens, patches) / peak


@pytest.mark.parametrize("tokens", [256, 640])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("vision_trained", [False, True])
@pytest.mark.parametrize("machine", [PLAIN, HALF, MIXED], ids=lambda machine: machine.precision)
@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_activations_are_those_measured(
    family: str, machine: Machine, vision_trained: bool, checkpointing: bool, tokens: int
) -> None:
    model = build(family, vision_trained, checkpointing)
    kept, peak = compare(model.bfloat16() if machine is HALF else model, machine, tokens)
    assert kept == pytest.approx(1, abs=0.1)
    assert peak == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("numbers", "machine"), [("float32", PLAIN), ("float32", MIXED), ("bfloat16", MIXED)])
@pytest.mark.parametrize("adapters", [False, True])
def test_activations_of_a_frozen_language_model(
    adapters: bool, numbers: str, machine: Machine, checkpointing: bool
) -> None:
    """What is trained is float32 in plain training, whatever the frozen weights are."""
    model = build("internvl", checkpointing=checkpointing).to(getattr(torch, numbers))
    model.hf.model.language_model.requires_grad_(False)
    if adapters:
        layers = model.hf.model.language_model.layers
        names = [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
        inject_adapter_in_model(LoraConfig(r=2, target_modules=names), layers)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    kept, peak = compare(model, machine, 512)
    assert kept == pytest.approx(1, abs=0.15)
    assert peak == pytest.approx(1, abs=0.15)


def test_grouped_heads_keep_fewer_keys_and_values() -> None:
    model = build("internvl")
    text, layer = model.hf.config.text_config, model.hf.model.language_model.layers[0]
    size = numbers_of(model.hf, PLAIN)
    whole = language_layer_bytes(text, layer, size)
    text.num_key_value_heads = 1
    assert whole - language_layer_bytes(text, layer, size) == 2 * 3 * 32 * 4


def test_a_frozen_tower_counts_when_it_is_what_needs_most() -> None:
    model = build("internvl", checkpointing=True)
    few, many = (activation_bytes(model, PLAIN, 1, patches) for patches in (1000, 2000))
    # Pixels of 3 x 14 x 14; residual and norm of 96; the MLP's two tensors of 256; all float32.
    assert (many - few) / 1000 == 4 * (588 + 2 * 96 + 2 * 256)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_parameters_gradients_and_optimizer_are_exact(family: str, dtype: torch.dtype) -> None:
    """Plain training makes float32 of what is trained; the estimate may be asked for before or after."""
    model = build(family).to(dtype)
    memory = estimate(model, PLAIN, 256, IMAGES * PATCHES)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for weight in trained:
        weight.data = weight.data.float()
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert memory.parameters == sum(weight.nbytes for weight in model.parameters())
    assert memory.gradients == sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    assert memory.optimizer == sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    assert memory.host == 0
    assert estimate(model, PLAIN, 256, IMAGES * PATCHES) == memory
    assert estimate(model, Machine(devices=2, strategy="ddp"), 256, 640).gradients == 2 * memory.gradients


def test_deepspeed_divides_what_its_stage_says() -> None:
    model = build("internvl")
    numbers = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert max(numbers, trained) < min(BUCKET, GATHERED)

    def parts(**options: Any) -> tuple[float, float, float, float]:
        machine = Machine(accelerator="gpu", precision="bf16-true", **options)
        memory = estimate(model, machine, 256, 640)
        assert memory.activations == activation_bytes(model, HALF, 256, 640)
        return (
            memory.parameters / numbers,
            memory.gradients / trained,
            memory.optimizer / trained,
            memory.host / trained,
        )

    # bfloat16 weights, two buckets of bfloat16 gradients, their float32 sum; float32 weights and two moments.
    assert parts(devices=1, strategy="deepspeed_stage_2") == pytest.approx((2, 4 + 4, 12, 0), abs=0.01)
    assert parts(devices=4, strategy="deepspeed_stage_2") == pytest.approx((2, 4 + 1, 3, 0), abs=0.01)
    assert parts(devices=2, num_nodes=2, strategy="deepspeed_stage_3") == pytest.approx((2.5, 5, 3, 0), abs=0.01)
    offloaded = parts(devices=2, num_nodes=2, strategy="deepspeed_stage_3", offload_optimizer=True)
    assert offloaded == pytest.approx((2.5, 4, 0, 8), abs=0.01)


def published() -> Model:
    """InternVL2.5-8B without memory of its own, vision frozen, checkpointed, bfloat16."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision |= {"image_size": [448, 448], "patch_size": [14, 14]}
    text = {"vocab_size": 92553, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    text |= {"num_attention_heads": 32, "num_key_value_heads": 8, "model_type": "llama"}
    with torch.device("meta"):
        config = InternVLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)
        hf: Any = InternVLForConditionalGeneration(config).bfloat16()
    hf.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    return Model(hf, vision_trained=False)


def test_what_the_published_model_needs() -> None:
    model, card = published(), 80 * GIB
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(8.08e9, rel=0.01)
    patches = 4 * 14_000

    def needs(**options: Any) -> Memory:
        return estimate(model, Machine(accelerator="gpu", **options), 16_384, patches)

    zero3 = {"strategy": "deepspeed_stage_3", "precision": "bf16-true"}
    four = needs(devices=4, **zero3)
    assert 35 * GIB < four.total < 55 * GIB
    assert 8 * GIB < four.activations < 12 * GIB  # 32 inputs of layers are 4 GiB, one whole layer is 3.3 GiB
    assert needs(devices=1, **zero3).total > card
    assert needs(devices=1, offload_optimizer=True, **zero3).total < card
    layers = model.hf.model.language_model.layers
    model.requires_grad_(False)
    names = [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=16, target_modules=names), layers)
    lora = needs(precision="bf16-mixed")
    assert 20 * GIB < lora.total < 40 * GIB
    assert lora.optimizer < GIB / 2


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    memory = Memory(10 * GIB, 20 * GIB, 30 * GIB, 2 * GIB)
    check(memory, 62 * GIB, PLAIN)
    check(memory, None, PLAIN)
    line = (
        r"^trainer: needs about 62\.0 GiB per device, this one has 47\.5 GiB; lower trainer\.max_tokens, use "
        r"backbone\.language_model=lora, trainer=deepspeed_zero3, trainer\.offload_optimizer=true \(with DeepSpeed\), "
        r"or more devices$"
    )
    with pytest.raises(ValueError, match=line):
        check(memory, int(47.5 * GIB), PLAIN)
    with pytest.raises(ValueError, match=r"backbone\.language_model=lora, or more devices$"):
        check(memory, 62 * GIB - 1, Machine(strategy="deepspeed_stage_3", offload_optimizer=True))


def test_memory_is_one_line() -> None:
    memory = Memory(int(15.1 * GIB), int(15.1 * GIB), int(22.6 * GIB), 9 * GIB)
    line = "memory per device: parameters 15.1 GiB, gradients 15.1 GiB, optimizer 22.6 GiB, activations 9.0 GiB"
    assert str(memory) == f"{line}, in all 61.8 GiB"
    offloaded = Memory(GIB, GIB, 0, GIB, host=3 * GIB)
    assert str(offloaded).endswith("in all 3.0 GiB; in the CPU memory of a node 3.0 GiB")
    assert str(Memory(2**20, 0, 0, 2**21)).endswith("activations 2 MiB, in all 3 MiB")
