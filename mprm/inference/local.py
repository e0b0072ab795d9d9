"""A policy that runs here, in transformers' own layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.internvl import InternVL
from mprm.backbones.loading import ChatBackbone, check_folder
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.inference.policy import Completion, Keep, Prompt, check_sampling
from mprm.inference.sampler import Sampler, refusal
from mprm.runs.artifacts import read_json, weights_written

FAMILIES: tuple[type[ChatBackbone], ...] = (InternVL, Qwen2_5_VL)


def backbone_class(path: str | Path | None) -> type[ChatBackbone]:
    """The component that loads this folder. Raises ValueError if it is not there or holds another architecture."""
    by_type = {name: family for family in FAMILIES for name in family.model_types}
    folder = check_folder(None if path is None else str(path), tuple(by_type))
    return by_type[read_json(folder / "config.json")["model_type"]]


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
    def loaded(self) -> tuple[ChatProcessor, ChatModel]:
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
        return refusal(self.loaded[0], images)

    def complete(self, prompts: Sequence[Prompt], keep: Keep | None = None) -> list[list[Completion]]:
        """prompt.n completions of every prompt, in order; they come together, so that keep is told of none.

        Raises ValueError for an image that can not be read or is of a shape that the processor refuses.
        """
        processor, model = self.loaded
        sampler = Sampler(
            processor=processor,
            model=model,
            separator=self.separator,
            instruction=self.instruction,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        return sampler.complete(prompts)
