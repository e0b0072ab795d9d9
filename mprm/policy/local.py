"""A policy that runs here, in transformers' own layers, with the images and prefixes of its prompts computed once.

Shape suffixes: R rows of a batch, N new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mprm.artifacts import weights_written
from mprm.backbones.base import Processor, StepModel
from mprm.backbones.folder import backbone_class
from mprm.data.examples import image_fault, open_images
from mprm.policy.decoding import Begun, Prefixes, decode, prefill
from mprm.policy.policy import Completion, Prompt, check_sampling
from mprm.policy.prefixes import filled, sequences
from mprm.policy.sampling import choose, uniforms


@dataclass(frozen=True, kw_only=True)
class LocalPolicy:
    """Component `policy`: a folder that the backbones load.

    system: system message, none when empty; max_tiles (InternVL), min_pixels and max_pixels (Qwen2.5-VL): of the
    images; dtype: of the weights, stored: as in the folder; instruction: stands below every question; separator:
    between steps; temperature: 0 always takes the most likely token; max_new_tokens: a solution that does not end
    within them is unfinished; max_tokens: how many tokens are held at once, those to be written included.

    Completions depend on neither max_tokens nor the company of a prompt, but for the rounding of the logits.
    """

    path: str | None = None
    system: str = ""
    max_tiles: int = 6
    min_pixels: int = 784
    max_pixels: int = 200_704
    dtype: str = "stored"
    instruction: str = ""
    separator: str = "\n\n"
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    max_tokens: int = 65_536
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_sampling(self.separator, self.temperature, self.top_p, self.max_new_tokens)
        if self.max_tokens < 1:
            raise ValueError(f"policy.max_tokens={self.max_tokens} is not positive; try 65536")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"policy.device={self.device} is unknown; choose cpu, cuda or cuda:N")

    def identity(self) -> dict[str, Any]:
        if self.path is None:
            raise ValueError("policy.path is not set; give the folder of the downloaded weights")
        settings = {name: value for name, value in asdict(self).items() if name not in ("max_tokens", "device")}
        return settings | {"written": weights_written(self.path)}

    @cached_property
    def loaded(self) -> tuple[Processor, StepModel]:
        """Processor and model. Raises ValueError if the folder is missing or holds another architecture, or there is no
        such device."""
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"policy.device={self.device}, but this machine has no CUDA device; try policy.device=cpu")
        try:
            family = backbone_class(self.path)
            options: dict[str, Any] = {
                name: getattr(self, name)
                for name in ("system", "max_tiles", "min_pixels", "max_pixels")
                if name in family.prompt_fields
            }
            processor, model = family(path=self.path, dtype=self.dtype, **options).load()
        except ValueError as error:  # a backbone names its own group, whose options are the policy's here
            raise ValueError(str(error).replace("backbone", "policy")) from None
        return processor, model.to(self.device).eval()

    def refusal(self, images: Sequence[Path]) -> str | None:
        try:
            sizes = [image.size for image in open_images(images)]
        except ValueError as error:
            return image_fault(error)
        try:
            self.loaded[0].ask(sizes, "")
        except ValueError:
            return "refused_image"
        return None

    @torch.inference_mode()
    def complete(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """prompt.n completions of every prompt, in order.

        Raises ValueError for an image that can not be read or is of a shape that the processor refuses.
        """
        processor, model = self.loaded
        found: dict[tuple[int, int], Completion] = {}
        for row in filled(sequences(prompts, processor, self.separator, self.instruction), self.max_tokens):
            prefixes = prefill(model, row, torch.device(self.device))
            wanted = [(number, one) for number in prefixes.begun for one in range(prompts[number].n)]
            for batch in self._batches(wanted, prefixes.begun):
                found |= zip(batch, self._written(prompts, prefixes, batch), strict=True)
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
        self, prompts: Sequence[Prompt], prefixes: Prefixes, batch: list[tuple[int, int]]
    ) -> Iterator[Completion]:
        processor, model = self.loaded
        tokenizer = processor.tokenizer
        numbers = [uniforms(self.seed, prompts[number].key, one, self.max_new_tokens) for number, one in batch]
        end_ids = [tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id]
        tokens_RN = decode(
            model,
            prefixes,
            [prefixes.begun[number] for number, _ in batch],
            torch.from_numpy(np.stack(numbers)).to(self.device),
            partial(choose, temperature=self.temperature, top_p=self.top_p),
            end_ids,
        )
        for ids in tokens_RN.tolist():
            length = next((place for place, token in enumerate(ids) if token in end_ids), len(ids))
            text = tokenizer.decode(ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            yield Completion(text, length, length < len(ids))
