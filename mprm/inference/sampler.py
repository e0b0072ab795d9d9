"""A loaded model that goes on writing behind prompts, whose images and prefixes are computed once.

Shape suffixes: R rows of a batch, N new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mprm.backbones import attention
from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.batching.examples import image_fault, open_images
from mprm.inference.decoding import Begun, Prefixes, decode, prefill
from mprm.inference.policy import Completion, Prompt
from mprm.inference.prefixes import filled, sequences
from mprm.inference.sampling import choose, uniforms


@dataclass(frozen=True)
class Written:
    """What was written behind a prompt. tokens: all that were chosen, the one that ended it included; finished: there
    was one; entropy: in nats, of the next token, the mean over `tokens`."""

    tokens: list[int]
    finished: bool
    entropy: float

    @property
    def ids(self) -> list[int]:
        """The tokens without the one that ended it."""
        return self.tokens[:-1] if self.finished else self.tokens


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The settings are those of LocalPolicy; the model is in eval mode and on its device."""

    processor: ChatProcessor
    model: ChatModel
    separator: str = "\n\n"
    instruction: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    max_tokens: int = 65_536
    seed: int = 0

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end what is written."""
        tokenizer = self.processor.tokenizer
        return [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id]

    def complete(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """What write() gives, as text."""
        return [
            [Completion(self.text(one), len(one.ids), one.finished, one.entropy) for one in found]
            for found in self.write(prompts)
        ]

    def text(self, written: Written) -> str:
        """Without special tokens."""
        tokenizer = self.processor.tokenizer
        text: str = tokenizer.decode(written.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    @torch.inference_mode()
    def write(self, prompts: Sequence[Prompt]) -> list[list[Written]]:
        """prompt.n continuations of every prompt, in order.

        They depend on neither max_tokens nor the company of a prompt, but for the rounding of the logits.
        Raises ValueError for an image that can not be read or is of a shape that the processor refuses.
        """
        device = next(self.model.parameters()).device
        found: dict[tuple[int, int], Written] = {}
        for row in filled(sequences(prompts, self.processor, self.separator, self.instruction), self.max_tokens):
            prefixes = prefill(self.model, row, device)
            wanted = [(number, one) for number in prefixes.begun for one in range(prompts[number].n)]
            for batch in self._batches(wanted, prefixes.begun):
                found |= zip(batch, self._written(prompts, prefixes, batch, device), strict=True)
        self.model.hf.model.language_model.set_attn_implementation(attention.NAME)  # as it was
        return [[found[number, one] for one in range(prompt.n)] for number, prompt in enumerate(prompts)]

    def _batches(self, wanted: list[tuple[int, int]], begun: dict[int, Begun]) -> Iterator[list[tuple[int, int]]]:
        """Rows (prompt, continuation) of at most max_tokens tokens, those of like length together."""
        wanted = sorted(wanted, key=lambda row: -len(begun[row[0]].place_P))
        while wanted:
            longest = len(begun[wanted[0][0]].place_P) + self.max_new_tokens
            n_rows = max(1, self.max_tokens // longest)
            yield wanted[:n_rows]
            wanted = wanted[n_rows:]

    def _written(
        self, prompts: Sequence[Prompt], prefixes: Prefixes, batch: list[tuple[int, int]], device: torch.device
    ) -> Iterator[Written]:
        numbers = [uniforms(self.seed, prompts[number].key, one, self.max_new_tokens) for number, one in batch]
        tokens_RN, entropy_RN = decode(
            self.model,
            prefixes,
            [prefixes.begun[number] for number, _ in batch],
            torch.from_numpy(np.stack(numbers)).to(device),
            partial(choose, temperature=self.temperature, top_p=self.top_p),
            self.end_ids,
        )
        for ids, entropies in zip(tokens_RN.tolist(), entropy_RN.tolist(), strict=True):
            length = next((place + 1 for place, token in enumerate(ids) if token in self.end_ids), len(ids))
            yield Written(ids[:length], ids[length - 1] in self.end_ids, sum(entropies[:length]) / length)


def refusal(processor: ChatProcessor, images: Sequence[Path]) -> str | None:
    """Why a model can not look at these images (see Policy.refusal), None when it can."""
    try:
        sizes = [image.size for image in open_images(images)]
    except ValueError as error:
        return image_fault(error)
    try:
        processor.ask(sizes, "")
    except ValueError:
        return "refused_image"
    return None
