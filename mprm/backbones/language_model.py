"""Language models that see no images (Qwen2.5, Qwen3, Llama): the decoders of the other families on their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from mprm.backbones.chat import CHATML, ChatModel, ChatProcessor, Turns
from mprm.backbones.loading import DTYPES, ChatBackbone, load_hf

SEES_NONE = "a language model sees no images; choose a vision-language backbone="
# The token that begins a turn -> how turns are written.
TURNS = {
    "<|im_start|>": CHATML,
    "<|start_header_id|>": Turns(  # Llama 3
        start="<|begin_of_text|>",
        system="<|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>",
        user="<|start_header_id|>user<|end_header_id|>\n\n",
        answer="<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
    ),
}


@dataclass(frozen=True, kw_only=True)
class LanguageModel(ChatBackbone):
    """A folder in transformers' format. Its layers are those that loading.check_language_model() knows."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2", "qwen3", "llama", "mistral")
    picture: ClassVar[str] = "[]"

    def load(self) -> tuple["TextProcessor", "LanguageStepModel"]:
        folder = self.folder()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        turns = next((turns for token, turns in TURNS.items() if token in tokenizer.get_added_vocab()), None)
        if turns is None:
            raise ValueError(
                f"backbone.path={folder}: its tokenizer has neither {' nor '.join(TURNS)}, which begin the turns of a "
                "prompt; choose a chat model of ChatML or Llama 3"
            )
        hf = load_hf(AutoModelForCausalLM, folder, DTYPES[self.dtype])
        model = LanguageStepModel(hf, tokenizer, self)
        model.pad_id = tokenizer.pad_token_id
        return TextProcessor(tokenizer, model.mark_id, self.system, ("", "", ""), turns), model


class LanguageStepModel(ChatModel):
    pad_id: int | None = None

    @torch.no_grad()
    def fold(self) -> PreTrainedModel:
        """transformers' model; of a reward model its classifier of sequences, whose one logit is the score."""
        score_1D = self.head.weight.diff(dim=0)  # yes - no
        hf: Any = super().fold()
        if not self.rates_answers:
            return cast(PreTrainedModel, hf)
        hf.config.num_labels, hf.config.pad_token_id = 1, self.pad_id
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(hf.config)
        classifier.model, classifier.score.weight = hf.model, nn.Parameter(score_1D.to(hf.dtype))
        return cast(PreTrainedModel, classifier)

    def vision_tower(self) -> nn.Module:
        return nn.Identity()  # nothing to freeze, train or adapt

    def projector(self) -> nn.Module:
        return nn.Identity()

    @property
    def image_ids(self) -> list[int]:
        return []


class TextProcessor(ChatProcessor):
    """Refuses a solution with images: it is used whole or not at all."""

    def image_grid(self, size: tuple[int, int], n_images: int) -> tuple[int, int]:
        raise ValueError(SEES_NONE)

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        raise ValueError(SEES_NONE)
