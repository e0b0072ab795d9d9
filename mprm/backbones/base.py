"""What a backbone is: a component that loads a processor (text and images to tensors) and a step model.

Shape suffixes: B rows, L tokens, M marks, D hidden size, 2 logits (no, yes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mprm.data.collate import Batch, Example
from mprm.data.prompt import MARK


class Processor(Protocol):
    """Turns one solution into tensors; runs in loader workers, holds no parameters."""

    pad_id: int

    def encode(self, images: Sequence[Image.Image], question: str, steps: list[str]) -> Example: ...


class Backbone(Protocol):
    """A component of the config group `backbone`."""

    max_length: int

    def load(self) -> tuple[Processor, StepModel]: ...


class StepHead(nn.Module):
    """Two-row head on the hidden states at the marks: logits of "No" and "Yes" and of nothing else."""

    def __init__(self, lm_head: nn.Module, no_id: int, yes_id: int) -> None:
        super().__init__()
        rows_2D = lm_head.get_parameter("weight").detach()[[no_id, yes_id]]
        self.weight = nn.Parameter(rows_2D.clone())

    def forward(self, h_MD: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(h_MD, self.weight).float()


class StepModel(nn.Module):
    """A vision-language model and its step head. Subclasses say how images become embeddings.

    The frozen vision tower always runs in eval mode and under no_grad, so that neither drop-path nor autograd
    touches it; the projector behind it is trained.
    """

    def __init__(self, hf: PreTrainedModel, head: StepHead, freeze_vision: bool) -> None:
        super().__init__()
        self.hf = hf
        self.head = head
        self.freeze_vision = freeze_vision
        if freeze_vision:
            for parameter in self.vision_parameters():
                parameter.requires_grad_(False)
        # The step head replaces the LM head, which is kept for export and generation only.
        for parameter in hf.lm_head.parameters():
            parameter.requires_grad_(parameter is hf.get_input_embeddings().weight)

    def vision_tower(self) -> nn.Module:
        raise AssertionError("a subclass names its vision tower")

    def vision_parameters(self) -> list[nn.Parameter]:
        return list(self.vision_tower().parameters())

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        """Embeddings of all image tokens of the batch in order, (image tokens, D)."""
        raise AssertionError("a subclass embeds its images")

    def train(self, mode: bool = True) -> StepModel:
        super().train(mode)
        if self.freeze_vision:
            self.vision_tower().eval()
        return self

    def step_logits(self, batch: Batch) -> torch.Tensor:
        """Logits of (no, yes) at every mark of the batch, (M, 2), float32.

        Rows are padded on the right and attention is causal, so no mark sees padding and no mask is needed.
        """
        h_BLD = self.hidden(batch.input_ids_BL, batch.position_ids, batch.vision)
        return self.head(h_BLD[batch.mark_row_M, batch.mark_column_M])

    def hidden(self, ids_BL: torch.Tensor, position_ids: torch.Tensor, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        """Last hidden states of the language model, (B, L, D)."""
        embeds_BLD = self.hf.get_input_embeddings()(ids_BL)
        image_ND = self.image_embeddings(vision).to(embeds_BLD.dtype)
        is_image_BL1 = (ids_BL == self.hf.config.image_token_id)[..., None]
        embeds_BLD = embeds_BLD.masked_scatter(is_image_BL1, image_ND)
        return self.hf.model.language_model(
            inputs_embeds=embeds_BLD, position_ids=position_ids, use_cache=False
        ).last_hidden_state

    forward = step_logits


def add_mark(tokenizer: PreTrainedTokenizerBase, hf: PreTrainedModel) -> int:
    """Id of the mark. A new mark gets a new row, the mean of all rows, in both embedding tables."""
    known = tokenizer.convert_tokens_to_ids(MARK)
    if known is not None and known != tokenizer.unk_token_id:
        return known
    tokenizer.add_tokens([MARK], special_tokens=True)
    mark_id = tokenizer.convert_tokens_to_ids(MARK)
    if mark_id >= hf.get_input_embeddings().weight.shape[0]:
        hf.resize_token_embeddings(mark_id + 1, mean_resizing=False)
    for table in {hf.get_input_embeddings().weight, hf.get_output_embeddings().weight}:
        with torch.no_grad():
            table[mark_id] = table[:mark_id].mean(dim=0)
    return mark_id


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
    """Token ids of the pieces, each followed by the mark, and the positions of the marks.

    Literal special tokens in the text are encoded as ordinary text.
    """
    ids: list[int] = []
    marks: list[int] = []
    for piece in tokenizer(pieces, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
        ids += [*piece, mark_id]
        marks.append(len(ids) - 1)
    return ids, marks
