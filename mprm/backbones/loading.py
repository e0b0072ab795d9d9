"""Chat models as the config has them: their folder, what is wrong with one in a line, and which parts are trained.

Shape suffixes: V vocabulary, D hidden size.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from mprm.backbones.usage import usage
from mprm.batching.examples import MARK
from mprm.runs.artifacts import read_json

if TYPE_CHECKING:
    from mprm.backbones.chat import ChatModel, ChatProcessor

DECODER_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
PROMPT = "mprm.json"  # in an exported folder: the options of the prompt it was trained with
REMEDY = {"exact": "backbone.exact=false"}  # the same for every backbone=
DTYPES = {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
FROZEN, TRAINED, LORA = "frozen", "trained", "lora"
CHOICES = {
    "dtype": tuple(DTYPES),
    "vision": (FROZEN, TRAINED, LORA),
    "projector": (FROZEN, TRAINED),
    "language_model": (FROZEN, TRAINED, LORA),
    "mark_init": ("mean", "normal"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every chat model can be told, whatever its family."""

    path: str | None = None  # folder of the downloaded weights
    # false: the language model runs in transformers' own forward pass, one solution after the other. Slower, and right
    # for layers that rows of many solutions cannot be computed with.
    exact: bool = True
    max_length: int = 8192  # tokens; a longer solution is left out and counted
    dtype: str = "float32"  # of the weights; stored: as in the folder
    # Parts: frozen, trained, or (not the projector) lora: adapters of lora_rank, scaled by lora_alpha / lora_rank.
    vision: str = FROZEN
    projector: str = TRAINED
    language_model: str = TRAINED
    lora_rank: int = 16
    lora_alpha: int = 32
    # Share of the layers whose activations the backward pass computes again instead of keeping them: 0 none, 1 all.
    checkpoint_layers: float = 0.0
    # The embedding of a new mark: the mean of all tokens, or normal: drawn with their mean and deviation.
    mark_init: str = "mean"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"backbone.{name}={getattr(self, name)} is unknown; choose {', '.join(choices)}")
        for name in ("lora_rank", "lora_alpha", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"backbone.{name}={getattr(self, name)} is not positive")
        if not 0 <= self.checkpoint_layers <= 1:
            raise ValueError(f"backbone.checkpoint_layers={self.checkpoint_layers} is no share of layers; give 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ChatBackbone(Options):
    """What the families of chat models share of Backbone. A family adds its image options and load()."""

    model_types: ClassVar[tuple[str, ...]] = ()  # of the folder's config.json
    prompt_fields: ClassVar[tuple[str, ...]] = ("system", "no", "yes")  # what a trained model depends on
    own_system: ClassVar[str] = ""  # the system message that the published chat template begins with
    # For the model card, as code: what is given as a picture; and in plain transformers the class of its processor, the
    # text that stands for it, and what the model takes besides the ids. None: the card shows mprm alone.
    picture: ClassVar[str] = '"chart.png"'
    plain: ClassVar[tuple[str, str, str] | None] = None

    system: str = ""  # system message, none when empty
    no: str = "No"  # the verdicts, one token each
    yes: str = "Yes"

    def load(self) -> tuple[ChatProcessor, ChatModel]:
        raise NotImplementedError

    def folder(self) -> Path:
        """The folder. Raises ValueError if it is not there, holds another architecture or wants another prompt."""
        folder = check_folder(self.path, self.model_types)
        for name, trained in stored_prompt(folder).items():  # with other options it would score wrongly
            if (given := getattr(self, name, None)) != trained:
                raise ValueError(
                    f"backbone.{name}={given!r}, but backbone.path={folder} was trained with {trained!r}; give "
                    f"{REMEDY.get(name, 'the backbone= it was trained with')}, or delete its {PROMPT} to train it anew"
                )
        return folder

    def prompt(self) -> dict[str, Any]:
        # What had to be trained one by one cannot be used otherwise.
        return {name: getattr(self, name) for name in (*self.prompt_fields, *([] if self.exact else ["exact"]))}

    def usage(self) -> str:
        return usage(self.plain, self.picture, self.system, self.no, self.yes)

    def export(self, model: ChatModel, processor: ChatProcessor, folder: Path, layout: str) -> None:
        """Write a folder that transformers reads by itself; the weights have the type of the language model's."""
        if layout == "original":
            raise ValueError(f"format=original: backbone.path={self.path} is not in OpenGVLab's format; use format=hf")
        logging.getLogger("DeepSpeed").disabled = True  # loaded by transformers, it tells that there is no GPU
        model.fold().save_pretrained(folder)
        processor.save(folder)
        for template in Path(str(self.path)).glob("chat_template.*"):  # of the processor; a tokenizer writes its own
            if not (folder / template.name).exists():
                shutil.copyfile(template, folder / template.name)


def stored_prompt(folder: Path) -> dict[str, Any]:
    """The options that an exported folder was trained with; none of any other folder."""
    if not (folder / PROMPT).is_file():
        return {}
    prompt: dict[str, Any] = read_json(folder / PROMPT, "export the folder again")
    return prompt


def incomplete(folder: Path, what: str) -> ValueError:
    return ValueError(f"backbone.path={folder}: {what}; download the folder anew")


def stored_type(path: str | Path | None) -> str | None:
    """The model_type of a folder. Raises ValueError if it is not given or not there."""
    if path is None:
        raise ValueError("backbone.path is not set; give the folder of the weights, or ORG/NAME on the hub")
    config = Path(path) / "config.json"
    if not config.is_file():
        raise ValueError(f"backbone.path={path} has no config.json; give the folder of the downloaded weights")
    found: str | None = read_json(config, "download it again").get("model_type")
    return found


def check_folder(path: str | None, model_types: tuple[str, ...]) -> Path:
    """The folder as a Path. Raises ValueError if it is not given, not there, or holds another architecture."""
    if (found := stored_type(path)) not in model_types:
        wanted = " or ".join(repr(name) for name in model_types)
        raise ValueError(f"backbone.path={path} holds model_type {found!r}, not {wanted}; choose another backbone=")
    return Path(str(path))


def load_hf(model_class: Any, folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """transformers' model, its weights as stored or in `dtype`. Raises ValueError if weights are missing (transformers
    would draw them) or a file is cut off."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        hf, loaded = model_class.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"backbone.path={folder} has a broken safetensors ({error}); download it again") from None
    except OSError as error:
        raise ValueError(f"backbone.path={folder} has no weights ({error}); download them") from None
    if missing := sorted(loaded["missing_keys"]):
        raise incomplete(folder, f"the weights have no {missing[0]}")
    return hf


def load_images(processor_class: Any, folder: Path, **options: Any) -> Any:
    """The folder's image processor, with other options. Raises ValueError if the folder does not say what it is."""
    try:
        return processor_class.from_pretrained(folder, **options)
    except OSError:
        raise incomplete(folder, "it has no preprocessor_config.json") from None


def check_language_model(model: Any, folder: str | Path | None, max_length: int) -> None:
    """Raises ValueError if attention.attend and MarksOnly, which compute whole segments and a layer of four parts,
    would compute something else than the model."""
    kinds = set(getattr(model.config, "layer_types", None) or ["sliding_attention"])  # Mistral's has a window or none
    window = getattr(model.config, "sliding_window", None) if "sliding_attention" in kinds else None
    if window is not None and window < max_length:
        raise ValueError(
            f"backbone.path={folder}: its language model looks back {window} tokens (sliding_window), less than "
            f"backbone.max_length={max_length}, but here all of a solution is seen; give backbone.max_length={window} "
            "or backbone.exact=false"
        )
    rope = getattr(model.config, "rope_parameters", None) or {}
    limit = rope.get("original_max_position_embeddings", model.config.max_position_embeddings)
    if rope.get("rope_type") in ("dynamic", "longrope") and limit < max_length:
        raise ValueError(
            f"backbone.path={folder}: its language model turns positions otherwise in longer texts than {limit} tokens "
            f"(rope_type {rope['rope_type']}), and backbone.max_length={max_length} lets them share a row with shorter "
            f"ones; give backbone.max_length={limit} or backbone.exact=false"
        )
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    for layer in model.layers:
        others += sorted(dict(layer.named_children()).keys() ^ DECODER_LAYER)
        # Granite scales what it adds to the residual stream, GPT-OSS has a weight for attending to nothing.
        others += [name for name, value in vars(layer).items() if isinstance(value, float)]
        others += [name for name, _ in layer.self_attn.named_parameters(recurse=False)]
    if others:
        raise ValueError(
            f"backbone.path={folder}: the layers of its {type(model).__name__} differ from Llama's and Qwen2's in "
            f"{others[0]}, which would not be computed; give backbone.exact=false, which is slower, or choose another"
        )


def add_mark(tokenizer: PreTrainedTokenizerBase, hf: PreTrainedModel, init: str) -> tuple[int, torch.Tensor]:
    """Id of the mark and its embedding (D,): its row where the folder came with one, else a new one (mark_init)."""
    table_VD = hf.get_input_embeddings().weight.detach()
    known = tokenizer.convert_tokens_to_ids(MARK)
    if known is not None and known != tokenizer.unk_token_id and known < len(table_VD):
        return known, table_VD[known].to(torch.float32, copy=True)
    tokenizer.add_tokens([MARK], special_tokens=True)
    mark_id = tokenizer.convert_tokens_to_ids(MARK)
    rows_VD = table_VD[:mark_id].float()
    row_D = rows_VD.mean(0)
    return mark_id, torch.normal(row_D, rows_VD.std(0)) if init == "normal" else row_D


def single_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """Id of a word. Raises ValueError if the tokenizer splits it: the step head has one row per verdict."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(
            f"verdict {word!r} is {len(ids)} tokens for this tokenizer; give backbone.yes and backbone.no a word of one"
        )
    return ids[0]


def set_trained(parameters: Iterable[nn.Parameter], choice: str) -> None:
    """Adapters are trained on their own: the part they stand in is frozen."""
    for parameter in parameters:
        parameter.requires_grad_(choice == TRAINED)


def checkpoint_layers(hf: PreTrainedModel, share: float) -> None:
    """Compute this share of the layers again in the backward pass, in every tower from the first one on and evenly
    spread: that of the last layer is wanted first, and so is kept first."""
    hf.gradient_checkpointing_enable({"use_reentrant": False})
    for layers in (part for part in hf.modules() if isinstance(part, nn.ModuleList)):
        for number, layer in enumerate(layers):
            if isinstance(layer, GradientCheckpointingLayer):
                before, after = (math.ceil(n * share - 1e-9) for n in (number, number + 1))
                layer.gradient_checkpointing = after > before


def freeze_unread(config: Any, tower: nn.Module) -> nn.ModuleList:
    """The frozen parts of a vision tower whose output nothing reads, which so would get no gradient: those behind the
    layer that transformers reads, where its configuration names one."""
    named = getattr(config, "vision_feature_layer", None)
    if named is None:
        return nn.ModuleList()
    layers = next(module for module in tower.modules() if isinstance(module, nn.ModuleList))
    last = max(place % (len(layers) + 1) for place in (named if isinstance(named, list) else [named]))
    norms = (part for name, part in tower.named_children() if name == "post_layernorm")
    return nn.ModuleList([*layers[last:], *norms]).requires_grad_(False)


def add_adapters(model: nn.Module, layers: set[nn.Module], rank: int, alpha: int) -> None:
    """Put trained adapters (LoRA, peft) beside these linear layers of the model. Their first matrix is drawn from
    torch's generator, the second is zero: the model computes what it did before."""
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, module in model.named_modules() if module in layers]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), model)
    for name, parameter in model.named_parameters():  # peft has frozen everything else
        parameter.requires_grad_("lora_" in name or name in trained)
        if "lora_" in name:
            parameter.data = parameter.data.float()


def merge_adapters(model: nn.Module) -> None:
    """Add every adapter into its layer's weight and put the layer back in its place."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
