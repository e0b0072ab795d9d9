"""OpenGVLab's own InternVL2.5, 3 and 3.5 folders: read into transformers' InternVL, and written back. InternLM2 becomes
a Llama there, Qwen2 and Qwen3 stay what they are.

Nothing of the folder is executed or unpickled, and no converted copy is written to disk.

Shape suffixes: G key-value groups, H rows of a group (its query heads, then key, then value), d head dimension.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.internvl import InternVLVisionConfig

from mprm.backbones.loading import incomplete
from mprm.batching.examples import MARK

INDEX = "model.safetensors.index.json"
WEIGHT_SUFFIXES = (".safetensors", ".index.json", ".bin", ".pt", ".pth")
# Keys of config.json with the same name in transformers.
SHARED_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
VISION_KEYS = ("attention_dropout", "norm_type", "layer_norm_eps", "image_size", "patch_size", "num_channels")
TEXT_KEYS = ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "vocab_size")
TOKEN_KEYS = ("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings")
# What newer folders leave out where it is transformers' default.
QWEN_KEYS = (*TOKEN_KEYS, "head_dim", "attention_bias", "use_sliding_window", "sliding_window", "max_window_layers")
QWEN: dict[str, type[PreTrainedConfig]] = {"Qwen2ForCausalLM": Qwen2Config, "Qwen3ForCausalLM": Qwen3Config}
LANGUAGE_MODELS = ("InternLM2ForCausalLM", *QWEN)
# Parts of parameter names, transformers' and the original's, replaced from top to bottom.
RENAMED = {
    "model.vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "model.vision_tower.embeddings.position_embeddings": "vision_model.embeddings.position_embedding",
    "model.vision_tower.embeddings.patch_embeddings.projection": "vision_model.embeddings.patch_embedding",
    "model.vision_tower.encoder.layer.": "vision_model.encoder.layers.",
    **{f".attention.{part}_proj.": ".attn.qkv." for part in "qkv"},
    ".attention.q_norm.": ".attn.q_norm.",
    ".attention.k_norm.": ".attn.k_norm.",
    ".attention.projection_layer.": ".attn.proj.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".lambda_1": ".ls1",
    ".lambda_2": ".ls2",
    "model.multi_modal_projector.layer_norm.": "mlp1.0.",
    "model.multi_modal_projector.linear_1.": "mlp1.1.",
    "model.multi_modal_projector.linear_2.": "mlp1.3.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
INTERNLM2 = {
    "embed_tokens": "tok_embeddings",
    **{f".self_attn.{part}_proj.": ".attention.wqkv." for part in "qkv"},
    ".self_attn.o_proj.": ".attention.wo.",
    ".mlp.gate_proj.": ".feed_forward.w1.",
    ".mlp.down_proj.": ".feed_forward.w2.",
    ".mlp.up_proj.": ".feed_forward.w3.",
    ".input_layernorm.": ".attention_norm.",
    ".post_attention_layernorm.": ".ffn_norm.",
    ".lm_head.": ".output.",
}


def original_config(folder: Path, image_token_id: int) -> InternVLConfig:
    """The folder's config.json in transformers' words; image_token_id is the id of <IMG_CONTEXT>. Drop-path has no
    counterpart there: a vision tower is trained without it. Raises ValueError if the config lacks a key or describes a
    model that transformers cannot compute alike."""
    raw = json.loads((folder / "config.json").read_text())
    try:
        _check_supported(raw, folder)
        tower, llm, ratio = raw["vision_config"], raw["llm_config"], raw["downsample_ratio"]
        vision = InternVLVisionConfig(
            **{key: tower[key] for key in SHARED_KEYS + VISION_KEYS},
            attention_bias=tower["qkv_bias"],
            use_qk_norm=tower["qk_normalization"],
            projection_dropout=tower["dropout"],
            layer_scale_init_value=tower["initializer_factor"],
            use_mean_pooling=True,  # the way to say: no layer norm behind the last layer
        )
        text = _text_config(llm)
    except KeyError as missing:
        raise incomplete(folder, f"config.json has no {missing}") from None
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token_id,
        image_seq_length=int((vision.image_size[0] // vision.patch_size[0]) ** 2 * ratio**2),
        downsample_ratio=ratio,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
    )


def _text_config(llm: dict[str, Any]) -> PreTrainedConfig:
    rope = {"rope_type": "default", "rope_theta": llm["rope_theta"]}
    if llm["rope_scaling"]:
        rope |= {"rope_type": llm["rope_scaling"]["type"], "factor": llm["rope_scaling"]["factor"]}
    shared = {key: llm[key] for key in SHARED_KEYS + TEXT_KEYS} | {"rope_parameters": rope}
    if (architecture := llm["architectures"][0]) in QWEN:
        return QWEN[architecture](**shared, **{key: llm[key] for key in QWEN_KEYS if key in llm})
    return LlamaConfig(**shared, **{key: llm[key] for key in TOKEN_KEYS}, attention_bias=llm["bias"])


def _check_supported(raw: dict[str, Any], folder: Path) -> None:
    vision = raw["vision_config"]
    size = vision["image_size"]
    found_llm = raw["llm_config"]["architectures"]
    readable = [[name] for name in LANGUAGE_MODELS]
    demands = {
        "llm_config.architectures": (found_llm, found_llm if found_llm in readable else readable),
        "template": (raw["template"], "internvl2_5"),
        "ps_version": (raw["ps_version"], "v2"),
        "select_layer": (raw["select_layer"], -1),  # the step model reads the tower's last layer
        "dynamic_image_size": (raw.get("dynamic_image_size", True), True),
        "use_thumbnail": (raw.get("use_thumbnail", True), True),
        # Positions would have to be interpolated, and the tile size be told apart from the tower's.
        "force_image_size": (raw.get("force_image_size") or size, size),
    }
    if vision["qk_normalization"]:
        # transformers' norm of queries and keys has this epsilon built in.
        demands["vision_config.layer_norm_eps"] = (vision["layer_norm_eps"], 1e-6)
    for key, (found, wanted) in demands.items():
        if found != wanted:
            raise ValueError(
                f"backbone.path={folder}: config.json has {key}={found!r}, only {wanted!r} can be read; "
                "use an InternVL2.5, 3 or 3.5, or a folder in transformers' format"
            )


def split_wqkv(wqkv: torch.Tensor, heads: int, kv_heads: int) -> tuple[torch.Tensor, ...]:
    """InternLM2's fused rows (G * H * d, ...) as q (heads * d, ...), k and v (kv_heads * d, ...), copied."""
    wqkv_GHd = wqkv.unflatten(0, (kv_heads, heads // kv_heads + 2, -1))
    parts = wqkv_GHd.split([heads // kv_heads, 1, 1], dim=1)
    return tuple(part.flatten(0, 2).clone() for part in parts)


def merge_wqkv(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, kv_heads: int) -> torch.Tensor:
    """The inverse of split_wqkv."""
    q_GHd = q.unflatten(0, (kv_heads, heads // kv_heads, -1))
    k_GHd, v_GHd = k.unflatten(0, (kv_heads, 1, -1)), v.unflatten(0, (kv_heads, 1, -1))
    return torch.cat([q_GHd, k_GHd, v_GHd], dim=1).flatten(0, 2)


def _fused_heads(name: str, config: InternVLConfig) -> tuple[int, int] | None:
    """Query and key-value heads by which an original tensor holds q, k and v; None where it holds one parameter."""
    if ".wqkv." in name:
        return config.text_config.num_attention_heads, config.text_config.num_key_value_heads
    return (1, 1) if ".attn.qkv." in name else None  # the vision tower's are three blocks


def _original_names(state: Mapping[str, torch.Tensor], config: InternVLConfig) -> dict[str, list[str]]:
    """Every original tensor and the parameters it holds: one, or q, k and v."""
    renamed = RENAMED | (INTERNLM2 if config.text_config.model_type == "llama" else {})
    names: dict[str, list[str]] = {}
    for ours in state:
        if ours == "lm_head.weight" and config.tie_word_embeddings:
            continue
        original = ours
        for part, replacement in renamed.items():
            original = original.replace(part, replacement)
        names.setdefault(original, []).append(ours)
    return names


def load_original(folder: Path, image_token_id: int, dtype: torch.dtype | None) -> InternVLForConditionalGeneration:
    """The folder's model in eval mode, its weights as stored or in `dtype`; one shard is read at a time. Raises
    ValueError if the folder has no safetensors, lacks a tensor, or has one that is unknown or of another shape."""
    config = original_config(folder, image_token_id)
    layout = _shard_layout(folder)
    with torch.device("meta"):
        hf = InternVLForConditionalGeneration(config)
    empty = hf.state_dict()
    names = _original_names(empty, config)
    found = {name for shard in layout.values() for name in shard}
    if missing := sorted(names.keys() - found):
        raise incomplete(folder, f"the weights have no {missing[0]}")
    if unknown := sorted(found - names.keys()):
        raise ValueError(f"backbone.path={folder}: the weights have {unknown[0]}, which no InternVL2.5 has; check it")
    for file, stored in layout.items():
        filled: dict[str, torch.Tensor] = {}
        with safe_open(folder / file, framework="pt") as shard:
            for name in stored:
                wanted = [empty[ours].shape for ours in names[name]]
                whole = (sum(shape[0] for shape in wanted), *wanted[0][1:])
                tensor = shard.get_tensor(name)
                if tensor.shape != whole:
                    shapes = f"shape {tuple(tensor.shape)}, config.json says {whole}"
                    raise incomplete(folder, f"{name} in {file} has {shapes}")
                heads = _fused_heads(name, config)
                parts = (tensor.to(dtype),) if heads is None else split_wqkv(tensor.to(dtype), *heads)
                filled |= zip(names[name], parts, strict=True)
        hf.load_state_dict(filled, strict=False, assign=True)
    # The only buffers; they are computed, not stored.
    hf.model.language_model.rotary_emb = type(hf.model.language_model.rotary_emb)(config.text_config)
    hf.tie_weights()
    assert not any(tensor.is_meta for tensor in (*hf.parameters(), *hf.buffers()))
    return hf.eval()


def _shard_layout(folder: Path) -> dict[str, list[str]]:
    """The folder's weight files and the tensors in each. Raises ValueError if a file is not there."""
    files = ["model.safetensors"]
    if (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    layout = {}
    for file in files:
        # A name with a folder in it would be written outside the new folder.
        if Path(file).name != file or not (folder / file).is_file():
            pickled = "; pytorch_model.bin is never unpickled" if list(folder.glob("*.bin")) else ""
            raise ValueError(f"backbone.path={folder} has no {file}{pickled}; give a folder with all its safetensors")
        try:
            with safe_open(folder / file, framework="pt") as shard:
                layout[file] = list(shard.keys())
        except SafetensorError as error:
            raise ValueError(f"backbone.path={folder}: {file} is broken ({error}); download it again") from None
    return layout


def to_original(hf_state: Mapping[str, torch.Tensor], config: InternVLConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """The original's tensors, one after the other: renamed, and q, k and v merged again."""
    for name, ours in _original_names(hf_state, config).items():
        parts, heads = [hf_state[part] for part in ours], _fused_heads(name, config)
        yield name, parts[0] if heads is None else merge_wqkv(parts[0], parts[1], parts[2], *heads)


def write_original(hf: InternVLForConditionalGeneration, source: Path, folder: Path) -> None:
    """Write the model into the empty `folder`, laid out as `source`, from which it was loaded, one shard at a time,
    with a copy of the files that hold no weights, subfolders left out."""
    assert not any(folder.iterdir())
    state, layout = hf.state_dict(), _shard_layout(source)
    names = _original_names(state, hf.config)
    # An LM head that was tied, and so not stored, has learnt rows of its own.
    added = sorted(names.keys() - {name for stored in layout.values() for name in stored})
    layout[last := list(layout)[-1]] += added
    total = 0
    for file, stored in layout.items():
        part = {ours: state[ours] for name in stored for ours in names[name]}
        tensors = {name: tensor.contiguous() for name, tensor in to_original(part, hf.config)}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors.values())
    if (source / INDEX).is_file():
        index = json.loads((source / INDEX).read_text())
        index["metadata"]["total_size"] = total
        index["weight_map"] |= dict.fromkeys(added, last)
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(path, folder / path.name)
    config = json.loads((source / "config.json").read_text())
    config["llm_config"]["vocab_size"] = hf.get_input_embeddings().weight.shape[0]
    if added:
        config["llm_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def name_mark(folder: Path, mark_id: int) -> None:
    """Add the mark to the tokenizer's files of an original folder, each where it lists added tokens."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    entry = {"content": MARK, **flags}
    for path in (folder / name for name in ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")):
        if not path.is_file() or MARK in path.read_text(encoding="utf-8"):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "added_tokens.json":
            content[MARK] = mark_id
        elif path.name == "tokenizer.json":
            content["added_tokens"].append({"id": mark_id, **entry})
        else:
            content.setdefault("added_tokens_decoder", {})[str(mark_id)] = entry
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
