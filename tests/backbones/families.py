"""Tiny random models of the real architectures, one entry each: test_families.py holds all to the same bar."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    InternVLConfig,
    LlavaOnevisionConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    SmolVLMConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from tools import tiny

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
GRIDS = [[56 * rows, 56 * columns] for rows in (1, 2) for columns in (1, 2)]
WINDOW = {"model_type": "mistral", "sliding_window": 24}


def _internvl(text: dict[str, Any], ids: Sequence[int], tied: bool) -> PreTrainedConfig:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": [56, 56], "patch_size": [14, 14]}
    text = {"model_type": "qwen2", **text}
    return InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=ids[1], image_seq_length=4, tie_word_embeddings=tied
    )


def _llava_onevision(text: dict[str, Any], ids: Sequence[int], tied: bool) -> PreTrainedConfig:
    """At most 2 x 2 tiles, which are scaled down when they show more than twice the tokens of one."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"model_type": "siglip_vision_model", "image_size": 56, "patch_size": 14, "vision_use_head": False}
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", **text},
        image_token_index=ids[0],
        image_grid_pinpoints=GRIDS,
        vision_aspect_ratio="anyres_max_2",
        tie_word_embeddings=tied,
    )


def _smolvlm(config: type[PreTrainedConfig], text: dict[str, Any], ids: Sequence[int], tied: bool) -> PreTrainedConfig:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return config(
        vision_config={**vision, "image_size": 56, "patch_size": 14},
        text_config={"model_type": "llama", **text},
        image_token_id=ids[0],
        pad_token_id=text["pad_token_id"],
        tie_word_embeddings=tied,
    )


def _qwen(config: type[PreTrainedConfig], text: dict[str, Any], vision: dict[str, Any], ids: Sequence[int]) -> Any:
    start, image, end = ids
    tokens = {"vision_start_token_id": start, "image_token_id": image, "vision_end_token_id": end}
    tied = text["tie_word_embeddings"]
    vision = {"depth": 3, "num_heads": 2, "spatial_merge_size": 2, **vision}
    return config(
        text_config={**text, "rope_parameters": ROPE}, vision_config=vision, tie_word_embeddings=tied, **tokens
    )


def _qwen2(text: dict[str, Any], ids: Sequence[int], tied: bool) -> PreTrainedConfig:
    return _qwen(Qwen2VLConfig, text, {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}, ids)


def _qwen2_5(text: dict[str, Any], ids: Sequence[int], tied: bool) -> PreTrainedConfig:
    vision = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64}
    return _qwen(Qwen2_5_VLConfig, text, {**vision, "window_size": 56, "fullatt_block_indexes": [2]}, ids)


def _qwen3(text: dict[str, Any], ids: Sequence[int], tied: bool) -> PreTrainedConfig:
    vision = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 16}
    text = {**text, "head_dim": 16}
    config = Qwen3VLMoeConfig if "num_experts" in text else Qwen3VLConfig
    return _qwen(config, text, {**vision, "deepstack_visual_indexes": [0, 1]}, ids)


@dataclass(frozen=True)
class Family:
    """config: of the whole model, of the language model's options, the ids of `tokens` and whether its tables are tied;
    tokens: key of tiny.IMAGE_TOKENS; text: options of the language model besides; exact: as the backbone's option;
    options: others of the backbone; images: the image processor of the folder, where it has one."""

    config: Callable[[dict[str, Any], Sequence[int], bool], PreTrainedConfig]
    tokens: str
    text: dict[str, Any]
    tied: bool = False
    exact: bool = True
    options: tuple[tuple[str, Any], ...] = ()
    images: Callable[[], Any] | None = None


def _tiles() -> LlavaOnevisionImageProcessorPil:
    half = [0.5, 0.5, 0.5]
    size = {"height": 56, "width": 56}
    return LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=GRIDS, image_mean=half, image_std=half)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
QWEN3 = {"model_type": "qwen3", "head_dim": 16, "num_hidden_layers": 2}
MOE = {"model_type": "qwen3_moe"}
GEMMA = {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16}
GLM = {"model_type": "glm4", "head_dim": 16}
TILES = (("max_tiles", 2),)
EDGE = (("longest_edge", 112),)
FAMILIES = {
    "internvl": Family(_internvl, "internvl", {}, options=TILES),
    "internvl with qwen3": Family(_internvl, "internvl", QWEN3, options=TILES),
    "internvl with qwen3_moe": Family(_internvl, "internvl", {**QWEN3, **EXPERTS, **MOE}, options=TILES),
    "llava_onevision": Family(_llava_onevision, "llava_onevision", {}, images=_tiles),
    "smolvlm": Family(partial(_smolvlm, SmolVLMConfig), "smolvlm", {}, options=EDGE),
    "qwen2_vl": Family(_qwen2, "qwen2_5_vl", {}, tied=True),
    "qwen2_5_vl": Family(_qwen2_5, "qwen2_5_vl", {}),
    "qwen3_vl": Family(_qwen3, "qwen2_5_vl", {}, tied=True),
    "qwen3_vl_moe": Family(_qwen3, "qwen2_5_vl", EXPERTS),
    # What rows of many solutions cannot be computed with; and deepstack, one by one.
    "internvl with a window": Family(_internvl, "internvl", WINDOW, exact=False, options=TILES),
    "internvl with gemma3": Family(_internvl, "internvl", GEMMA, tied=True, exact=False, options=TILES),
    "internvl with glm4": Family(_internvl, "internvl", GLM, exact=False, options=TILES),
    "qwen3_vl one by one": Family(_qwen3, "qwen2_5_vl", {}, exact=False),
}
# Options of language models on their own.
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {"qwen2": {"model_type": "qwen2"}, "qwen3": QWEN3}


def write(family: Family, folder: Path) -> None:
    """A folder with weights so large that every part of them shows in the logits."""
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer(family.tokens)
    tokenizer.bos_token = "<|im_start|>"
    ids = tokenizer.convert_tokens_to_ids(tiny.IMAGE_TOKENS[family.tokens])
    text = {**TEXT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **family.text}
    text |= {"eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": family.tied}
    config = family.config(text, ids, family.tied)
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if family.images is not None:
        family.images().save_pretrained(folder)
    weights = folder / "model.safetensors"
    tensors = {name: 3 * value if value.ndim > 1 else value for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def write_language_model(text: dict[str, Any], folder: Path) -> None:
    """A folder of a language model on its own."""
    tokenizer = tiny.build_tokenizer("qwen2")
    options = {**TEXT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **text}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**options)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
