"""Every family is held to one bar, on a tiny random model of its real architecture: rows of many solutions with shared
prefixes give the scores and gradients of transformers on a padded batch and of one solution after the other, adapters
included; it writes what transformers writes; and what was trained is the same in plain transformers. A family is a line
in families.py.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mprm.backbones.auto import Auto
from mprm.backbones.chat import ChatModel, ChatProcessor, encode_text
from mprm.batching.collate import Example, collate
from mprm.inference.decoding import token_entropy
from mprm.inference.local import Sampler
from mprm.inference.policy import Prompt
from mprm.training.checkpoint import export
from mprm.training.objectives import step_losses
from tests.backbones.families import FAMILIES, write
from tests.backbones.test_packed import assert_same, encoded, gradients, loss, stir_adapters
from tests.encoding import normalised

Picture = Callable[[int, int], Image.Image]
LORA = {"language_model": "lora", "vision": "lora", "lora_rank": 3, "checkpoint_layers": 1.0}
TRAINED = {
    "plain": {},
    "lora, checkpointing": LORA,
    "vision, checkpointing": {**LORA, **dict.fromkeys(("vision", "language_model"), "trained")},
}
EXACT = [name for name, family in FAMILIES.items() if family.exact]
CASES = [(name, kind) for name in FAMILIES for kind in TRAINED if name in EXACT or not kind.startswith("vision")]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Auto]:
    """backbone(name, vision="lora", ...): the component over the tiny folder of the family, made once."""
    folders: dict[str, Path] = {}

    def backbone(name: str, **options: Any) -> Auto:
        family = FAMILIES[name]
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("family")
            write(family, folders[name])
        return Auto(path=str(folders[name]), exact=family.exact, **dict(family.options), **options)

    return backbone


def texts(processor: ChatProcessor) -> list[Example]:
    """Solutions of two questions without images."""
    asked = [("What is 2 plus 3?", ["red is 4.", "So 5."]), ("What is 2 plus 3?", ["red is 4."]), ("Which?", ["blue."])]
    layouts = [processor.layout([], question, steps) for question, steps in asked]
    return [replace(one, group=number) for number, one in zip((100, 100, 101), layouts, strict=True)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_scores_and_gradients_are_those_of_plain_transformers(
    name: str, kind: str, backbone: Any, stock: Any, picture: Picture
) -> None:
    component = backbone(name, **TRAINED[kind])
    torch.manual_seed(1)
    processor, model = component.load()
    stir_adapters(model)
    model.train()
    examples = encoded(processor, picture)
    alone = [replace(example, group=None) for example in examples]
    theirs = stock(model, component)
    expected_M2 = theirs.logits(alone)
    assert expected_M2.std() > 0.03
    loss(expected_M2).backward()
    together = gradients(model, lambda: model(collate(examples)).logits_M2)
    assert together[1].keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert_same(together, (expected_M2.detach(), theirs.gradients()), floor=0.01)
    one_by_one = gradients(model, lambda: torch.cat([model(collate([one])).logits_M2 for one in alone]))
    assert_same(together, one_by_one, floor=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_text_is_scored_alone_and_beside_images(name: str, backbone: Any, stock: Any, picture: Picture) -> None:
    component = backbone(name)
    processor, model = component.load()
    examples = texts(processor)
    with torch.inference_mode():
        expected = stock(model, component).logits(examples).softmax(-1)
        alone = model.eval()(collate(examples)).logits_M2.softmax(-1)
        beside = model(collate([*examples, *encoded(processor, picture)])).logits_M2.softmax(-1)
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(beside[: len(expected)], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", EXACT)
def test_it_writes_what_plain_transformers_writes(name: str, backbone: Any, picture: Picture, tmp_path: Path) -> None:
    """Greedily, behind prompts that share images and steps; and the entropy of every token is the same."""
    component = backbone(name)
    processor, model = component.load()
    hf = AutoModelForImageTextToText.from_pretrained(component.path).eval()
    sizes = [(56, 84), (120, 60)]
    for number, size in enumerate(sizes):
        picture(*size).save(tmp_path / f"{number}.png")
    paths = (tmp_path / "0.png", tmp_path / "1.png")
    prompts = [Prompt("a", paths, "Which?", (), 1), Prompt("b", paths, "Which?", ("red is 4.",), 1)]
    prompts.append(Prompt("c", paths[1:], "How?", (), 1))
    sampler = Sampler(processor=processor, model=model.eval(), temperature=0.0, max_new_tokens=6, separator="\n")
    for prompt, [found] in zip(prompts, sampler.generate(prompts), strict=True):
        images = [Image.open(path).convert("RGB") for path in prompt.images]
        ids = processor.ask([image.size for image in images], prompt.question).input_ids.tolist()
        for step in prompt.steps:
            ids += encode_text(processor.tokenizer, [f"{step}\n"])[0]
        vision, entropies, begun = normalised(processor, processor.vision(images)), [], len(ids)
        for _ in found.tokens:
            ids_1L = torch.tensor([ids])
            types = {"mm_token_type_ids": (ids_1L == processor.image_id).int()} if "image_grid_thw" in vision else {}
            with torch.inference_mode():
                logits_1V = hf(input_ids=ids_1L, use_cache=False, **vision, **types).logits[:, -1]
                entropies.append(float(token_entropy(logits_1V)))
                logits_1V[:, processor.image_id] = -torch.inf
            ids.append(int(logits_1V.argmax()))
        assert found.tokens == ids[begun:]
        assert found.entropy == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_trained_is_the_same_in_plain_transformers_and_loaded_again(
    name: str, backbone: Any, picture: Picture, tmp_path: Path
) -> None:
    part = "lora" if name.startswith("qwen") else "trained"
    component = backbone(name, system="Be strict.", language_model=part, vision=part)
    torch.manual_seed(0)
    processor, model = component.load()
    examples = encoded(processor, picture)
    before = scores(model, examples)
    train_two_steps(model, examples)
    expected = scores(model, examples)
    assert (expected - before).abs().max() > 0.02
    export(model, processor, component, tmp_path / "out", "hf")
    torch.testing.assert_close(plain_scores(tmp_path / "out", processor, examples), expected, atol=1e-5, rtol=0)
    again = Auto(path=str(tmp_path / "out"), exact=component.exact)  # the prompt is the one that it was trained with
    assert again.prompt() == component.prompt()
    processor, model = again.load()
    torch.testing.assert_close(scores(model, encoded(processor, picture)), expected, atol=1e-5, rtol=0)


def train_two_steps(model: ChatModel, examples: list[Example]) -> None:
    batch = collate(examples)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(2):
        step_losses(model.train()(batch).logits_M2, torch.linspace(0, 1, len(batch.mark_M))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def scores(model: ChatModel, examples: list[Example]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(collate(examples)).logits_M2.softmax(-1)[:, 1]


def plain_scores(
    folder: Path, processor: ChatProcessor, examples: list[Example], stock: Any = AutoModelForImageTextToText
) -> torch.Tensor:
    """By transformers' model of the folder, head included, one solution after the other."""
    hf = stock.from_pretrained(folder).eval()
    verdicts, found = processor.tokenizer.convert_tokens_to_ids(["No", "Yes"]), []
    for example in examples:
        ids_1L, vision = example.input_ids[None], normalised(processor, example.vision)
        types = {"mm_token_type_ids": (ids_1L == processor.image_id).int()} if "image_grid_thw" in vision else {}
        with torch.inference_mode():
            found.append(hf(input_ids=ids_1L, **vision, **types).logits[0, example.marks][:, verdicts].softmax(-1))
    return torch.cat(found)[:, 1]
