"""Tiny backbones: the real architectures at about two million parameters, and a byte-level BPE tokenizer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from mprm.chartworld.world import IMAGE_SIZE, NAMES, PATCH

VOCABULARY = 448
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
IMAGE_TOKENS = {
    "internvl": ["<img>", "<IMG_CONTEXT>", "</img>"],
    "qwen2_5_vl": ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"],
    "qwen2": [],  # it sees none
    "llava_onevision": ["<image>"],
    "smolvlm": [
        *("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
        *("<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>"),
    ],
}


def sample_texts() -> list[str]:
    """The sentences of the world, for the tokenizer: every number is one token, so is every colour and verdict."""
    texts = [
        "Yes",
        "No",
        "user",
        "assistant",
        "Question:",
        "Process:",
        " ?",
        "\n\n",
        "What is the sum of all bars?",
    ] * 9
    for name in NAMES:
        texts += [f"What is {name} plus {other} minus {other}?" for other in NAMES]
        texts += [f"How much taller is {name} than {other}?" for other in NAMES]
        texts += [f"\n{name} is 1. Again: {name} is 2."] * 3
        texts += [f"{name} 1 + {other} 2 = 3." for other in NAMES]
    texts += [f"The answer is {number}. {number} + {number} = {number}.\n\n{number} -" for number in range(33)] * 4
    return texts + ["I look at the chart.", "I combine the bars.", "Is each line right?"] * 8


def build_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, so that any text can be encoded, trained on the world's sentences."""
    special = [*CHAT_TOKENS, *IMAGE_TOKENS[family]]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sample_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=special[1:],
    )


def build_model(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Randomly initialised model of the family: more layers rather than more width."""
    ids = tokenizer.convert_tokens_to_ids(IMAGE_TOKENS[family])
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**text))
    if family == "internvl":
        vision = {
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": [IMAGE_SIZE, IMAGE_SIZE],
            "patch_size": [PATCH, PATCH],
        }
        return InternVLForConditionalGeneration(
            InternVLConfig(
                vision_config=vision,
                text_config={"model_type": "llama", **text},
                image_token_id=ids[1],
                image_seq_length=(IMAGE_SIZE // (2 * PATCH)) ** 2,
                tie_word_embeddings=True,
            )
        )
    vision = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "depth": 3,
        "num_heads": 4,
        "out_hidden_size": text["hidden_size"],
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "window_size": 2 * PATCH,
        "fullatt_block_indexes": [2],
    }
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            vision_config=vision,
            text_config={**text, "rope_parameters": rope},
            vision_start_token_id=ids[0],
            image_token_id=ids[1],
            vision_end_token_id=ids[2],
            tie_word_embeddings=True,
        )
    )


def build(family: str, folder: Path) -> None:
    """Write tokenizer and untrained model as a folder that the backbones load."""
    tokenizer = build_tokenizer(family)
    build_model(family, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
