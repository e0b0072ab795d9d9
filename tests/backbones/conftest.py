"""Tiny random backbones with weights large enough that every part of them shows in the logits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mprm.backbones.base import StepModel
from mprm.backbones.internvl import InternVL, InternVLProcessor
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL, QwenProcessor
from mprm.chartworld import tiny

STEPS = ["red is 4.", "blue is 7.", "The answer is 11."]


def build(family: str, folder: Path) -> Path:
    torch.manual_seed(0)
    tiny.build(family, folder)
    weights = folder / "model.safetensors"
    tensors = {name: 4 * value if value.ndim > 1 else value for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def internvl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("internvl", tmp_path_factory.mktemp("internvl"))


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its windows hold up to 2 x 2 merged patches, so that an image has windows of several sizes."""
    folder = build("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))
    config = folder / "config.json"
    narrow = '"window_size": 28'
    assert narrow in config.read_text()
    config.write_text(config.read_text().replace(narrow, '"window_size": 56'))
    return folder


@pytest.fixture(scope="session")
def internvl(internvl_folder: Path) -> tuple[InternVLProcessor, StepModel]:
    processor, model = InternVL(path=str(internvl_folder)).load()
    return processor, model.eval()


@pytest.fixture(scope="session")
def qwen(qwen_folder: Path) -> tuple[QwenProcessor, StepModel]:
    processor, model = Qwen2_5_VL(path=str(qwen_folder)).load()
    return processor, model.eval()


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int], Image.Image]:
    """picture(width, height): noise, the same for the same size."""

    def picture(width: int, height: int) -> Image.Image:
        rng = np.random.default_rng([width, height])
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return picture
