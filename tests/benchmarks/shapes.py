"""What train_step.py measures with: models of the published shapes with random weights, rollouts to go with them,
floating-point operations and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from mprm.backbones.internvl import InternVLProcessor
from mprm.backbones.qwen import Qwen2VLImageProcessorPil, QwenProcessor
from mprm.batching.collate import Example, collate
from tools import tiny

# Layers, hidden size, MLP, heads, key-value heads, vocabulary of the language model. small: Qwen2.5-VL-3B's proportions
# at an eighth of its width and a quarter of its layers; the LM head is a tenth of the weights, as there. least: to see
# that a benchmark runs.
TEXT = {
    ("internvl", "least"): (1, 256, 512, 2, 1, 5_000),
    ("qwen2_5_vl", "least"): (1, 256, 512, 2, 1, 5_000),
    ("internvl", "small"): (9, 256, 1376, 2, 1, 5_000),
    ("internvl", "3b"): (36, 2048, 11008, 16, 2, 151_674),
    ("internvl", "8b"): (32, 4096, 14336, 32, 8, 92_553),
    ("qwen2_5_vl", "small"): (9, 256, 1376, 2, 1, 5_000),
    ("qwen2_5_vl", "3b"): (36, 2048, 11008, 16, 2, 151_936),
    ("qwen2_5_vl", "8b"): (28, 3584, 18944, 28, 4, 152_064),
}
# Hidden size, layers, heads, MLP of the vision tower.
VISION = {
    ("internvl", False): (1024, 24, 16, 4096),
    ("internvl", True): (160, 8, 2, 640),
    ("qwen2_5_vl", False): (1280, 32, 16, 3420),
    ("qwen2_5_vl", True): (160, 8, 2, 428),
}
ON_CPU = ("least", "small")
CONTEXT = 1  # how tiny's tokenizers number their image tokens: the second of the three


@dataclass(frozen=True)
class Drawn:
    """What random rollouts are like. Their lengths vary by as much as 3 to 8 steps of 18 to 50 words do, or not."""

    side: int  # pixels of Qwen's images
    tiles: int  # of InternVL's, the thumbnail included, 256 image tokens each
    text_tokens: int  # of a solution, the mean
    varied: bool


# Large: Qwen 42 x 42 image tokens, InternVL 7 x 256. Small: 256 image tokens, the published most of Qwen2.5-VL.
DRAWN = {
    "least": Drawn(side=112, tiles=1, text_tokens=100, varied=True),
    "small": Drawn(side=448, tiles=1, text_tokens=100, varied=True),
    "3b": Drawn(side=1176, tiles=7, text_tokens=500, varied=False),
    "8b": Drawn(side=1176, tiles=7, text_tokens=500, varied=False),
}


def random_model(family: str, size: str) -> Any:
    """The published architecture with random weights: bfloat16 on the GPU, or small and float32 on the CPU."""
    layers, hidden, mlp, heads, kv_heads, vocabulary = TEXT[family, size]
    small = size in ON_CPU
    text = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
    }
    vision_hidden, depth, vision_heads, vision_mlp = VISION[family, small]
    vision: dict[str, Any] = {"hidden_size": vision_hidden, "intermediate_size": vision_mlp}
    ids = tiny.build_tokenizer(family).convert_tokens_to_ids(tiny.IMAGE_TOKENS[family])
    dtype = torch.float32 if small else torch.bfloat16
    with torch.device("cpu" if small else "cuda"):
        if family == "internvl":
            vision |= {"image_size": [448, 448], "num_hidden_layers": depth, "num_attention_heads": vision_heads}
            config = InternVLConfig(
                vision_config=vision,
                text_config={"model_type": "llama", **text},
                image_token_id=ids[CONTEXT],
                image_seq_length=256,
            )
            return InternVLForConditionalGeneration._from_config(config, dtype=dtype)
        rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
        whole = [layer for layer in range(depth) if layer % 8 == 7]  # see the whole image, the others windows
        vision |= {"depth": depth, "num_heads": vision_heads, "out_hidden_size": hidden}
        config = Qwen2_5_VLConfig(
            vision_config={**vision, "window_size": 112, "fullatt_block_indexes": whole},
            text_config={**text, "rope_parameters": rope},
            vision_start_token_id=ids[0],
            image_token_id=ids[CONTEXT],
            vision_end_token_id=ids[2],
        )
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)


def random_rollouts(family: str, drawn: Drawn, count: int, seed: int, per_question: int) -> list[Example]:
    """Rollouts of questions with one image, `per_question` of each; random pixels, words and MC scores."""
    generator = torch.Generator().manual_seed(seed)
    tokenizer = tiny.build_tokenizer(family)
    processor: Any
    if family == "internvl":
        processor = InternVLProcessor(tokenizer, len(tokenizer), 448, 256, "", max(1, drawn.tiles - 1))
        size = (448, 448) if drawn.tiles == 1 else (3 * 448, 2 * 448)
    else:
        images = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": drawn.side**2})
        processor = QwenProcessor(tokenizer, len(tokenizer), images, "")
        size = (drawn.side, drawn.side)
    rollouts: list[Example] = []
    while len(rollouts) < count:
        vision = _random_pixels(family, drawn, generator)
        for _ in range(per_question):
            texts = _random_steps(drawn, generator)
            example = processor.layout([size], "What is blue plus purple?", texts)
            mc, group = torch.rand(len(texts), generator=generator), len(rollouts) // per_question
            rollouts.append(replace(example, vision=vision, mc=mc, id=str(len(rollouts)), group=group))
    return rollouts[:count]


def _random_pixels(family: str, drawn: Drawn, generator: torch.Generator) -> dict[str, torch.Tensor]:
    if family == "internvl":
        return {"pixel_values": torch.randn(drawn.tiles, 3, 448, 448, generator=generator)}
    side = drawn.side // 14
    pixels = torch.randn(side * side, 3 * 2 * 14 * 14, generator=generator)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]])}


def _random_steps(drawn: Drawn, generator: torch.Generator) -> list[str]:
    """Of numbers, each of which is one token."""
    lengths = [drawn.text_tokens // 5] * 5
    if drawn.varied:
        n_steps = int(torch.randint(3, 9, (), generator=generator))  # 5.5 steps of 34 words, here so many tokens
        words = torch.randint(18, 51, (n_steps,), generator=generator) * drawn.text_tokens / (5.5 * 34)
        lengths = words.round().int().tolist()
    return [" ".join(map(str, torch.randint(10, 33, (n,), generator=generator).tolist())) for n in lengths]


def flops(hf: Any, packed: list[list[Example]], marks_only: bool) -> float:
    """Additions and multiplications that a step does for these rows: 6 a weight and token, 4 where a weight is not
    trained but lies behind one, 2 in the frozen tower; attention; nothing for what checkpointing does twice.
    marks_only: the last layer's MLP sees the marks alone."""
    text, vision = hf.config.text_config, hf.config.vision_config
    # Adapters: their own weights are few, and no gradient of the others is computed.
    per_weight = 6 if hf.model.language_model.norm.weight.requires_grad else 4
    weights = sum(p.numel() for n, p in hf.model.language_model.named_parameters() if "embed_tokens" not in n)
    last_mlp = sum(p.numel() for p in hf.model.language_model.layers[-1].mlp.parameters())
    towers = hf.model.visual if hasattr(hf.model, "visual") else hf.model.vision_tower
    tower = sum(p.numel() for n, p in towers.named_parameters() if not n.startswith("merger"))
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
    size, dtype = (2048, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)

    def seconds(products: int) -> float:
        started = time.perf_counter()
        for _ in range(products):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(1)
    return 5 * 2 * size**3 / seconds(5)


@contextmanager
def peak_memory(seen: list[int], device: str) -> Iterator[None]:
    """Append the largest memory that tensors took on the GPU during the block; nothing on the CPU, where freed memory
    stays with the process and no such number is to be had."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield
    if device == "cuda":
        seen.append(torch.cuda.max_memory_allocated())
