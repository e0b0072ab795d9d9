"""Tiny random backbones with weights large enough that every part of them shows in the logits.

Shape suffixes: B rows, L tokens of a padded row, M marks, D hidden size, 2 logits (no, yes).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from mprm.backbones.chat import ChatModel
from mprm.backbones.internvl import InternVL, InternVLProcessor
from mprm.backbones.language_model import LanguageModel
from mprm.backbones.loading import ChatBackbone, add_adapters
from mprm.backbones.pixels import Pixels
from mprm.backbones.qwen import PatchEmbedding, QwenProcessor
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.collate import Example
from tools import tiny


def build(family: str, folder: Path, **text: Any) -> Path:
    """A folder of the family; `text`: what is changed in the language model's configuration."""
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer(family)
    hf = tiny.build_model(family, tokenizer)
    if text:
        for name, value in text.items():
            setattr(hf.config.get_text_config(), name, value)
        hf.config.tie_word_embeddings = hf.config.get_text_config().tie_word_embeddings
        hf = type(hf)(hf.config)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    tensors = {name: 4 * value if value.ndim > 1 else value for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    if family == "qwen2_5_vl":
        # Its windows hold up to 2 x 2 merged patches, so that an image has windows of several sizes.
        config = folder / "config.json"
        narrow = '"window_size": 28'
        assert narrow in config.read_text()
        config.write_text(config.read_text().replace(narrow, '"window_size": 56'))
    return folder


@pytest.fixture(scope="session")
def internvl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("internvl", tmp_path_factory.mktemp("internvl"))


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="session")
def internvl(internvl_folder: Path) -> tuple[InternVLProcessor, ChatModel]:
    processor, model = InternVL(path=str(internvl_folder)).load()
    return processor, model.eval()


@pytest.fixture(scope="session")
def qwen(qwen_folder: Path) -> tuple[QwenProcessor, ChatModel]:
    processor, model = Qwen2_5_VL(path=str(qwen_folder)).load()
    return processor, model.eval()


@pytest.fixture(scope="session")
def component(internvl_folder: Path, qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """component(family, vision="lora", ...): the backbone's component over the tiny folder of the family.

    grouped: over one with fewer key-value heads than query heads and an LM head of its own.
    """
    folders = {("internvl", False): internvl_folder, ("qwen2_5_vl", False): qwen_folder}
    kinds: dict[str, Callable[..., ChatBackbone]] = {
        "internvl": InternVL,
        "qwen2_5_vl": Qwen2_5_VL,
        "qwen2": LanguageModel,
    }

    def component(family: str, grouped: bool = False, **options: Any) -> ChatBackbone:
        if (family, grouped) not in folders:
            folder = tmp_path_factory.mktemp(f"{'grouped_' * grouped}{family}")
            text = {"num_key_value_heads": 2, "tie_word_embeddings": False} if grouped else {}
            folders[family, grouped] = build(family, folder, **text)
        return kinds[family](path=str(folders[family, grouped]), **options)

    return component


@dataclass(frozen=True)
class Stock:
    """The weights of a step model in transformers' own classes, the mark as a row of the table, and a head."""

    hf: Any
    head_2D: torch.Tensor
    mark_id: int
    pixels: Pixels

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Logits at the marks of a padded batch, (M, 2)."""
        ids_BL = pad_sequence([example.input_ids for example in examples], batch_first=True, padding_value=0)
        mask_BL = pad_sequence([torch.ones_like(example.input_ids) for example in examples], batch_first=True)
        vision = {name: torch.cat([e.vision[name] for e in examples]) for name in examples[0].vision}
        vision = self.pixels(vision)
        if "image_grid_thw" in vision:
            vision["mm_token_type_ids"] = (ids_BL == self.hf.config.image_token_id).int()
        h_BLD = self.hf.model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False, **vision).last_hidden_state
        h_MD = torch.cat([h_BLD[row, example.marks] for row, example in enumerate(examples)])
        return torch.nn.functional.linear(h_MD, self.head_2D)

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients under the step model's names."""
        found = {f"hf.{name}": p.grad for name, p in self.hf.named_parameters() if p.grad is not None}
        table = next(name for name in dict(self.hf.named_parameters()) if name.endswith("embed_tokens.weight"))
        found["mark_D"] = found[f"hf.{table}"][self.mark_id]
        found[f"hf.{table}"] = found[f"hf.{table}"][: self.mark_id]
        assert self.head_2D.grad is not None
        return {**found, "head.weight": self.head_2D.grad}


@pytest.fixture(scope="session")
def stock() -> Callable[[ChatModel, ChatBackbone], Stock]:
    def stock(model: ChatModel, loaded: ChatBackbone) -> Stock:
        hf: Any = type(model.hf).from_pretrained(loaded.path)
        hf.resize_token_embeddings(model.mark_id + 1, mean_resizing=False)
        layers = {hf.get_submodule(name) for name, layer in model.hf.named_modules() if isinstance(layer, LoraLayer)}
        if layers:
            add_adapters(hf, layers, loaded.lora_rank, loaded.lora_alpha)
        if hasattr(hf.model, "visual"):  # as rounded as ours: the tower makes more of it, and it is tested on its own
            hf.model.visual.patch_embed.proj.__class__ = PatchEmbedding
        theirs = dict(hf.named_parameters())
        with torch.no_grad():
            for name, parameter in model.hf.named_parameters():
                theirs[name][: len(parameter)] = parameter  # the table has a row more
            hf.get_input_embeddings().weight[model.mark_id] = model.mark_D
        for parameter in hf.parameters():
            parameter.requires_grad_()
        return Stock(hf.eval(), model.head.weight.detach().clone().requires_grad_(), model.mark_id, model.pixels)

    return stock


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int], Image.Image]:
    """picture(width, height): noise, the same for the same size."""

    def picture(width: int, height: int) -> Image.Image:
        rng = np.random.default_rng([width, height])
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return picture
