"""What the families of transformers' chat models share: they score steps, and write.

Shape suffixes: B rows, L tokens of a row, T tokens of a packed row, M marks, N image tokens, D hidden size,
V vocabulary, 2 verdicts (no, yes).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mprm.backbones.attention import SEGMENTED, make_ready
from mprm.backbones.base import StepHead, StepModel, laid_out, stored_kappa
from mprm.backbones.loading import (
    FROZEN,
    LORA,
    TRAINED,
    ChatBackbone,
    add_adapters,
    add_mark,
    check_language_model,
    checkpoint_layers,
    freeze_unread,
    merge_adapters,
    set_trained,
    single_token,
)
from mprm.backbones.marks_only import marks_only
from mprm.backbones.one_by_one import by_language_model
from mprm.backbones.pixels import Pixels
from mprm.batching.collate import Batch, Example
from mprm.batching.examples import neutralise, render


class ChatModel(StepModel):
    """A chat model, the embedding of the mark, the step head, and where an objective wants it a kappa head, or the
    folder came with one. Families embed their images. The mark's embedding is a vector of its own beside the model's
    table, which therefore keeps its size until export, whatever shards it. The frozen vision tower always runs in eval
    mode and needs no gradient, so that neither drop-path nor autograd touches it."""

    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ChatBackbone) -> None:
        super().__init__()
        self.hf, self.pixels = hf, Pixels()
        self.mark_id, row_D = add_mark(tokenizer, hf, options.mark_init)
        self.mark_D = nn.Parameter(row_D)
        self.verdict_ids = [single_token(tokenizer, word) for word in (options.no, options.yes)]
        self.head = StepHead(hf.get_output_embeddings().get_parameter("weight").detach()[self.verdict_ids])
        self.kappa = stored_kappa(options.path)
        self.freeze_vision = options.vision == FROZEN
        self.trains_language = options.language_model == TRAINED
        self.trains_generation = False
        set_trained(hf.parameters(), options.language_model)
        # The step head replaces the LM head, which is kept for export and generation only.
        for parameter in hf.get_output_embeddings().parameters():
            tied = parameter is hf.get_input_embeddings().weight
            parameter.requires_grad_(tied and self.trains_language)
        set_trained(self.vision_parameters(), options.vision)
        set_trained(self.projector().parameters(), options.projector)
        self.projector().register_forward_pre_hook(_in_own_type)
        parts = {"vision": self.vision_tower(), "language_model": self.language_model}
        adapted = {m for name, part in parts.items() if getattr(options, name) == LORA for m in part.modules()}
        adapted -= {*self.projector().modules(), *freeze_unread(hf.config, self.vision_tower()).modules()}
        layers: set[nn.Module] = {module for module in adapted if isinstance(module, nn.Linear)}
        if layers:
            add_adapters(self, layers, options.lora_rank, options.lora_alpha)
        self.exact = options.exact
        if options.exact:
            check_language_model(self.language_model, options.path, options.max_length)
            self.language_model.set_attn_implementation(SEGMENTED)
            last = self.language_model.layers[-1]
            last.__class__ = marks_only(type(last))
        self.recomputes = options.checkpoint_layers
        if options.checkpoint_layers:
            checkpoint_layers(hf, options.checkpoint_layers)

    @property
    def language_model(self) -> Any:
        """The decoder of transformers' model: its embeddings, `layers` and last norm, without the LM head."""
        return self.hf.get_decoder()

    @property
    def image_ids(self) -> list[int]:
        """Tokens that stand for pieces of images: none can be written."""
        return [self.hf.config.image_token_id]

    def vision_tower(self) -> nn.Module:
        return self.hf.model.vision_tower

    def projector(self) -> nn.Module:
        return self.hf.model.multi_modal_projector

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings of all image tokens of the batch in order, (N, D): what transformers' model makes of `vision`.
        With deepstack (N, (1 + K) D): what is added behind each of the first K layers stands beside them."""
        return torch.cat([*self.hf.model.get_image_features(**vision, return_dict=True).pooler_output])

    def vision_parameters(self) -> list[nn.Parameter]:
        """Parameters of the tower without the projector, which may lie inside it."""
        projector = set(self.projector().parameters())
        return [parameter for parameter in self.vision_tower().parameters() if parameter not in projector]

    def train(self, mode: bool = True) -> ChatModel:
        super().train(mode)
        if self.freeze_vision:
            self.vision_tower().eval()
        return self

    def marked(self, batch: Batch, marks: torch.Tensor | None = None, **cache: Any) -> torch.Tensor:
        """Last hidden states at the batch's marks, or at other places of its row, (M, D); `cache`: as in hidden()."""
        marks = batch.mark_M if marks is None else marks
        if not self.exact:
            embeds_1TD, deepstack = self.embed(batch.input_ids_T[None], batch.vision)
            return by_language_model(self.language_model, embeds_1TD, deepstack, batch, marks)
        row = batch.input_ids_T[None], batch.position_ids.unsqueeze(-2), batch.vision
        return self.hidden(*row, segments=batch.segments, marks=marks, **cache)[0]

    def embed(self, ids_BL: torch.Tensor, vision: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Embeddings of text, marks and images, (B, L, D); with deepstack also where images stand, (B, L), and what the
        language model adds there, as it takes them."""
        is_mark_BL = ids_BL == self.mark_id
        table = self.hf.get_input_embeddings()
        embeds_BLD = table(ids_BL.masked_fill(is_mark_BL, 0))
        embeds_BLD = torch.where(is_mark_BL[..., None], self.mark_embedding(table).to(embeds_BLD.dtype), embeds_BLD)
        if not vision:
            return embeds_BLD, {}
        image_ND, *deeper = self.image_embeddings(self.pixels(vision)).to(embeds_BLD).split(embeds_BLD.shape[-1], -1)
        is_image_BL = ids_BL == self.hf.config.image_token_id
        deepstack = {"visual_pos_masks": is_image_BL, "deepstack_visual_embeds": deeper} if deeper else {}
        return torch.where(is_image_BL[..., None], laid_out(image_ND, is_image_BL), embeds_BLD), deepstack

    def mark_embedding(self, table: nn.Module) -> torch.Tensor:
        """What the table would give for the mark, (D,): Gemma's scales what it looks up."""
        return self.mark_D * getattr(table, "scalar_embed_scale", 1.0)

    def hidden(
        self,
        ids_BL: torch.Tensor,
        position_ids: torch.Tensor,
        vision: dict[str, torch.Tensor],
        use_cache: bool = False,
        **attention: Any,
    ) -> torch.Tensor:
        """Last hidden states of the language model, (B, L, D); `attention`: what its layers want besides."""
        embeds_BLD, deepstack = self.embed(ids_BL, vision)
        make_ready(attention.get("segments"), embeds_BLD)
        return self.language_model(
            inputs_embeds=embeds_BLD, position_ids=position_ids, use_cache=use_cache, **deepstack, **attention
        ).last_hidden_state

    def check_training(self) -> None:
        dropout = getattr(self.hf.config.get_text_config(), "attention_dropout", 0.0)
        if dropout and self.exact:
            raise ValueError(
                f"backbone.path={self.hf.config.name_or_path}: its language model has attention_dropout={dropout}, "
                "which is not computed in training; set it to 0 in its config.json, or give backbone.exact=false"
            )

    def train_generation(self) -> None:
        """Train what writes text, the LM head included, instead of what scores steps: a judge writes."""
        if not self.exact:
            raise ValueError("backbone.exact=false scores steps and writes no text, as a judge must; choose another")
        self.trains_generation = True
        set_trained([self.mark_D, *self.head.parameters()], FROZEN)
        self.set_kappa(False)
        if self.trains_language:
            set_trained(self.hf.get_output_embeddings().parameters(), TRAINED)

    @torch.no_grad()
    def fold(self) -> PreTrainedModel:
        """transformers' model with all that was trained written into it: adapters, the mark's row, the verdicts' rows.
        The step model is used up. Tied tables come apart: the head has learnt rows of its own, those of the embedding
        stay what they were. A judge has learnt in the LM head itself, and its tables stay tied."""
        merge_adapters(self)
        hf: Any = self.hf
        table_VD = hf.get_input_embeddings().weight
        if hf.get_output_embeddings().weight is table_VD and not self.trains_generation:
            hf.get_output_embeddings().weight = nn.Parameter(table_VD.clone())
            hf.config.tie_word_embeddings = hf.config.get_text_config().tie_word_embeddings = False
        if self.mark_id >= len(table_VD):
            hf.resize_token_embeddings(self.mark_id + 1, mean_resizing=False)
            head_VD = hf.get_output_embeddings().weight
            head_VD[self.mark_id] = head_VD[: self.mark_id].mean(0)
        hf.get_input_embeddings().weight[self.mark_id] = self.mark_D
        if not self.trains_generation:
            hf.get_output_embeddings().weight[self.verdict_ids] = self.head.weight.to(table_VD.dtype)
        return hf


def _in_own_type(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A frozen tower keeps the type it is stored in, a trained projector has float32."""
    return tuple(x.to(next(module.parameters()).dtype) for x in inputs)


class Turns(NamedTuple):
    """What a family writes around the turns of a conversation; here ChatML."""

    system: str = "<|im_start|>system\n{}<|im_end|>\n"  # around the system message
    user: str = "<|im_start|>user\n"  # opens the user's turn
    answer: str = "<|im_end|>\n<|im_start|>assistant\n"  # closes it and opens the assistant's
    end: str = "<|im_end|>\n"  # closes that; its first token ends what the model writes
    start: str = ""  # begins the conversation


CHATML = Turns()


class ChatProcessor:
    """Solutions to tensors, in the published training layout: system turn, EMPTY user turn, assistant turn.

    image_tokens: what begins an image, stands for a piece of it (families count them), and ends it; "" for nothing.
    """

    images: Any = None  # transformers' image processor

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mark_id: int,
        system: str,
        image_tokens: tuple[str, str, str],
        turns: Turns = CHATML,
    ) -> None:
        self.tokenizer = tokenizer
        self.mark_id = mark_id
        self.image_id = tokenizer.convert_tokens_to_ids(image_tokens[1])
        self.around_ids = [tokenizer.convert_tokens_to_ids([token] if token else []) for token in image_tokens[::2]]
        user_turn = turns.start + (turns.system.format(system) if system else "") + turns.user
        texts = (user_turn + turns.answer, user_turn, turns.answer, turns.end, "\n")
        self.opening_ids, self.user_ids, self.answer_ids, self.closing_ids, self.newline_ids = (
            tokenizer.encode(text, add_special_tokens=False) for text in texts
        )

    def image_grid(self, size: tuple[int, int], n_images: int) -> tuple[int, int]:
        """Rows and columns of the pieces of an image (width, height) that is one of n_images."""
        raise NotImplementedError

    def image_token_ids(self, grid: tuple[int, int]) -> list[int]:
        """All tokens of an image with so many rows and columns of pieces."""
        begin, end = self.around_ids
        return [*begin, *[self.image_id] * (grid[0] * grid[1]), *end]

    @property
    def turn_end_id(self) -> int:
        """The token that ends a turn."""
        return self.closing_ids[0]

    def positions(self, ids: list[int], grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        return torch.arange(len(ids))

    def layout(self, sizes: Sequence[tuple[int, int]], question: str, steps: list[str]) -> Example:
        pieces = render(question, steps)
        pieces[0] = "\n" * bool(sizes) + pieces[0]  # it ends the line of the last image
        ids_of_pieces = encode_text(self.tokenizer, pieces)
        text_ids = [token for ids in ids_of_pieces for token in (*ids, self.mark_id)]
        marks = [end - 1 for end in accumulate(len(ids) + 1 for ids in ids_of_pieces)]
        return self._example(self.opening_ids, sizes, [*text_ids, *self.closing_ids], marks)

    def ask(self, sizes: Sequence[tuple[int, int]], question: str, instruction: str = "") -> Example:
        """What a chat model is asked: system turn, user turn with one line per image (Qwen's own template puts images
        and question on one line), the question and below it the instruction, and the opened turn of the assistant; no
        marks, `vision` is empty."""
        text = "\n".join([*([""] if sizes else []), neutralise(question), *([instruction] if instruction else [])])
        text_ids = encode_text(self.tokenizer, [text])[0]
        return self._example(self.user_ids, sizes, [*text_ids, *self.answer_ids], [])

    def _example(
        self, opening_ids: list[int], sizes: Sequence[tuple[int, int]], text_ids: list[int], marks: list[int]
    ) -> Example:
        """An opening, one line per image, and text behind them, in which `marks` are places."""
        grids = [self.image_grid(size, len(sizes)) for size in sizes]
        ids = list(opening_ids)
        for number, grid in enumerate(grids):
            ids += self.newline_ids if number else []
            ids += self.image_token_ids(grid)
        mark_M = torch.tensor(marks, dtype=torch.int64) + len(ids)
        ids += text_ids
        return Example(torch.tensor(ids), mark_M, self.positions(ids, grids), vision={})

    def vision(self, images: Sequence[Any]) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write what makes the same tensors in transformers: tokenizer and image processor."""
        self.tokenizer.save_pretrained(folder)
        if self.images is not None:
            self.images.save_pretrained(folder)


def encode_text(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text. Literal special tokens in it are encoded as ordinary text."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids
