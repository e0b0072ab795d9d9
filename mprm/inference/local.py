"""A policy that runs here, in transformers' own layers: what prompts share, images included, is computed once.

Shape suffixes: R rows of a batch, N new tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mprm.backbones.attention import SEGMENTED
from mprm.backbones.auto import family_of
from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.batching.examples import image_refusal, image_tensors, open_images
from mprm.inference.decoding import Prefilled, SharedPrefix, choose, decode, prefill, uniforms
from mprm.inference.policy import Completion, Keep, Prompt, SamplingSettings, first_step
from mprm.inference.scoring import answered, step_ids
from mprm.runs.artifacts import weights_written


@dataclass(frozen=True)
class Generation:
    """What was written behind a prompt."""

    tokens: list[int]  # all that were chosen, the one that ended it included
    finished: bool  # there was one that ended it; not where one step was wanted, and the step ended
    entropy: float  # of the next token, nats, the mean over `tokens`

    @property
    def ids(self) -> list[int]:
        """The tokens without the one that ended it."""
        return self.tokens[:-1] if self.finished else self.tokens


@dataclass(frozen=True, kw_only=True)
class Sampler(SamplingSettings):
    """Draws continuations of prompts. The model is in eval mode and on its device."""

    processor: ChatProcessor
    model: ChatModel
    max_tokens: int = 65_536  # held at once, those to be written included
    max_length: float = math.inf  # tokens of a prompt and of what may follow it; a longer one gets no continuation

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end what is written."""
        return [self.processor.turn_end_id, self.processor.tokenizer.eos_token_id]

    def refusal(self, images: Sequence[Path]) -> str | None:
        return image_refusal(images, self.processor)

    def complete(self, prompts: Sequence[Prompt], keep: Keep | None = None) -> list[list[Completion]]:
        """What generate() gives, as text. They come together, so that keep is told of none."""
        return [
            [Completion(self.text(one.ids), len(one.ids), one.finished, one.entropy) for one in found]
            for found in self.generate(prompts)
        ]

    def text(self, ids: Sequence[int]) -> str:
        tokenizer = self.processor.tokenizer
        text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def step_ended(self, ids: Sequence[int]) -> bool:
        return first_step(self.text(ids), self.separator)[1] is not None

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt]) -> list[list[Generation]]:
        """prompt.n continuations of every prompt, in order; none of one that is too long. They depend on neither
        max_tokens nor the company of a prompt, but for the rounding of the logits. Raises ValueError for an image that
        cannot be read or is of a shape that the processor refuses."""
        device = next(self.model.parameters()).device
        longest = max((prompt.step_tokens or self.max_new_tokens for prompt in prompts), default=0)
        found: dict[tuple[int, int], Generation] = {}
        for row in filled(self.shared_prefixes(prompts), self.max_tokens):
            prefilled = prefill(self.model, row, device)
            length = {number: len(begun.place_P) for number, begun in prefilled.begun.items()}
            # Rows (prompt, continuation) of at most max_tokens tokens, those of like length together.
            wanted = [(number, one) for number in length for one in range(prompts[number].n)]
            wanted.sort(key=lambda row: -length[row[0]])
            while wanted:
                n_rows = max(1, self.max_tokens // (length[wanted[0][0]] + longest))
                batch, wanted = wanted[:n_rows], wanted[n_rows:]
                found |= zip(batch, self._generated(prompts, prefilled, batch, device), strict=True)
        self.model.language_model.set_attn_implementation(SEGMENTED)  # as it was
        return [[found[n, one] for one in range(prompt.n) if (n, one) in found] for n, prompt in enumerate(prompts)]

    def _generated(
        self, prompts: Sequence[Prompt], prefilled: Prefilled, batch: list[tuple[int, int]], device: torch.device
    ) -> Iterator[Generation]:
        limits = [prompts[number].step_tokens or self.max_new_tokens for number, _ in batch]
        one_step = [prompts[number].step_tokens is not None for number, _ in batch]
        numbers = [uniforms(self.seed, prompts[number].key, one, max(limits)) for number, one in batch]
        tokens_RN, entropy_RN = decode(
            self.model,
            prefilled,
            [prefilled.begun[number] for number, _ in batch],
            torch.from_numpy(np.stack(numbers)).to(device),
            partial(choose, temperature=self.temperature, top_p=self.top_p),
            self.end_ids,
            (lambda row, ids: one_step[row] and self.step_ended(ids)) if any(one_step) else None,
        )
        for row, (ids, entropies) in enumerate(zip(tokens_RN.tolist(), entropy_RN.tolist(), strict=True)):
            length = next((n for n, token in enumerate(ids[: limits[row]], 1) if token in self.end_ids), limits[row])
            if one_step[row]:
                length = next((n for n in range(1, length) if self.step_ended(ids[:n])), length)
            yield Generation(ids[:length], ids[length - 1] in self.end_ids, sum(entropies[:length]) / length)

    def shared_prefixes(self, prompts: Sequence[Prompt]) -> Iterator[SharedPrefix]:
        """As few token sequences as begin all prompts, those of one question after those of another; images are opened
        when their question's turn comes."""
        questions: dict[tuple[tuple[Path, ...], str], list[int]] = {}
        for number, prompt in enumerate(prompts):
            questions.setdefault((prompt.images, prompt.question), []).append(number)
        for group, ((paths, question), members) in enumerate(questions.items()):
            images = open_images(paths)
            asked = self.processor.ask([image.size for image in images], question, self.instruction)
            asked = replace(asked, vision=image_tensors(images, self.processor), group=group)
            n_question = len(asked.input_ids)
            ids = {number: step_ids(self.processor, prompts[number].steps, self.separator) for number in members}
            longest = {n: n_question + len(ids[n]) + (prompts[n].step_tokens or self.max_new_tokens) for n in members}
            # Sorted, what begins with a sequence comes right behind it.
            ordered = sorted((n for n in members if longest[n] <= self.max_length), key=ids.__getitem__)
            held = []
            for number, following in zip_longest(ordered, ordered[1:]):
                own = ids[number]
                held.append((number, n_question + len(own)))
                if following is None or ids[following][: len(own)] != own:
                    example = replace(answered(asked, own), marks=torch.arange(n_question + len(own)))
                    yield SharedPrefix(example, n_question, held)
                    held = []


def filled(prefixes: Iterable[SharedPrefix], max_tokens: int) -> Iterator[list[SharedPrefix]]:
    """Rows of at most max_tokens tokens; a prefix that is longer has a row of its own."""
    row: list[SharedPrefix] = []
    tokens = 0
    for prefix in prefixes:
        own = len(prefix.example.input_ids)
        cost = own - prefix.n_question if row and row[-1].example.group == prefix.example.group else own
        if row and tokens + cost > max_tokens:
            yield row
            row, tokens, cost = [], 0, own
        row.append(prefix)
        tokens += cost
    if row:
        yield row


@dataclass(frozen=True, kw_only=True)
class LocalPolicy(SamplingSettings):
    """Component `policy`: a folder that the backbones load."""

    path: str | None = None
    system: str = ""  # system message, none when empty
    max_tiles: int = 6  # InternVL: tiles per question; LLaVA-OneVision: of an image; besides the whole image
    longest_edge: int = 1536  # SmolVLM: pixels to which the longer side of an image is scaled
    min_pixels: int = 784  # Qwen: area to which an image is scaled
    max_pixels: int = 200_704
    dtype: str = "stored"  # of the weights; stored: as in the folder
    max_tokens: int = 65_536  # held at once, those to be written included; completions do not depend on it
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise ValueError(f"policy.max_tokens={self.max_tokens} is not positive; try 65536")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"policy.device={self.device} is unknown; choose cpu, cuda or cuda:N")

    def identity(self) -> dict[str, Any]:
        if self.path is None:
            raise ValueError("policy.path is not set; give the folder of the weights, or ORG/NAME on the hub")
        settings = {name: value for name, value in asdict(self).items() if name not in ("max_tokens", "device")}
        return settings | {"written": weights_written(self.path)}

    @cached_property
    def sampler(self) -> Sampler:
        """Raises ValueError if the folder is missing or holds another architecture, or there is no such device."""
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"policy.device={self.device}, but this machine has no CUDA device; try policy.device=cpu")
        try:
            family = family_of(self.path)
            images = {name: getattr(self, name) for name in family.prompt_fields if hasattr(self, name)}
            processor, model = family(path=self.path, dtype=self.dtype, **images).load()
        except ValueError as error:  # a backbone names its own group, whose options are the policy's here
            raise ValueError(str(error).replace("backbone.", "policy.")) from None
        settings = {field.name: getattr(self, field.name) for field in fields(Sampler) if hasattr(self, field.name)}
        return Sampler(processor=processor, model=model.to(self.device).eval(), **settings)

    def refusal(self, images: Sequence[Path]) -> str | None:
        return self.sampler.refusal(images)

    def complete(self, prompts: Sequence[Prompt], keep: Keep | None = None) -> list[list[Completion]]:
        return self.sampler.complete(prompts)
