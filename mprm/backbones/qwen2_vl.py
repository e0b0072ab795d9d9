"""Qwen2-VL: every block of the vision tower sees whole images."""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import Qwen2VLForConditionalGeneration

from mprm.backbones.qwen import QwenStepModel, QwenVL


@dataclass(frozen=True, kw_only=True)
class Qwen2VL(QwenVL):
    """A folder in transformers' Qwen2-VL format."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    hf_class: ClassVar[Any] = Qwen2VLForConditionalGeneration
    step_model: ClassVar[type[QwenStepModel]] = QwenStepModel
