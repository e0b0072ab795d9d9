"""Which parts of a backbone are trained, and adapters beside them."""

import copy
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from mprm.backbones.chat import ChatModel
from mprm.backbones.loading import merge_adapters, set_trained
from mprm.batching.collate import Batch, collate
from tests.encoding import encode

FAMILIES = pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
STEPS = ["red is 4.", "blue is 7.", "The answer is 11."]


def loaded(component: Any, picture: Any, family: str, **options: Any) -> tuple[ChatModel, Batch]:
    torch.manual_seed(0)
    processor, model = component(family, **options).load()
    images = [picture(100, 60), picture(60, 120)]
    return model, collate([encode(processor, images, "What is red plus blue?", STEPS)])


def logits(model: ChatModel, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(batch).logits_M2


def disturb(model: ChatModel) -> None:
    """Adapters as if they had been trained."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def parts(model: ChatModel) -> dict[str, dict[str, nn.Parameter]]:
    """Every parameter, by the part it belongs to, adapters apart."""
    projector, vision = set(model.projector().parameters()), set(model.vision_tower().parameters())
    language = set(model.hf.model.language_model.parameters())
    found: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = "lm_head"
        if parameter in projector:
            part = "projector"
        elif parameter in vision:
            part = "vision"
        elif parameter in language:
            part = "language_model"
        elif not name.startswith("hf."):
            part = "own"
        part = f"{part} adapters" if "lora_" in name else part
        found.setdefault(part, {})[name] = parameter
    return found


@FAMILIES
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, {"projector", "language_model"}),
        ({"projector": "frozen"}, {"language_model"}),
        ({"language_model": "frozen"}, {"projector"}),
        ({"language_model": "frozen", "projector": "frozen"}, set()),
        ({"vision": "trained"}, {"vision", "projector", "language_model"}),
        ({"vision": "trained", "language_model": "frozen"}, {"vision", "projector"}),
        ({"language_model": "lora"}, {"projector", "language_model adapters"}),
        ({"vision": "lora", "projector": "frozen"}, {"vision adapters", "language_model"}),
        ({"vision": "lora", "language_model": "lora"}, {"vision adapters", "projector", "language_model adapters"}),
    ],
)
def test_what_gets_gradients(
    component: Any, picture: Any, family: str, grouped: bool, options: dict[str, str], trained: set[str]
) -> None:
    """The mark and the step head always do; the LM head never does, unless it is the table itself."""
    model, batch = loaded(component, picture, family, grouped=grouped, **options)
    assert model.train().vision_tower().training is ("vision" in options)
    disturb(model)
    model(batch).logits_M2.square().sum().backward()
    assert {part for part, members in parts(model).items() if any(p.requires_grad for p in members.values())} == {
        *trained,
        "own",
    }
    for part, members in parts(model).items():
        for name, parameter in members.items():
            wanted = part in {*trained, "own"}
            assert parameter.requires_grad is wanted, name
            assert (parameter.grad is not None) is wanted, name
            if wanted:
                assert parameter.grad is not None
                assert parameter.grad.abs().sum() > 0, name


@FAMILIES
def test_the_parts_are_the_whole_model(component: Any, picture: Any, family: str) -> None:
    model, _ = loaded(component, picture, family, vision="lora", language_model="lora")
    found = parts(model)
    assert found.keys() == {
        *("vision", "projector", "language_model", "own", "vision adapters", "language_model adapters")
    }
    assert sorted(found["own"]) == ["head.weight", "mark_D"]


@FAMILIES
def test_adapters_stand_beside_every_linear_layer_but_the_projectors(component: Any, picture: Any, family: str) -> None:
    plain, _ = loaded(component, picture, family)
    model, _ = loaded(component, picture, family, vision="lora", language_model="lora")
    projector = {name for name, module in plain.named_modules() if module in set(plain.projector().modules())}
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    expected = {name for name in linear - projector if "lm_head" not in name}
    found = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    assert found == expected
    assert len(linear & projector) == 2
    only_vision, _ = loaded(component, picture, family, vision="lora")
    found = {name for name, module in only_vision.named_modules() if isinstance(module, LoraLayer)}
    assert found == {name for name in expected if "language_model" not in name}
    assert found


@FAMILIES
def test_adapters_begin_as_nothing(component: Any, picture: Any, family: str) -> None:
    plain, batch = loaded(component, picture, family)
    model, _ = loaded(component, picture, family, vision="lora", language_model="lora")
    expected = logits(plain, batch)
    assert logits(model, batch).equal(expected)
    disturb(model)
    assert (logits(model, batch) - expected).abs().max() > 1e-2


def test_adapters_are_drawn_from_the_seed(component: Any, picture: Any) -> None:
    first, second = (
        dict(loaded(component, picture, "internvl", language_model="lora")[0].named_parameters()) for _ in "ab"
    )
    torch.manual_seed(1)
    other = dict(component("internvl", language_model="lora").load()[1].named_parameters())
    name = next(name for name in first if "lora_A" in name)
    assert first[name].equal(second[name])
    assert not first[name].equal(other[name])


@FAMILIES
def test_rank_and_alpha(component: Any, picture: Any, family: str) -> None:
    """A layer gives W x + alpha / rank * B A x."""
    model, _ = loaded(component, picture, family, language_model="lora", lora_rank=3, lora_alpha=12)
    disturb(model)
    layer = model.hf.model.language_model.layers[2].mlp.up_proj
    assert isinstance(layer, LoraLayer)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((3, 128), (384, 3))
    x = torch.randn(5, 128)
    expected = nn.functional.linear(x, layer.base_layer.weight) + 12 / 3 * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected)


@FAMILIES
def test_merged_adapters_give_the_same_scores_under_the_layers_own_names(
    component: Any, picture: Any, family: str
) -> None:
    plain, batch = loaded(component, picture, family)
    model, _ = loaded(component, picture, family, vision="lora", language_model="lora", lora_rank=3)
    disturb(model)
    expected = logits(model, batch)
    merged = copy.deepcopy(model)
    merge_adapters(merged)
    assert not any(isinstance(module, LoraLayer) for module in merged.modules())
    assert merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(logits(merged, batch), expected, atol=1e-4, rtol=1e-4)
    plain.load_state_dict(merged.state_dict())
    assert logits(plain, batch).equal(logits(merged, batch))
    assert logits(model, batch).equal(expected)


@FAMILIES
def test_without_adapters_there_is_nothing_to_merge(component: Any, picture: Any, family: str) -> None:
    model, batch = loaded(component, picture, family)
    expected = logits(model, batch)
    merge_adapters(model)
    assert logits(model, batch).equal(expected)


def test_set_trained() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for choice, trained in (("frozen", False), ("trained", True), ("lora", False)):
        set_trained(parameters, choice)
        assert [parameter.requires_grad for parameter in parameters] == [trained] * 2
