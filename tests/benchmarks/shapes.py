"""What train_step.py measures with: models of the published shapes with random weights, rollouts to go with them,
floating-point operations and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from mprm.backbones.chat import ChatModel
from mprm.backbones.internvl import InternVLProcessor
from mprm.backbones.qwen import Qwen2VLImageProcessorPil, QwenProcessor
from mprm.batching.collate import Example, collate
from tools import tiny

FLOPS_PER_SECOND = {"H100": 989.4e12, "H200": 989.4e12}  # bfloat16 without sparsity, from the data sheets
# Layers, hidden size, MLP, heads, key-value heads, vocabulary of the language model.
TEXT = {
    ("internvl", "3b"): (36, 2048, 11008, 16, 2, 151_674),
    ("internvl", "8b"): (32, 4096, 14336, 32, 8, 92_553),
    ("qwen2_5_vl", "3b"): (36, 2048, 11008, 16, 2, 151_936),
    ("qwen2_5_vl", "8b"): (28, 3584, 18944, 28, 4, 152_064),
}
TEXT_TOKENS = 500
IMAGE_SIDE = 1176  # Qwen: 42 x 42 image tokens; InternVL: six tiles and a thumbnail of 256 image tokens
CONTEXT = 1  # how tiny's tokenizers number their image tokens: the second of the three


def random_model(family: str, size: str) -> Any:
    """The published architecture with random bfloat16 weights."""
    layers, hidden, mlp, heads, kv_heads, vocabulary = TEXT[family, size]
    text = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
    }
    ids = tiny.build_tokenizer(family).convert_tokens_to_ids(tiny.IMAGE_TOKENS[family])
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        if family == "internvl":
            vision = {"image_size": [448, 448], "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
            config = InternVLConfig(
                vision_config={**vision, "intermediate_size": 4096},
                text_config={"model_type": "llama", **text},
                image_token_id=ids[CONTEXT],
                image_seq_length=256,
            )
            return InternVLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
        vision = {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": hidden,
        }
        config = Qwen2_5_VLConfig(
            vision_config={**vision, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
            text_config={**text, "rope_parameters": rope},
            vision_start_token_id=ids[0],
            image_token_id=ids[CONTEXT],
            vision_end_token_id=ids[2],
        )
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)


SHAPES: dict[str, Callable[[str], Any]] = {
    size: lambda family, s=size: random_model(family, s) for size in ("3b", "8b")
}


def random_rollouts(family: str, count: int, seed: int) -> list[Example]:
    """Rollouts of different questions, about 1,760 image and 500 text tokens each, random pixels and MC scores."""
    generator = torch.Generator().manual_seed(seed)
    tokenizer = tiny.build_tokenizer(family)
    mark_id = len(tokenizer)
    processor: Any
    if family == "internvl":
        processor = InternVLProcessor(tokenizer, mark_id, 448, 256, "", 6)
        vision = {"pixel_values": torch.randn(7, 3, 448, 448, generator=generator)}
        size = (3 * 448, 2 * 448)
    else:
        images = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": IMAGE_SIDE**2})
        processor = QwenProcessor(tokenizer, mark_id, images, "")
        side = IMAGE_SIDE // 14
        vision = {
            "pixel_values": torch.randn(side * side, 3 * 2 * 14 * 14, generator=generator),
            "image_grid_thw": torch.tensor([[1, side, side]]),
        }
        size = (IMAGE_SIDE, IMAGE_SIDE)
    rollouts = []
    for _ in range(count):
        numbers = torch.randint(10, 33, (5, TEXT_TOKENS // 5), generator=generator).tolist()
        example = processor.layout([size], "How?", [" ".join(map(str, step)) for step in numbers])
        mc = torch.rand(5, generator=generator)
        rollouts.append(replace(example, vision=vision, mc=mc))
    return rollouts


def flops(model: ChatModel, packed: list[list[Example]], marks_only: bool) -> float:
    """Additions and multiplications that a step does for these rows: 6 a weight and token, 4 where a weight is not
    trained but lies behind one, 2 in the frozen tower; attention; nothing for what checkpointing does twice.
    marks_only: the last layer's MLP sees the marks alone."""
    text, vision = model.hf.config.text_config, model.hf.config.vision_config
    # Adapters: their own weights are few, and no gradient of the others is computed.
    per_weight = 6 if model.hf.model.language_model.norm.weight.requires_grad else 4
    weights = sum(p.numel() for n, p in model.hf.model.language_model.named_parameters() if "embed_tokens" not in n)
    last_mlp = sum(p.numel() for p in model.hf.model.language_model.layers[-1].mlp.parameters())
    tower = sum(p.numel() for p in model.vision_parameters())
    total = 0.0
    for row in packed:
        batch = collate(row)
        queries, keys = batch.segments.query_border.diff().double(), batch.segments.key_border.diff().double()
        pairs = float((queries * (keys - queries / 2)).sum())
        total += per_weight * weights * len(batch.input_ids_T)
        if marks_only:
            total -= per_weight * last_mlp * (len(batch.input_ids_T) - len(batch.mark_M))
        total += 2 * per_weight * pairs * text.hidden_size * text.num_hidden_layers
        pixels = batch.vision["pixel_values"]
        patches = pixels[..., 0].numel() if pixels.ndim == 2 else pixels[:, 0].numel() // vision.patch_size[0] ** 2
        total += 2 * tower * patches
    return total


def measured_flops(device: str) -> float:
    """Of a large matrix product in the type of the step: the peak of a device that no data sheet is known for."""
    a = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16 if device == "cuda" else torch.float32)

    def seconds(products: int) -> float:
        started = time.perf_counter()
        for _ in range(products):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(1)
    return 5 * 2 * 2048**3 / seconds(5)


@contextmanager
def peak_memory(seen: list[int], device: str) -> Iterator[None]:
    """Append the largest memory that tensors took on the GPU during the block; nothing on the CPU, where freed memory
    stays with the process and no such number is to be had."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield
    if device == "cuda":
        seen.append(torch.cuda.max_memory_allocated())
