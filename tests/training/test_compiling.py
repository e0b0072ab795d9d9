"""trainer.compile: one graph a layer for rows of any length, gradients and names as without it."""

import pickle
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters, guard_failures

from mprm.backbones.auto import Auto
from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.batching.collate import Batch, collate
from mprm.batching.order import Shuffled
from mprm.training.compiling import compile_layers, one_line_errors, restore_layers
from mprm.training.module import StepScoring
from mprm.training.objectives import Hard
from mprm.training.recipe import Machine, Recipe, Schedule
from tests.backbones.families import FAMILIES, write
from tests.backbones.test_packed import stir_adapters
from tests.encoding import encode

CASES: dict[str, dict[str, Any]] = {
    "internvl": {"checkpoint_layers": 1.0},
    "qwen2_5_vl": {"language_model": "lora", "checkpoint_layers": 1.0},
}
# At most: a layer; the last one, and that for a single mark; of InternVL's tower a block, and that for a single tile;
# of Qwen's one of windows, the first of them, whose input is a view, and one of images.
GRAPHS = {"internvl": 1 + 2 + 2, "qwen2_5_vl": 1 + 2 + 3}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile without its C++: forward and backward pass are traced, and run operation by operation."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile_(function, backend="aot_eager", **options)
    )
    for remembered in (counters, guard_failures):
        remembered.clear()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches(processor: ChatProcessor, n: int) -> Iterator[Batch]:
    """Rows of one to three questions, each with as many images and solutions, and last a single step of one image."""
    rng = random.Random(0)
    for number in range(n):
        most = 1 if number == n - 1 else 3
        examples = []
        for group in range(rng.randint(1, most)):
            sizes = [(rng.randrange(28, 200), rng.randrange(28, 200)) for _ in range(rng.randint(1, most))]
            images = [
                Image.fromarray(np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)) for size in sizes
            ]
            for _ in range(rng.randint(1, most)):
                steps = ["red is 4. " * rng.randint(1, 6) for _ in range(rng.randint(1, most))]
                examples.append(replace(encode(processor, images, "What is red?", steps), group=group))
        yield collate(examples)


def gradients(model: ChatModel, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    model(batch).logits_M2.sigmoid().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("family", CASES)
def test_a_layer_is_one_graph_for_any_row_and_its_gradients_are_those_of_transformers(
    family: str, tmp_path: Path
) -> None:
    write(FAMILIES[family], tmp_path)
    processor, model = Auto(path=str(tmp_path), **CASES[family]).load()
    model.train()
    names = list(model.state_dict())
    stir_adapters(model)
    for batch in batches(processor, 3):
        expected = gradients(model, batch)
        compile_layers(model, Machine())
        assert list(model.state_dict()) == names
        found = gradients(model, batch)
        restore_layers(model)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= GRAPHS[family], guard_failures


def test_a_training_compiles_its_layers_and_can_be_sent_to_another_process(tmp_path: Path) -> None:
    write(FAMILIES["internvl"], tmp_path)
    _, model = Auto(path=str(tmp_path)).load()
    schedule = Schedule(Recipe(), Machine(compile=True), Shuffled(), seed=0)
    module = StepScoring(model, Hard(), schedule)
    for _ in range(2):
        module.setup("fit")
        compiled = {type(layer).__name__ for layer in module.modules() if "forward" in vars(layer)}
        assert compiled == {"InternVLVisionLayer", "Qwen2DecoderLayer", "MarksOnlyQwen2DecoderLayer"}
        module.teardown("fit")
        pickle.dumps(module)


def test_a_compiler_that_cannot_work_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    compiled = torch.compile(torch.nn.Linear(2, 2), backend=no_compiler)
    words = r"^trainer\.compile=true: .*Failed to find C compiler\. Please specify via CC\); install .*$"
    with pytest.raises(ValueError, match=words), one_line_errors():
        compiled(torch.zeros(1, 2))
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("its own")
