"""PRMs that read text alone: Qwen2.5-Math-PRM and those of Math-Shepherd's kind, each with a token behind every step.

Shape suffixes: M marks, D hidden size, 2 logits (wrong, right).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Model,
    Qwen2PreTrainedModel,
)

from mprm.backbones.base import StepHead
from mprm.backbones.chat import ChatModel, encode_text
from mprm.backbones.language_model import LanguageModel, LanguageStepModel
from mprm.backbones.loading import DTYPES, load_hf
from mprm.backbones.sentencepiece import SPACE, load_tokenizer
from mprm.batching.collate import Example
from mprm.prms.prm import StepwisePRM, set_verdicts

SEPARATOR = "<extra_0>"
TAG = "ки"
WRONG, RIGHT = f"{SPACE}-", f"{SPACE}+"  # as Mistral's vocabulary has them, with the space before
NUMBERED = re.compile(r"Step \d+:")
BLANKS = re.compile(rf"[\s{SPACE}]+\Z")


@dataclass(frozen=True, kw_only=True)
class TextPRM(StepwisePRM):
    max_length: int = 4096  # tokens; a longer solution is left out and counted
    ignore_images: bool = False  # true: solutions with images are scored without them, from question and steps alone

    def open(
        self, model_class: Any, tokenizer_of: Callable[[Path], PreTrainedTokenizerBase]
    ) -> tuple[PreTrainedTokenizerBase, LanguageStepModel]:
        """The folder's tokenizer and model."""
        options = LanguageModel(**self.loaded_as)
        folder = options.folder()
        tokenizer = tokenizer_of(folder)
        return tokenizer, LanguageStepModel(load_hf(model_class, folder, DTYPES[self.dtype]), tokenizer, options)


@dataclass(frozen=True)
class TextProcessor:
    """Solutions to tensors, without images."""

    tokenizer: PreTrainedTokenizerBase
    ignore_images: bool

    def encode(self, question: str, steps: list[str]) -> tuple[list[int], list[int]]:
        """Token ids, and the places at which the model says how right each step is."""
        raise NotImplementedError

    def layout(self, sizes: Sequence[tuple[int, int]], question: str, steps: list[str]) -> Example:
        ids, marks = self.encode(question, steps)
        return Example(torch.tensor(ids), torch.tensor(marks), torch.arange(len(ids)), vision={})

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        if not self.ignore_images:
            raise ValueError("the model sees no images; model.ignore_images=true scores question and steps alone")
        return {}


@dataclass(frozen=True, kw_only=True)
class QwenMathPRM(TextPRM):
    """Qwen2.5-Math-PRM-7B and -72B (arXiv 2501.07301), and Qwen2.5-Math-7B-PRM800K."""

    system: str = ""  # system message, none when empty

    def load(self) -> tuple[TextProcessor, ChatModel]:
        tokenizer, model = self.open(Qwen2ForProcessRewardModel, AutoTokenizer.from_pretrained)
        if SEPARATOR not in tokenizer.get_vocab():
            raise ValueError(f"backbone.path={self.path}: its tokenizer has no {SEPARATOR}; choose another backbone=")
        hidden, _, classes = cast(Any, model.hf).score
        model.head = TwoClasses(hidden, classes)
        return QwenMathProcessor(tokenizer, self.ignore_images, self.system), model


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """A decoder and two classes, under the names of the published weights."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        hidden = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.hidden_size, 2))
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.model.embed_tokens  # there is no LM head; whatever stands here, `score` takes the head's place


class TwoClasses(StepHead):
    """Logits of (wrong, right) from two layers, in float32."""

    def __init__(self, hidden: nn.Linear, classes: nn.Linear) -> None:
        super().__init__(classes.weight.detach())
        self.hidden, self.bias = hidden.float(), nn.Parameter(classes.bias.detach().float())

    def forward(self, h_MD: torch.Tensor) -> torch.Tensor:
        with torch.autocast(h_MD.device.type, enabled=False):
            h_MD = nn.functional.relu(self.hidden(h_MD.float()))
            return nn.functional.linear(h_MD, self.weight.float(), self.bias.float())


@dataclass(frozen=True)
class QwenMathProcessor(TextProcessor):
    system: str

    def encode(self, question: str, steps: list[str]) -> tuple[list[int], list[int]]:
        """Behind every step stands the separator, where the two classes are read. To the tokenizer it may be no special
        token, so that the user's text must not hold it."""
        question, *steps = (text.replace(SEPARATOR, f"[{SEPARATOR[1:-1]}]") for text in (question, *steps))
        begin_id, end_id, separator_id = self.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", SEPARATOR])
        turns = [f"system\n{self.system}"] if self.system else []
        turns += [f"user\n{question}", f"assistant\n{steps[0]}"]
        newline_ids, *turns_ids = encode_text(self.tokenizer, ["\n", *turns, *steps[1:]])
        ids: list[int] = []
        for turn_ids in turns_ids[: len(turns) - 1]:
            ids += [begin_id, *turn_ids, end_id, *newline_ids]
        ids.append(begin_id)
        marks = []
        for step_ids in turns_ids[len(turns) - 1 :]:
            ids += [*step_ids, separator_id]
            marks.append(len(ids) - 1)
        return ids, marks


@dataclass(frozen=True, kw_only=True)
class MathShepherd(TextPRM):
    """math-shepherd-mistral-7b-prm (arXiv 2312.08935)."""

    def load(self) -> tuple[TextProcessor, ChatModel]:
        tokenizer, model = self.open(AutoModelForCausalLM, load_tokenizer)
        set_verdicts(model, tokenizer, WRONG, RIGHT)
        return ShepherdProcessor(tokenizer, self.ignore_images), model


class ShepherdProcessor(TextProcessor):
    def encode(self, question: str, steps: list[str]) -> tuple[list[int], list[int]]:
        """Steps are numbered, and behind a space each ends in the tag, where "+" and "-" are compared. The whole is
        encoded as one text: of a sentence alone the tokenizer would make other tokens."""
        numbered = [step if NUMBERED.match(step) else f"Step {n}: {step}" for n, step in enumerate(steps, start=1)]
        numbered = [BLANKS.sub("", step) for step in numbered]  # several spaces would be another token
        text = f"{question} " + "\n".join(f"{step} {TAG}" for step in numbered)
        ends = accumulate((len(step) + len(f" {TAG}\n") for step in numbered), initial=len(question))
        encoded = self.tokenizer(text, split_special_tokens=True)
        marks = [encoded.char_to_token(end - 1) for end in list(ends)[1:]]  # the last character of a tag
        assert {encoded["input_ids"][mark] for mark in marks} == {self.tokenizer.convert_tokens_to_ids(f"{SPACE}{TAG}")}
        return encoded["input_ids"], marks
