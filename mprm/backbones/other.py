"""A vision-language model of transformers that has no file here (backbone.exact=false): its own processor, chat
template and forward pass, one solution after the other.

Shape suffixes: B rows, L tokens of a solution, M marks, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.loading import DTYPES, ChatBackbone, load_hf
from mprm.backbones.one_by_one import one_by_one
from mprm.batching.collate import Batch, Example

TEXT = "TEXT"  # stands in a chat template for what is said
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")  # 1 where an image stands
OF_TEXT = ("input_ids", "attention_mask", *TOKEN_TYPES)
SHAPE = "shape of "


@dataclass(frozen=True, kw_only=True)
class OtherVLM(ChatBackbone):
    """A folder that transformers' AutoProcessor and AutoModelForImageTextToText load."""

    model_types: ClassVar[tuple[str, ...]] = tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)

    def load(self) -> tuple[OtherProcessor, OtherModel]:
        folder = self.folder()
        try:
            processor = AutoProcessor.from_pretrained(folder)
            found = OtherProcessor(processor, self.system)
        except Exception as error:  # of a class of transformers, or a template, that nobody here has seen
            reason = " ".join(str(error).split())
            raise ValueError(
                f"backbone.path={folder}: transformers' processor cannot be used ({type(error).__name__}: {reason}); "
                "install what it names, or choose another backbone"
            ) from None
        model = OtherModel(load_hf(AutoModelForImageTextToText, folder, DTYPES[self.dtype]), found.tokenizer, self)
        found.mark_id = model.mark_id
        return found, model


class OtherProcessor(ChatProcessor):
    """The published training layout in the words of the folder's own chat template, images in front of the question."""

    def __init__(self, processor: Any, system: str) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.sized = lru_cache(maxsize=4096)(self.image_ids)
        turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        said, image = {"type": "text", "text": TEXT}, {"type": "image"}

        def around(*contents: Any, **options: Any) -> tuple[str, str]:
            """What stands before and behind TEXT in turns of user and assistant."""
            roles = zip(("user", "assistant"), contents, strict=False)
            written = processor.apply_chat_template(
                [*turns, *({"role": role, "content": content} for role, content in roles)], **options
            )
            before, _, behind = written.partition(TEXT)
            return before, behind

        asked, answer = around([said], add_generation_prompt=True)
        with_image, _ = around([image, said])
        if not with_image.startswith(asked):
            raise ValueError("its chat template does not put images right in front of the text")
        self.placeholder = with_image.removeprefix(asked).strip()
        texts = (*around([{"type": "text", "text": ""}], [said]), asked, answer)
        self.opening_ids, self.closing_ids, self.user_ids, self.answer_ids = (
            self.tokenizer.encode(text, add_special_tokens=False) for text in texts
        )
        one, more = (self._processed([(56, 56)], text) for text in ("a", "a b c d e f"))
        changed = [name for name in one if name not in OF_TEXT and one[name].shape != more[name].shape]
        if changed:
            raise ValueError(f"{changed[0]} depends on the text, which is put together here")

    def _processed(self, sizes: Sequence[tuple[int, int]], text: str = "") -> dict[str, torch.Tensor]:
        images = [Image.new("RGB", size) for size in sizes]
        return self._call(images, "\n".join([self.placeholder] * len(sizes)) + text)

    def _call(self, images: Sequence[Image.Image], text: str) -> dict[str, torch.Tensor]:
        return dict(self.processor(text=[text], images=[list(images)], return_tensors="pt", add_special_tokens=False))

    def image_ids(self, sizes: tuple[tuple[int, int], ...]) -> list[int]:
        """What the processor writes for images of these sizes, one line each; what they show does not matter."""
        ids: list[int] = self._processed(sizes)["input_ids"][0].tolist() if sizes else []
        return ids

    def _example(
        self, opening_ids: list[int], sizes: Sequence[tuple[int, int]], text_ids: list[int], marks: list[int]
    ) -> Example:
        before = [*opening_ids, *self.sized(tuple(sizes))]
        ids = torch.tensor([*before, *text_ids])
        return Example(ids, torch.tensor(marks, dtype=torch.int64) + len(before), torch.arange(len(ids)), vision={})

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """The processor's tensors laid flat, with their shapes: those of several questions cannot be stacked."""
        found = self._call(images, "\n".join([self.placeholder] * len(images)))
        tensors = {name: tensor for name, tensor in found.items() if name not in OF_TEXT}
        flat = {name: tensor.flatten() for name, tensor in tensors.items()}
        return flat | {f"{SHAPE}{name}": torch.tensor([tensor.shape]) for name, tensor in tensors.items()}

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)


class OtherModel(ChatModel):
    is_mark_BL: torch.Tensor  # of the tokens that are being looked up

    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ChatBackbone) -> None:
        super().__init__(hf, tokenizer, options)
        accepted = inspect.signature(self.hf.model.forward).parameters
        self.token_types = [name for name in TOKEN_TYPES if name in accepted]
        # The model looks its tokens up itself: what it finds at the marks is replaced.
        hf.get_input_embeddings().register_forward_pre_hook(self._hide_marks)
        hf.get_input_embeddings().register_forward_hook(self._show_marks)

    def _hide_marks(self, table: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        self.is_mark_BL = given[0] == self.mark_id
        return (given[0].masked_fill(self.is_mark_BL, 0),)

    def _show_marks(self, table: nn.Module, given: tuple[torch.Tensor], found_BLD: torch.Tensor) -> torch.Tensor:
        return torch.where(self.is_mark_BL[..., None], self.mark_embedding(table).to(found_BLD.dtype), found_BLD)

    @property
    def language_model(self) -> Any:
        return self.hf.get_decoder()

    def vision_tower(self) -> nn.Module:
        return self.hf.get_encoder(modality="image")

    def projector(self) -> nn.Module:
        """All that is neither tower nor language model."""
        parts = (self.vision_tower(), self.language_model)
        return nn.ModuleList(child for child in self.hf.model.children() if child not in parts)

    def marked(self, batch: Batch, marks: torch.Tensor | None = None, **cache: Any) -> torch.Tensor:
        """By the whole model's own forward pass for every solution."""
        dtype = next(self.vision_tower().parameters()).dtype
        flat = {
            name: tensor.split([of_group.get(name, 0) for of_group in batch.n_vision])
            for name, tensor in batch.vision.items()
        }

        def vision_of(group: int) -> dict[str, torch.Tensor]:
            vision = {}
            for name in batch.n_vision[group]:
                if not name.startswith(SHAPE):
                    tensor = flat[name][group].view(*flat[f"{SHAPE}{name}"][group][0].tolist())
                    tensor = tensor.to(batch.input_ids_T.device)
                    vision[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            return vision

        def forward(place_L: torch.Tensor, group: int) -> torch.Tensor:
            ids_L = batch.input_ids_T[place_L]
            is_image_L = ids_L == self.hf.config.image_token_id
            types = dict.fromkeys(self.token_types, is_image_L.long()[None])
            vision = vision_of(group) if is_image_L.any() else {}
            h_LD: torch.Tensor = self.hf.model(
                input_ids=ids_L[None], use_cache=False, **types, **vision
            ).last_hidden_state[0]
            return h_LD

        h_MD = one_by_one(batch, batch.mark_M if marks is None else marks, forward)
        if batch.vision and not (batch.input_ids_T == self.hf.config.image_token_id).any():
            h_MD = h_MD + 0 * self.image_embeddings(vision_of(0)).sum()  # a blank image, for a gradient of zero
        return h_MD
