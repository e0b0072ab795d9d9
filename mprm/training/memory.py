"""What a training needs of a device's memory, from the shapes of the model alone.

Activations are counted as autograd keeps them for the backward pass, for attention that keeps no scores (the fused
kernels of CUDA), in bytes per token. Letters: D hidden size, F inner size of the MLP, A width of all query heads, G of
all key-value heads, H query heads, C hidden size of the vision tower.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from mprm.training.recipe import Machine

GIB = 2**30

# DeepSpeed: numbers in a bucket of gradients on their way (Lightning's setting; two buckets, to overlap), and numbers
# of gathered parameters that ZeRO-3 keeps (its default).
BUCKET = 200_000_000
GATHERED = 1_000_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes per device; `host`: bytes that optimizer offload keeps in the CPU memory of every node."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {readable(getattr(self, name))}"
            for name in ("parameters", "gradients", "optimizer", "activations")
        )
        offloaded = f"; in the CPU memory of a node {readable(self.host)}" if self.host else ""
        return f"memory per device: {parts}, in all {readable(self.total)}{offloaded}"


def readable(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:.0f} MiB"


def check(memory: Memory, available: int | None, machine: Machine) -> None:
    """Raises ValueError if the training can not fit into the `available` bytes of a device; None: not known."""
    if available is None or memory.total <= available:
        return
    sharding = "" if machine.strategy == "deepspeed_stage_3" else "trainer=deepspeed_zero3, "
    offload = "" if machine.offload_optimizer else "trainer.offload_optimizer=true (with DeepSpeed), "
    raise ValueError(
        f"trainer: needs about {memory.total / GIB:.1f} GiB per device, this one has {available / GIB:.1f} GiB; lower "
        f"trainer.max_tokens, use backbone.language_model=lora, {sharding}{offload}or more devices"
    )


def estimate(model: nn.Module, machine: Machine, tokens: int, patches: int, keys: int = 0) -> Memory:
    """Memory of training the step model.

    tokens, patches: of the largest forward pass, tokens of text and images in one row without padding, patches of the
    vision tower before they are merged; keys: of all its solutions together, more than tokens where they share a
    prefix.
    """
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    activations = activation_bytes(model, machine, tokens, patches) + _shared_key_bytes(
        model.hf, machine, keys - tokens
    )
    if machine.strategy.startswith("deepspeed"):
        return _deepspeed(_numbers(weights), _numbers(trained), machine, activations)
    gradients = _bytes(trained)
    moments = 2 * gradients + 4 * len(trained)  # and a float32 count of steps beside every parameter
    if machine.devices * machine.num_nodes > 1:
        gradients *= 2  # DDP reduces copies of them
    return Memory(_bytes(weights), gradients, moments, activations)


def _deepspeed(numbers: int, trained: int, machine: Machine, activations: int) -> Memory:
    """ZeRO: weights in bfloat16; gradients are summed in float32; the optimizer has float32 weights and two moments."""
    world = machine.devices * machine.num_nodes
    size = 2 if machine.precision.startswith("bf16") else 4
    sharded = machine.strategy == "deepspeed_stage_3"
    parameters = numbers * size
    if sharded:
        parameters = -(-parameters // world) + min(numbers, GATHERED) * size
    share = -(-trained // world)
    on_the_way = 2 * min(trained, BUCKET) * size
    if machine.offload_optimizer:  # the summed gradients move with it
        return Memory(parameters, on_the_way, 0, activations, host=(12 + 4) * share * machine.devices)
    return Memory(parameters, 4 * share + on_the_way, 12 * share, activations)


@dataclass(frozen=True)
class Numbers:
    """Bytes of a number of the residual stream and of a matrix product; mixed: autocast makes products smaller."""

    stream: int
    product: int
    mixed: bool = False

    def inputs(self, width: int, layers: int) -> int:
        """Bytes of the input that so many linear layers share: autocast makes a copy for each."""
        return width * self.product * (layers if self.mixed else 1)


def activation_bytes(model: nn.Module, machine: Machine, tokens: int, patches: int) -> int:
    """Bytes at the largest moment of a forward and backward pass: pixels, what autograd keeps, the running layer."""
    hf: Any = model.hf
    size = numbers_of(hf, machine)
    pixels = 4 * patches * _pixels_of_a_patch(hf)
    forward_ends = kept_bytes(hf, size, tokens, patches) + _language_running(hf, size, tokens)
    # Nothing of the language model is there yet when a frozen tower runs, nor any more when a trained one goes back.
    tower_runs = _tower_kept(hf, size, patches) + _tower_running(hf, size, patches)
    return pixels + max(forward_ends, tower_runs)


def _shared_key_bytes(hf: Any, machine: Machine, repeated: int) -> int:
    """Bytes of the keys and values that stand in the row once and are laid out again for every solution that sees them,
    in the running layer, or in all that keep theirs for the backward pass."""
    language_model = hf.model.language_model
    layers = 1 if language_model.gradient_checkpointing else len(language_model.layers)
    text = language_model.config
    width = text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    return max(0, repeated) * 2 * width * numbers_of(hf, machine).product * layers


def kept_bytes(hf: Any, size: Numbers, tokens: int, patches: int) -> int:
    """Bytes kept for autograd when the forward pass ends. A checkpointed layer keeps its input only."""
    text, layers = hf.config.text_config, hf.model.language_model.layers
    last_norm = tokens * _norm_bytes(text.hidden_size, size, True)
    around = last_norm + _image_bytes(hf, size, patches) + _tower_kept(hf, size, patches)
    if hf.model.language_model.gradient_checkpointing:
        return around + len(layers) * tokens * text.hidden_size * size.stream
    layer = language_layer_bytes(text, layers[0], size)
    return around + len(layers) * tokens * layer + _autocast_copies(layers, size)[1]


def _tower_kept(hf: Any, size: Numbers, patches: int) -> int:
    """Bytes of the vision tower kept for autograd: none if it is frozen."""
    if not _vision_trained(hf):
        return 0
    layers, layer_input = _tower_layers(hf), hf.config.vision_config.hidden_size * size.stream
    layer = layer_input if layers[0].gradient_checkpointing else _tower_layer_bytes(hf, size)
    return patches * (len(layers) * layer + _cast_pixels(hf, size))


def _language_running(hf: Any, size: Numbers, tokens: int) -> int:
    """Bytes beside the kept ones: in the backward pass of a layer, or of the cached copies as the forward pass ends."""
    text, layers = hf.config.text_config, hf.model.language_model.layers
    gradients = 3 * tokens * text.intermediate_size * size.product  # of the MLP's inner tensors
    if not hf.model.language_model.gradient_checkpointing:
        return gradients
    cached, cast = _autocast_copies(layers, size)
    again = tokens * language_layer_bytes(text, layers[0], size) + cast // len(layers)
    return max(cached, again + gradients)


def language_layer_bytes(text: Any, layer: nn.Module, size: Numbers) -> int:
    """Bytes that one decoder layer (Llama's and Qwen2's are alike) keeps per token."""
    D, F, H = text.hidden_size, text.intermediate_size, text.num_attention_heads
    head = getattr(text, "head_dim", None) or D // H
    A, G = head * H, head * text.num_key_value_heads
    weights = dict(layer.named_parameters())
    norms = 2 * _norm_bytes(D, size, weights["input_layernorm.weight"].requires_grad)
    attention = size.product * (A + 2 * G + A) + 4 * H  # queries, keys, values, output, and the scores' log-sums
    mlp = 3 * size.product * F  # gate, its activation, up
    if any(weight.requires_grad for weight in weights.values()):  # of the layer's matrices, or adapters beside them
        mlp += size.product * F + size.inputs(D, 2)
        attention += size.inputs(D, 3)
    return norms + attention + mlp


def _norm_bytes(width: int, size: Numbers, scale_trained: bool) -> int:
    """RMS norm: its input in float32, one root, and what the scale is multiplied with if it is trained."""
    return 4 * width + 4 + (size.stream * width if scale_trained else 0)


def _autocast_copies(part: nn.Module, size: Numbers) -> tuple[int, int]:
    """Bytes of the matrices' half-precision copies: those cached until the forward pass ends, and those in the graph.

    Autocast caches copies of trained matrices only. The graph holds one of every matrix through which a gradient goes.
    """
    if not size.mixed:
        return 0, 0
    matrices = [weight for weight in part.parameters() if weight.ndim > 1 and _size(weight) > size.product]
    return size.product * _numbers(w for w in matrices if w.requires_grad), size.product * _numbers(matrices)


def _image_bytes(hf: Any, size: Numbers, patches: int) -> int:
    """Bytes that the projector keeps for all image tokens, each made of several patches."""
    C, D = hf.config.vision_config.hidden_size, hf.config.text_config.hidden_size
    projector = hf.model.multi_modal_projector if _is_internvl(hf) else hf.model.visual.merger
    copies = _autocast_copies(projector, size)[1]
    if _is_internvl(hf):
        merged = int(hf.config.downsample_ratio**-2)
        return copies + patches // merged * (merged * C * (size.stream + size.product) + 2 * D * size.product)
    norm = _norm_bytes(C, size, True) if _vision_trained(hf) else C * size.stream  # without a gradient no input is kept
    return copies + patches * (norm + 3 * C * size.product)


def _tower_running(hf: Any, size: Numbers, patches: int) -> int:
    """Bytes of one layer of the vision tower while it runs, and if it is checkpointed of what it keeps then."""
    vision = hf.config.vision_config
    C, F = vision.hidden_size, vision.intermediate_size
    # Residual, norm, and the inner tensors of the MLP or those of the attention, where Qwen turns q and k in float32.
    inner, attention = (2, 4 * C * size.product) if _is_internvl(hf) else (3, 28 * C)
    running = 2 * C * size.stream + max(inner * F * size.product, attention)
    if not _vision_trained(hf):
        running += _cast_pixels(hf, size)
    elif _tower_layers(hf)[0].gradient_checkpointing:
        running += _tower_layer_bytes(hf, size)
    return patches * running


def _tower_layer_bytes(hf: Any, size: Numbers) -> int:
    """Bytes that one layer of a trained vision tower keeps per patch."""
    vision = hf.config.vision_config
    C, F = vision.hidden_size, vision.intermediate_size
    if _is_internvl(hf):
        # Layer norms keep their input; q, k, v, output; what the two layer scales multiply; an MLP without a gate.
        norms = 2 * (C * size.stream + 8) + size.inputs(C, 3) + size.inputs(C, 1)
        return norms + size.product * (6 * C + 2 * F) + 4 * vision.num_attention_heads
    # RMS norms; q, k and v in one tensor, turned q and k, output; an MLP with a gate.
    norms = 2 * _norm_bytes(C, size, True) + size.inputs(C, 1) + size.inputs(C, 2)
    return norms + size.product * (6 * C + 4 * F) + 4 * vision.num_heads


def numbers_of(hf: Any, machine: Machine) -> Numbers:
    """DeepSpeed casts the weights; plain bfloat16 training keeps them and casts as it multiplies."""
    if machine.strategy.startswith("deepspeed"):
        size = 2 if machine.precision.startswith("bf16") else 4
        return Numbers(size, size)
    stream = _size(hf.get_input_embeddings().weight)
    return Numbers(stream, 2, mixed=True) if machine.precision == "bf16-mixed" else Numbers(stream, stream)


def _is_internvl(hf: Any) -> bool:
    return hf.config.model_type == "internvl"


def _tower_layers(hf: Any) -> Any:
    return hf.model.vision_tower.encoder.layer if _is_internvl(hf) else hf.model.visual.blocks


def _vision_trained(hf: Any) -> bool:
    return any(weight.requires_grad for weight in _tower_layers(hf).parameters())


def _pixels_of_a_patch(hf: Any) -> int:
    """Numbers of a patch of three channels; Qwen2.5-VL takes two frames."""
    vision = hf.config.vision_config
    if _is_internvl(hf):
        return 3 * vision.patch_size[0] * vision.patch_size[1]
    return 3 * vision.temporal_patch_size * vision.patch_size**2


def _cast_pixels(hf: Any, size: Numbers) -> int:
    """Bytes of a patch's pixels in the dtype of the tower, where it is not that of the batch."""
    return _pixels_of_a_patch(hf) * size.product if size.product < 4 else 0


def _numbers(weights: Iterable[nn.Parameter]) -> int:
    return sum(weight.numel() for weight in weights)


def _bytes(weights: Iterable[nn.Parameter]) -> int:
    return sum(weight.numel() * _size(weight) for weight in weights)


def _size(weight: nn.Parameter) -> int:
    """Bytes of a number of the weight in plain training, which makes float32 of whatever is trained."""
    return 4 if weight.requires_grad else weight.element_size()
