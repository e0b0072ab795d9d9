"""What a backbone is: a component that loads a processor (text and images to tensors) and a step model.

Shape suffixes: B rows, L tokens of a row, T tokens of a packed row, M marks, D hidden size, V vocabulary, 2 logits
(no, yes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mprm.backbones import attention
from mprm.backbones.heads import KappaHead, StepHead, StepOutput, stored_kappa
from mprm.backbones.loading import check_folder, check_prompt
from mprm.backbones.parts import FROZEN, LORA, TRAINED, add_adapters, set_trained
from mprm.batching.collate import Batch, Example
from mprm.batching.prompt import MARK, neutralise

DTYPES = {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


class Processor(Protocol):
    """Turns one solution into tensors; runs in loader workers, holds no parameters."""

    tokenizer: PreTrainedTokenizerBase

    def layout(self, sizes: Sequence[tuple[int, int]], question: str, steps: list[str]) -> Example:
        """Token ids, marks and positions for images of these sizes (width, height); `vision` is empty."""
        ...

    def ask(self, sizes: Sequence[tuple[int, int]], question: str, instruction: str = "") -> Example:
        """What a chat model is asked: system turn, user turn with one line per image, the question and below it the
        instruction, and the opened turn of the assistant; no marks, `vision` is empty."""
        ...

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Image tensors of the images of one solution."""
        ...

    def save(self, folder: Path) -> None:
        """Write what transformers needs to make the same tensors: tokenizer and image processor."""
        ...


def encode(processor: Processor, images: Sequence[Image.Image], question: str, steps: list[str]) -> Example:
    """One solution as tensors."""
    example = processor.layout([image.size for image in images], question, steps)
    return replace(example, vision=processor.vision(images))


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Component of the config group `backbone`; a family adds its image options and load().

    path: folder of the weights; system: system message, none when empty; max_length: tokens, a longer solution is left
    out and counted; dtype: of the weights, stored: as in the folder. vision, projector, language_model: frozen,
    trained, or (not the projector) lora: adapters of rank lora_rank, scaled by lora_alpha / lora_rank. mark_init: the
    embedding of a new mark, mean: of all tokens, normal: drawn with their mean and deviation. no, yes: the verdicts.
    """

    model_types: ClassVar[tuple[str, ...]] = ()  # of the folder's config.json
    prompt_fields: ClassVar[tuple[str, ...]] = ("system", "no", "yes")  # what a trained model depends on

    path: str | None = None
    system: str = ""
    max_length: int = 8192
    dtype: str = "float32"
    vision: str = FROZEN
    projector: str = TRAINED
    language_model: str = TRAINED
    lora_rank: int = 16
    lora_alpha: int = 32
    gradient_checkpointing: bool = False
    mark_init: str = "mean"
    no: str = "No"
    yes: str = "Yes"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"backbone.dtype={self.dtype} is unknown; choose {', '.join(DTYPES)}")
        for part, choices in (
            ("vision", (FROZEN, TRAINED, LORA)),
            ("projector", (FROZEN, TRAINED)),
            ("language_model", (FROZEN, TRAINED, LORA)),
        ):
            if getattr(self, part) not in choices:
                raise ValueError(f"backbone.{part}={getattr(self, part)} is unknown; choose {' or '.join(choices)}")
        if self.mark_init not in ("mean", "normal"):
            raise ValueError(f"backbone.mark_init={self.mark_init} is unknown; choose mean or normal")
        for name in ("lora_rank", "lora_alpha", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"backbone.{name}={getattr(self, name)} is not positive")

    def load(self) -> tuple[Processor, StepModel]:
        """Processor and model. Raises ValueError if the folder is missing or holds another architecture."""
        raise AssertionError("a family loads its folder")

    def folder(self) -> Path:
        """The folder. Raises ValueError if it is not there, holds another architecture or wants another prompt."""
        folder = check_folder(self.path, self.model_types)
        check_prompt(folder, self.prompt())
        return folder

    def prompt(self) -> dict[str, Any]:
        """The options that a model is trained with and must be used with."""
        return {name: getattr(self, name) for name in self.prompt_fields}

    def torch_dtype(self) -> torch.dtype | None:
        """None: as stored."""
        return DTYPES[self.dtype]


class MarksOnly(nn.Module):
    """Mixed into the family's decoder layer and made the last one: behind its attention nothing but the marks matters.

    Its MLP is most of a layer's work and sees a hundredth of the tokens.
    """

    self_attn: nn.Module
    mlp: nn.Module
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module

    def forward(self, hidden_states: torch.Tensor, marks: torch.Tensor | None = None, **attention: Any) -> torch.Tensor:
        """Hidden states of the marks, (1, M, D), of all (B, L, D) without marks."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **attention)
        h = hidden_states + attended if marks is None else hidden_states[:, marks] + attended[:, marks]
        return h + self.mlp(self.post_attention_layernorm(h))


class StepModel(nn.Module):
    """A vision-language model, the embedding of the mark, the step head, and where an objective wants it a kappa head,
    or the folder came with one. Families embed their images.

    The mark's embedding is a vector of its own beside the model's table, which therefore keeps its size until export,
    whatever shards it. The frozen vision tower always runs in eval mode and under no_grad, so that neither drop-path
    nor autograd touches it.
    """

    last_layer: type[MarksOnly]  # the family's

    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Backbone) -> None:
        super().__init__()
        self.hf = hf
        self.mark_id, row_D = add_mark(tokenizer, hf, options.mark_init)
        self.mark_D = nn.Parameter(row_D)
        self.head = StepHead(
            hf.get_output_embeddings(), single_token(tokenizer, options.no), single_token(tokenizer, options.yes)
        )
        self.kappa = stored_kappa(options.path)
        self.freeze_vision = options.vision == FROZEN
        self.trains_language = options.language_model == TRAINED
        self.speaks = False
        set_trained(hf.parameters(), options.language_model)
        # The step head replaces the LM head, which is kept for export and generation only.
        for parameter in hf.get_output_embeddings().parameters():
            tied = parameter is hf.get_input_embeddings().weight
            parameter.requires_grad_(tied and self.trains_language)
        set_trained(self.vision_parameters(), options.vision)
        set_trained(self.projector().parameters(), options.projector)
        parts = {"vision": self.vision_tower(), "language_model": hf.model.language_model}
        adapted = {m for name, part in parts.items() if getattr(options, name) == LORA for m in part.modules()}
        layers: set[nn.Module] = {m for m in adapted - set(self.projector().modules()) if isinstance(m, nn.Linear)}
        if layers:
            add_adapters(self, layers, options.lora_rank, options.lora_alpha)
        hf.model.language_model.set_attn_implementation(attention.NAME)
        hf.model.language_model.layers[-1].__class__ = self.last_layer
        if options.gradient_checkpointing:
            hf.gradient_checkpointing_enable({"use_reentrant": False})

    def vision_tower(self) -> nn.Module:
        raise AssertionError("a family names its vision tower")

    def projector(self) -> nn.Module:
        raise AssertionError("a family names its projector")

    def vision_parameters(self) -> list[nn.Parameter]:
        """Parameters of the tower without the projector, which may lie inside it."""
        projector = set(self.projector().parameters())
        return [parameter for parameter in self.vision_tower().parameters() if parameter not in projector]

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings of all image tokens of the batch in order, (image tokens, D)."""
        raise AssertionError("a family embeds its images")

    def train(self, mode: bool = True) -> StepModel:
        super().train(mode)
        if self.freeze_vision:
            self.vision_tower().eval()
        return self

    def forward(self, batch: Batch) -> StepOutput:
        h_MD = self.marked(batch)
        return StepOutput(self.head(h_MD), None if self.kappa is None else self.kappa(h_MD))

    def marked(self, batch: Batch) -> torch.Tensor:
        """Last hidden states at the marks, (M, D)."""
        h_1MD = self.hidden(
            batch.input_ids_T[None],
            batch.position_ids.unsqueeze(-2),
            batch.vision,
            segments=batch.segments,
            marks=batch.mark_M,
        )
        return h_1MD[0]

    def hidden(
        self, ids_BL: torch.Tensor, position_ids: torch.Tensor, vision: dict[str, torch.Tensor], **attention: Any
    ) -> torch.Tensor:
        """Last hidden states of the language model, (B, L, D); `attention`: what its layers want besides."""
        embeds_BLD = self.embed(ids_BL, vision)
        return self.hf.model.language_model(
            inputs_embeds=embeds_BLD, position_ids=position_ids, use_cache=False, **attention
        ).last_hidden_state

    def embed(self, ids_BL: torch.Tensor, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings of tokens, marks and images, (B, L, D)."""
        is_mark_BL = ids_BL == self.mark_id
        table_VD = self.hf.get_input_embeddings()
        embeds_BLD = table_VD(ids_BL.masked_fill(is_mark_BL, 0))
        embeds_BLD = torch.where(is_mark_BL[..., None], self.mark_D.to(embeds_BLD.dtype), embeds_BLD)
        image_ND = self.image_embeddings(vision).to(embeds_BLD.dtype)
        is_image_BL1 = (ids_BL == self.hf.config.image_token_id)[..., None]
        return embeds_BLD.masked_scatter(is_image_BL1, image_ND)

    def set_kappa(self, wanted: bool) -> None:
        """Drop the kappa head, or keep the one that is there; a new one is drawn from torch's generator."""
        if not wanted:
            self.kappa = None
        elif self.kappa is None:
            self.kappa = KappaHead(len(self.mark_D))

    def speak(self) -> None:
        """Train what writes text, the LM head included, instead of what scores steps: a judge writes."""
        self.speaks = True
        set_trained([self.mark_D, *self.head.parameters()], FROZEN)
        self.set_kappa(False)
        if self.trains_language:
            set_trained(self.hf.get_output_embeddings().parameters(), TRAINED)

    def step_logits(self, batch: Batch) -> torch.Tensor:
        """Logits of (no, yes) at every mark of the batch, (M, 2), float32."""
        return self(batch).logits_M2


def add_mark(tokenizer: PreTrainedTokenizerBase, hf: PreTrainedModel, init: str) -> tuple[int, torch.Tensor]:
    """Id of the mark and its embedding (D,): its row where the folder came with one, else a new one (Backbone)."""
    table_VD = hf.get_input_embeddings().weight.detach()
    known = tokenizer.convert_tokens_to_ids(MARK)
    if known is not None and known != tokenizer.unk_token_id and known < len(table_VD):
        return known, table_VD[known].to(torch.float32, copy=True)
    tokenizer.add_tokens([MARK], special_tokens=True)
    mark_id = tokenizer.convert_tokens_to_ids(MARK)
    rows_VD = table_VD[:mark_id].float()
    row_D = rows_VD.mean(0)
    if init == "normal":
        row_D = torch.normal(row_D, rows_VD.std(0))
    return mark_id, row_D


def single_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """Id of a word that must be one token.

    Raises ValueError if the tokenizer splits it: the step head has one row per verdict.
    """
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(
            f"verdict {word!r} is {len(ids)} tokens for this tokenizer; give backbone.yes and backbone.no a word of one"
        )
    return ids[0]


def encode_pieces(tokenizer: PreTrainedTokenizerBase, pieces: list[str], mark_id: int) -> tuple[list[int], list[int]]:
    """Token ids of the pieces, each followed by the mark, and the positions of the marks."""
    ids: list[int] = []
    marks: list[int] = []
    for piece in encode_text(tokenizer, pieces):
        ids += [*piece, mark_id]
        marks.append(len(ids) - 1)
    return ids, marks


def encode_text(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text. Literal special tokens in it are encoded as ordinary text."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def asked(question: str, instruction: str) -> str:
    """The text of a user turn behind its images."""
    return "\n".join(["", neutralise(question), *([instruction] if instruction else [])])
