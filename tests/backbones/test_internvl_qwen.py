"""OpenGVLab's own folders of InternVL2.5, 3 and 3.5 whose language model is a Qwen2 or a Qwen3."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, InternVLForConditionalGeneration, Qwen2Config, Qwen3Config

from mprm.backbones.internvl import InternVL
from mprm.backbones.internvl_original import INDEX, load_original, original_config, to_original
from mprm.backbones.sentencepiece import load_tokenizer
from mprm.batching.collate import collate
from mprm.training.checkpoint import export
from tests.backbones.test_internvl_original import save
from tests.encoding import encode
from tools.tiny import sample_texts

# The keys that matter of the published config.json of InternVL3-1B (QWEN2) and of InternVL3.5-8B (QWEN3).
VISION = {
    "architectures": ["InternVisionModel"],
    **{"attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0, "hidden_act": "gelu", "hidden_size": 1024},
    **{"image_size": 448, "initializer_factor": 0.1, "intermediate_size": 4096, "layer_norm_eps": 1e-06},
    **{"norm_type": "layer_norm", "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 24},
    **{"patch_size": 14, "qk_normalization": False, "qkv_bias": True},
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    **{"attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu"},
    **{"hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 70},
    **{"model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2},
    **{"rms_norm_eps": 1e-06, "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}},
    **{"rope_theta": 1000000.0, "sliding_window": None, "use_sliding_window": False, "vocab_size": 151674},
}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    **{"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645},
    **{"head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12288},
    **{"max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32},
    **{"num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None},
    **{"rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False, "vocab_size": 151936},
}
CHAT = {
    "architectures": ["InternVLChatModel"],
    **{"downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 448, "model_type": "internvl_chat"},
    **{"ps_version": "v2", "select_layer": -1, "template": "internvl2_5", "use_thumbnail": True},
}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
# How Qwen2's tokenizer cuts text before it merges bytes.
CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Original = Callable[..., Path]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Of Qwen2's kind, the added tokens behind those of the vocabulary."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(CUT), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(sample_texts(), trainer)
    bpe.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in TOKENS])
    return bpe


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """As Qwen2's class stores it."""
    model = json.loads(tokenizer.to_str())
    (folder / "vocab.json").write_text(json.dumps(model["model"]["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(m) for m in model["model"]["merges"])]))
    added = {str(token.pop("id")): token for token in model["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps({t["content"]: int(i) for i, t in added.items()}))
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | named))


@pytest.fixture
def original(tokenizer: Tokenizer, tmp_path: Path) -> Original:
    """original(QWEN3, shards=2, **text): a folder as OpenGVLab's, tiny and random."""

    def original(kind: dict[str, Any], shards: int = 1, **text: Any) -> Path:
        folder = tmp_path / "original"
        folder.mkdir()
        write_tokenizer(tokenizer, folder)
        llm = {**kind, **SMALL, "num_key_value_heads": 2, "vocab_size": tokenizer.get_vocab_size(), **text}
        llm |= {"head_dim": 16} if kind is QWEN3 else {}
        vision = {**VISION, **SMALL, "image_size": 56}
        config = {**CHAT, "force_image_size": 56, "vision_config": vision, "llm_config": llm}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        torch.manual_seed(0)
        built = InternVLForConditionalGeneration(original_config(folder, tokenizer.token_to_id("<IMG_CONTEXT>")))
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                parameter.normal_(std=0.3) if "norm" not in name else parameter.normal_(1, 0.2)
        tensors = dict(to_original(built.state_dict(), built.config))
        save(tensors, folder, shards)
        return folder

    return original


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("kind", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_the_language_model_is_transformers_own(kind: dict[str, Any], original: Original) -> None:
    """Its tensors have transformers' names behind a prefix, and its configuration is read by transformers' class."""
    folder = original(kind)
    tensors = stored(folder)
    names = {name for name in tensors if name.startswith("language_model.")}
    layer = "language_model.model.layers.1."
    assert {f"{layer}self_attn.q_proj.weight", f"{layer}mlp.gate_proj.weight", "language_model.lm_head.weight"} < names
    assert (f"{layer}self_attn.q_norm.weight" in names) == (kind is QWEN3)
    assert (f"{layer}self_attn.q_proj.bias" in names) == (kind is QWEN2)
    raw = json.loads((folder / "config.json").read_text())["llm_config"]
    plain = AutoModelForCausalLM.from_config((Qwen2Config if kind is QWEN2 else Qwen3Config)(**raw)).eval()
    plain.load_state_dict({name.removeprefix("language_model."): tensors[name] for name in names}, strict=True)
    hf = load_original(folder, 300, None)
    ids = torch.arange(40, 60)[None]
    with torch.inference_mode():
        torch.testing.assert_close(hf(input_ids=ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_a_trained_model_comes_back_in_its_own_layout(
    original: Original, picture: Any, tmp_path: Path, shards: int, tied: bool
) -> None:
    """Tied tables have come apart: the LM head is stored then, and said to be."""
    source = original(QWEN3, shards=shards, **({"tie_word_embeddings": True} if tied else {}))
    component = InternVL(path=str(source), max_tiles=2)
    processor, model = component.load()
    batch = collate([encode(processor, [picture(90, 60)], "Which?", ["red is 4.", "So 4."])])
    with torch.no_grad():
        model.head.weight.add_(0.5)
        model.mark_D.add_(0.5)
        expected = model.eval()(batch).logits_M2
    export(model, processor, component, tmp_path / "out", "original")
    before, after = stored(source), stored(tmp_path / "out")
    assert after.keys() - before.keys() == ({"language_model.lm_head.weight"} if tied else set())
    assert {path.name for path in source.iterdir()} < {path.name for path in (tmp_path / "out").iterdir()}
    llm = json.loads((tmp_path / "out" / "config.json").read_text())["llm_config"]
    assert llm["vocab_size"] == len(after["language_model.model.embed_tokens.weight"])
    assert llm.get("tie_word_embeddings", False) is False
    if shards > 1:
        assert json.loads((tmp_path / "out" / INDEX).read_text())["weight_map"].keys() == after.keys()
    _, again = InternVL(path=str(tmp_path / "out"), max_tiles=2).load()
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(batch).logits_M2, expected, atol=1e-6, rtol=0)


def test_text_is_cut_as_qwen2_cuts_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tokenizer, tmp_path)
    found = load_tokenizer(tmp_path)
    for text in ("red is 12345.", "<|im_start|>user\n  It's  22,5!!\n\n é e\u0301 質問", "".join(TOKENS)):
        assert found.encode(text, add_special_tokens=False) == tokenizer.encode(text, add_special_tokens=False).ids
        assert found.decode(tokenizer.encode(text).ids) == tokenizer.decode(
            tokenizer.encode(text).ids, skip_special_tokens=False
        )
    assert (found.eos_token, found.pad_token) == ("<|im_end|>", "<|endoftext|>")


@pytest.mark.parametrize(
    ("llm", "rope", "count"),  # of the numbers of two tables, all layers, the tower and the projector
    [
        (QWEN2, {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000000.0}, 938_193_024),
        (QWEN3, {"rope_type": "default", "rope_theta": 1000000}, 8_528_318_464),
    ],
    ids=["InternVL3-1B", "InternVL3.5-8B"],
)
def test_published_configurations(llm: dict[str, Any], rope: dict[str, Any], count: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CHAT, "vision_config": VISION, "llm_config": llm}))
    config = original_config(tmp_path, 151667)
    assert config.text_config.rope_parameters == rope
    assert (config.text_config.model_type, config.tie_word_embeddings) == (llm["model_type"], False)
    assert set(config.text_config.layer_types) == {"full_attention"}
    with torch.device("meta"):
        hf = InternVLForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in hf.parameters()) == count
