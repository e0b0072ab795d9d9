"""backbone=auto: the family that a folder's config.json names, with its own defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from mprm.backbones.loading import ChatBackbone, Options, stored_prompt, stored_type

# model_type of config.json -> module and class of the family, one a line.
FAMILIES = {
    "internvl": "internvl.InternVL",
    "internvl_chat": "internvl.InternVL",
    "qwen2_vl": "qwen2_vl.Qwen2VL",
    "qwen2_5_vl": "qwen2_5_vl.Qwen2_5_VL",
    "qwen3_vl": "qwen3_vl.Qwen3VL",
    "qwen3_vl_moe": "qwen3_vl.Qwen3VLMoE",
    "llava_onevision": "llava_onevision.LlavaOneVision",
    "smolvlm": "smolvlm.SmolVLM",
    "idefics3": "smolvlm.SmolVLM",
    "qwen2": "language_model.LanguageModel",
    "qwen3": "language_model.LanguageModel",
    "llama": "language_model.LanguageModel",
    "mistral": "language_model.LanguageModel",
}


def family_of(path: str | Path | None, exact: bool = True) -> type[ChatBackbone]:
    """The component that loads this folder. Raises ValueError if it is not there, or holds none of these families and,
    exact being false, nothing else that transformers knows as a vision-language model."""
    found, known = str(stored_type(path)), ", ".join(FAMILIES)
    if found not in FAMILIES and exact:
        raise ValueError(
            f"backbone.path={path} holds model_type {found!r}, not one of {known}; choose another, or score and train "
            "with the slower backbone=auto and its exact=false"
        )
    if found not in FAMILIES and found not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(
            f"backbone.path={path} holds model_type {found!r}, no vision-language model to this transformers; choose "
            f"another, e.g. one of {known}"
        )
    module, _, name = FAMILIES.get(found, "other.OtherVLM").partition(".")
    family: type[ChatBackbone] = getattr(import_module(f"mprm.backbones.{module}"), name)
    return family


@dataclass(frozen=True, kw_only=True)
class Auto(Options):
    """A folder of any family. An option of a family that is null is the one that an exported folder was trained with,
    of any other folder the family's own."""

    system: str | None = None  # system message, none when empty
    no: str | None = None  # the verdicts, one token each
    yes: str | None = None
    max_tiles: int | None = None  # InternVL: tiles per solution; LLaVA-OneVision: of an image; besides the whole image
    longest_edge: int | None = None  # SmolVLM: pixels to which the longer side of an image is scaled
    min_pixels: int | None = None  # Qwen: the area to which an image is scaled lies between them
    max_pixels: int | None = None

    @cached_property
    def chosen(self) -> ChatBackbone:
        """The family's component. Raises ValueError for a folder of no known family, or an option it does not have."""
        family = family_of(self.path, self.exact)
        known = {field.name for field in fields(family)}
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name in given.keys() - known:
            raise ValueError(
                f"backbone.{name}={given[name]}: {family.__name__}, the family of backbone.path={self.path}, has no "
                f"such option; leave it out, or choose among {', '.join(sorted(known))}"
            )
        return family(**{"system": family.own_system, **stored_prompt(Path(str(self.path))), **given})

    def folder(self) -> Path:
        return self.chosen.folder()

    def load(self) -> tuple[Any, Any]:
        return self.chosen.load()

    def prompt(self) -> dict[str, Any]:
        return self.chosen.prompt()

    def usage(self) -> str:
        return self.chosen.usage()

    def export(self, model: Any, processor: Any, folder: Path, layout: str) -> None:
        self.chosen.export(model, processor, folder, layout)
