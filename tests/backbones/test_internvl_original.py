"""OpenGVLab's own InternVL folders: the published loss and scores, and the way there and back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import InternVLForConditionalGeneration

from mprm.backbones import internvl_original
from mprm.backbones.internvl_original import (
    INDEX,
    load_original,
    merge_wqkv,
    original_config,
    split_wqkv,
    to_original,
    write_original,
)

ORACLE = Path(__file__).parents[1] / "oracle_data" / "internvl"
SOURCE = ORACLE / "checkpoint"
CASES = json.loads((ORACLE / "cases.json").read_text())
VOCABULARY = Tokenizer.from_file(str(SOURCE / "tokenizer.json")).get_vocab()
CONTEXT, MARK, NO, YES = (VOCABULARY[token] for token in ("<IMG_CONTEXT>", "<prm>", "No", "Yes"))

Copy = Callable[..., Path]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """copy(shards=2, dtype=torch.bfloat16, **values): the oracle's checkpoint with another layout and config."""

    def copy(shards: int = 1, dtype: torch.dtype = torch.float32, **values: Any) -> Path:
        folder = tmp_path / "source"
        folder.mkdir()
        config = json.loads((SOURCE / "config.json").read_text())
        for key, value in values.items():
            section, _, name = key.rpartition("__")
            (config[section] if section else config)[name] = value
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "modeling_internvl_chat.py").write_bytes(b"raise RuntimeError('never run')\r\n")
        (folder / "tokenizer.json").write_bytes((SOURCE / "tokenizer.json").read_bytes())
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(SOURCE / "model.safetensors").items()}
        save(tensors, folder, shards)
        return folder

    return copy


def save(tensors: dict[str, torch.Tensor], folder: Path, shards: int = 1) -> None:
    """The tensors dealt out to the shards in turn, so that every shard has some of each part of the model."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    files = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    weight_map = {name: files[number % shards] for number, name in enumerate(sorted(tensors))}
    for file in files:
        part = {name: tensor for name, tensor in tensors.items() if weight_map[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(hf: InternVLForConditionalGeneration, source: Path, folder: Path) -> Path:
    folder.mkdir()
    write_original(hf, source, folder)
    return folder


@torch.inference_mode()
def mark_logits(hf: InternVLForConditionalGeneration, number: int) -> torch.Tensor:
    """Logits of (no, yes) at the marks of a published case, (M, 2)."""
    ids = torch.tensor([CASES[number]["train"]["input_ids"]])
    pixels = torch.from_numpy(np.load(ORACLE / "pixel_values.npz")[f"pixels_{number}"])
    return hf(input_ids=ids, pixel_values=pixels).logits[ids == MARK][:, [NO, YES]]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_loss_and_scores_are_the_published_ones(number: int) -> None:
    train = CASES[number]["train"]
    logits = mark_logits(load_original(SOURCE, CONTEXT, torch.float32), number)
    assert logits.softmax(-1)[:, 1].tolist() == pytest.approx(train["scores"], abs=1e-5)
    labels = torch.tensor(train["labels_at_markers"]).long()
    assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(train["loss"], abs=1e-5)


def test_the_model_equals_one_that_was_built_and_not_read() -> None:
    hf = load_original(SOURCE, CONTEXT, None)
    built = InternVLForConditionalGeneration(original_config(SOURCE, CONTEXT)).eval()
    assert not hf.training
    assert hf.config.to_dict() == built.config.to_dict()
    assert hf.config.text_config._attn_implementation == built.config.text_config._attn_implementation
    buffers = dict(hf.named_buffers())
    assert len(buffers) == 2
    for name, buffer in built.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
        assert buffer.dtype == buffers[name].dtype
    built.load_state_dict(hf.state_dict())
    assert torch.equal(mark_logits(hf, 1), mark_logits(built, 1))
    assert all(parameter.requires_grad for parameter in hf.parameters())


def test_another_grouping_of_wqkv_gives_other_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_three_blocks(wqkv: torch.Tensor, heads: int, kv_heads: int) -> tuple[torch.Tensor, ...]:
        unit = len(wqkv) // (heads + 2 * kv_heads)
        return wqkv.split([heads * unit, kv_heads * unit, kv_heads * unit])

    monkeypatch.setattr(internvl_original, "split_wqkv", in_three_blocks)
    scores = mark_logits(load_original(SOURCE, CONTEXT, None), 0).softmax(-1)[:, 1]
    assert (scores - torch.tensor(CASES[0]["train"]["scores"])).abs().max() > 0.01


def test_wqkv_of_four_heads_and_two_groups() -> None:
    """Rows of one number each: q0 q1 k0 v0, then q2 q3 k1 v1."""
    wqkv = torch.tensor([0, 1, 100, 200, 2, 3, 101, 201])
    q, k, v = split_wqkv(wqkv, heads=4, kv_heads=2)
    assert q.tolist() == [0, 1, 2, 3]
    assert k.tolist() == [100, 101]
    assert v.tolist() == [200, 201]


def test_wqkv_of_one_group_with_two_rows_a_head() -> None:
    q, k, v = split_wqkv(torch.arange(8)[:, None], heads=2, kv_heads=1)
    assert [part.flatten().tolist() for part in (q, k, v)] == [[0, 1, 2, 3], [4, 5], [6, 7]]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.sampled_from([(), (3,)]))
def test_wqkv_split_and_merged_is_unchanged(group: int, kv_heads: int, head_dim: int, rest: tuple[int, ...]) -> None:
    rows = kv_heads * (group + 2) * head_dim
    wqkv = torch.randn(rows, *rest)
    q, k, v = split_wqkv(wqkv, group * kv_heads, kv_heads)
    assert q.shape == (group * kv_heads * head_dim, *rest)
    assert k.shape == v.shape == (kv_heads * head_dim, *rest)
    assert len({part.untyped_storage().data_ptr() for part in (wqkv, q, k, v)}) == 4
    assert torch.equal(merge_wqkv(q, k, v, group * kv_heads, kv_heads), wqkv)


def test_there_and_back_is_bit_identical(tmp_path: Path) -> None:
    hf = load_original(SOURCE, CONTEXT, None)
    stored = load_file(SOURCE / "model.safetensors")
    back = dict(to_original(hf.state_dict(), hf.config))
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    folder = write(hf, SOURCE, tmp_path / "written")
    assert {path.name for path in folder.iterdir()} == {path.name for path in SOURCE.iterdir()}
    written = load_file(folder / "model.safetensors")
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], stored[name]) for name in stored)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert json.loads((folder / "config.json").read_text()) == json.loads((SOURCE / "config.json").read_text())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_file_comes_back_byte_for_byte(copy: Copy, tmp_path: Path, shards: int, dtype: torch.dtype) -> None:
    source = copy(shards, dtype)
    hf = load_original(source, CONTEXT, None)
    assert {parameter.dtype for parameter in hf.parameters()} == {dtype}
    assert files(write(hf, source, tmp_path / "written")) == files(source)


def test_shards_hold_the_same_model_as_one_file(copy: Copy) -> None:
    one, three = load_original(SOURCE, CONTEXT, None), load_original(copy(3), CONTEXT, None)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_weights_are_converted_if_a_dtype_is_given(copy: Copy) -> None:
    source = copy(dtype=torch.bfloat16)
    stored, wide = load_original(source, CONTEXT, None), load_original(source, CONTEXT, torch.float32)
    for narrow, parameter in zip(stored.parameters(), wide.parameters(), strict=True):
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, narrow.float())


def test_only_files_without_weights_are_copied_besides(copy: Copy, tmp_path: Path) -> None:
    source = copy()
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json", "optimizer.pt", "extra.safetensors"):
        (source / name).write_bytes(b"old weights")
    (source / "README.md").write_bytes(b"words")
    (source / "examples").mkdir()
    written = files(write(load_original(source, CONTEXT, None), source, tmp_path / "written"))
    assert set(written) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_internvl_chat.py",
        "tokenizer.json",
    }


@pytest.mark.parametrize("shards", [1, 2])
def test_added_rows_are_written_and_read_again(copy: Copy, tmp_path: Path, shards: int) -> None:
    source = copy(shards)
    hf = load_original(source, CONTEXT, None)
    before = hf.get_input_embeddings().weight.shape[0]
    hf.resize_token_embeddings(before + 1, mean_resizing=False)
    with torch.no_grad():
        hf.get_input_embeddings().weight[-1] = 7
        hf.get_output_embeddings().weight[-1] = -7
    folder = write(hf, source, tmp_path / "written")
    again = load_original(folder, CONTEXT, None)
    assert again.config.text_config.vocab_size == before + 1
    assert torch.equal(again.get_input_embeddings().weight, hf.get_input_embeddings().weight)
    assert torch.equal(again.get_output_embeddings().weight, hf.get_output_embeddings().weight)
    assert torch.equal(mark_logits(again, 2), mark_logits(load_original(source, CONTEXT, None), 2))
    if shards == 2:
        grown = json.loads((source / INDEX).read_text())
        grown["metadata"]["total_size"] += 2 * 32 * 4  # a row of 32 float32 in both tables
        assert json.loads((folder / INDEX).read_text()) == grown


def test_other_variants_come_back_too(copy: Copy, tmp_path: Path) -> None:
    """Tied tables, biases in the language model, a vision tower with RMS norms of everything and no qkv bias."""
    source = copy(
        llm_config__tie_word_embeddings=True,
        llm_config__bias=True,
        vision_config__norm_type="rms_norm",
        vision_config__qk_normalization=True,
        vision_config__qkv_bias=False,
    )
    built = InternVLForConditionalGeneration(original_config(source, CONTEXT))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_()
    tensors = dict(to_original(built.state_dict(), built.config))
    one = "vision_model.encoder.layers.1."
    assert {f"{one}attn.q_norm.weight", f"{one}attn.k_norm.weight", f"{one}norm1.weight"} < tensors.keys()
    assert not {f"{one}attn.qkv.bias", f"{one}norm1.bias", "language_model.output.weight"} & tensors.keys()
    assert tensors["language_model.model.layers.1.attention.wqkv.bias"].shape == (64,)
    save(tensors, source)
    hf = load_original(source, CONTEXT, None)
    assert hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
    state = hf.state_dict()
    assert state.keys() == built.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in built.state_dict().items())
    assert files(write(hf, source, tmp_path / "written")) == files(source)


# The keys that matter of the published config.json.
EIGHT_BILLION = """{
    "model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "template": "internvl2_5",
    "ps_version": "v2", "select_layer": -1, "downsample_ratio": 0.5, "force_image_size": 448, "torch_dtype": "bfloat16",
    "llm_config": {
        "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": false, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "vocab_size": 92553, "tie_word_embeddings": false,
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-05, "rope_theta": 1000000,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"}
    },
    "vision_config": {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_act": "gelu",
        "attention_dropout": 0.0, "dropout": 0.0, "drop_path_rate": 0.0, "initializer_factor": 1.0,
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 448, "patch_size": 14, "num_channels": 3, "norm_type": "layer_norm", "layer_norm_eps": 1e-06,
        "qk_normalization": false, "qkv_bias": true
    }
}"""


def test_the_model_of_eight_billion_parameters(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(EIGHT_BILLION)
    config = original_config(tmp_path, 92546)
    text, vision = config.text_config, config.vision_config
    assert (config.image_token_id, config.image_seq_length, config.vision_feature_layer) == (92546, 256, -1)
    assert (text.model_type, text.vocab_size, text.num_key_value_heads, text.head_dim) == ("llama", 92553, 8, 128)
    assert (text.rms_norm_eps, text.attention_bias, config.tie_word_embeddings) == (1e-5, False, False)
    assert text.rope_parameters == {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000000}
    assert (vision.image_size, vision.patch_size, vision.attention_bias) == ((448, 448), (14, 14), True)
    assert (vision.norm_type, vision.use_qk_norm, vision.layer_scale_init_value) == ("layer_norm", False, 1.0)
    with torch.device("meta"):
        hf = InternVLForConditionalGeneration(config)
    h, d = 4096, 1024
    tables = 2 * 92553 * h
    layer = (2 * h * h + 2 * h * 8 * 128) + 3 * h * 14336 + 2 * h
    block = (3 * d * d + 3 * d) + (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d) + 4 * d + 2 * d
    embedding = d + 1025 * d + (3 * 14 * 14 * d + d)
    projector = 2 * 4 * d + (4 * d * h + h) + (h * h + h)
    count = sum(parameter.numel() for parameter in hf.parameters())
    assert count == tables + 32 * layer + h + 24 * block + embedding + projector == 8_075_365_376


def test_rope_without_scaling(copy: Copy) -> None:
    config = original_config(copy(llm_config__rope_scaling=None), CONTEXT)
    assert config.text_config.rope_parameters == {"rope_type": "default", "rope_theta": 1000000}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"llm_config__architectures": ["GptOssForCausalLM"]}, r"llm_config\.architectures=\['GptOssForCausalLM'\]"),
        ({"template": "internvl_zh"}, "template='internvl_zh'"),
        ({"ps_version": "v1"}, "ps_version='v1'"),
        ({"select_layer": -2}, "select_layer=-2"),
        ({"dynamic_image_size": False}, "dynamic_image_size=False"),
        ({"use_thumbnail": False}, "use_thumbnail=False"),
        ({"force_image_size": 448}, "force_image_size=448, only 56"),
        ({"vision_config__qk_normalization": True, "vision_config__layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
    ],
)
def test_a_model_of_another_kind_is_refused(copy: Copy, values: dict[str, Any], message: str) -> None:
    refused(copy(**values), message)


@pytest.mark.parametrize(("section", "key"), [("", "downsample_ratio"), ("llm_config", "bias")])
def test_a_config_without_a_key_is_refused(copy: Copy, section: str, key: str) -> None:
    folder = copy()
    config = json.loads((folder / "config.json").read_text())
    del (config[section] if section else config)[key]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, f"config.json has no '{key}'")


def test_missing_unknown_and_misshapen_tensors_are_refused(copy: Copy) -> None:
    folder = copy()
    tensors = load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.1.attn.qkv.weight"
    save({key: value for key, value in tensors.items() if key != name}, folder)
    refused(folder, f"have no {name}")
    save({**tensors, "language_model.base_model.lora_A": torch.ones(1)}, folder)
    refused(folder, r"have language_model\.base_model\.lora_A, which")
    save({**tensors, name: tensors[name][:-1].clone()}, folder)
    refused(folder, rf"{name} in model.safetensors has shape \(95, 32\), config.json says \(96, 32\)")


def test_folders_without_their_safetensors_are_refused(copy: Copy) -> None:
    folder = copy(2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    refused(folder, r"has no model-00002-of-00002\.safetensors")
    (folder / INDEX).unlink()
    refused(folder, r"has no model\.safetensors; give")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    refused(folder, r"has no model\.safetensors; pytorch_model\.bin is never unpickled")


def test_a_shard_outside_the_folder_is_refused(copy: Copy, tmp_path: Path) -> None:
    folder = copy(2)
    (folder / "model-00002-of-00002.safetensors").rename(tmp_path / "outside.safetensors")
    index = (folder / INDEX).read_text().replace("model-00002-of-00002", "../outside")
    (folder / INDEX).write_text(index)
    refused(folder, r"has no \.\./outside\.safetensors")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_original(folder, CONTEXT, None)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
