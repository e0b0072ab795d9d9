"""Vision-language models that have no file here, one solution after the other: Gemma 3, whose image tokens see each
other and whose language model has windows, and LLaVA-NeXT, whose images become tensors of several shapes.

Shape suffixes: L tokens of a solution, M marks, 2 logits (no, yes).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from mprm.backbones.auto import Auto
from mprm.backbones.other import OtherModel, OtherProcessor
from mprm.batching.collate import Example, collate
from mprm.batching.examples import BLANK
from mprm.scorer import StepScorer
from mprm.training.checkpoint import export
from tests.backbones.families import TEXT
from tests.backbones.test_packed import QUESTIONS, assert_same, encoded, gradients, loss
from tools import tiny

SPECIAL = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
TEMPLATE = (
    "<bos>{% for m in messages %}<start>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{{ 'IMAGE' if c['type'] == 'image' else c['text'] }}{% endfor %}<stop>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
SIZE = {"height": 56, "width": 56}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 56, "patch_size": 14}
GRIDS = [[56, 112], [112, 56], [112, 112]]

Picture = Callable[[int, int], Image.Image]


def tokenizer(folder: Path) -> Any:
    made = tiny.build_tokenizer("internvl")
    made.add_special_tokens({"additional_special_tokens": [*SPECIAL.values(), "<bos>", "<start>", "<stop>"]})
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, extra_special_tokens=SPECIAL)


def gemma3(tokens: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    start, end = tokens.convert_tokens_to_ids(["<boi>", "<eoi>"])
    config = transformers.Gemma3Config(
        text_config={**text, "sliding_window": 24, "query_pre_attn_scalar": 16},
        vision_config={**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        boi_token_index=start,
        eoi_token_index=end,
    )
    images = transformers.Gemma3ImageProcessorPil(size=SIZE)
    template = TEMPLATE.replace("IMAGE", "<boi>")
    return config, transformers.Gemma3Processor(images, tokens, template, image_seq_length=4)


def llava_next(tokens: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    config = transformers.LlavaNextConfig(
        text_config={**text, "model_type": "mistral", "sliding_window": 40},
        vision_config={**VISION, "model_type": "clip_vision_model"},
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=GRIDS,
    )
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 56}, crop_size=SIZE, image_grid_pinpoints=GRIDS
    )
    template = TEMPLATE.replace("IMAGE", "<image>")
    return config, transformers.LlavaNextProcessor(
        images, tokens, 14, "default", template, "<image>", num_additional_image_tokens=1
    )


KINDS = {"gemma3": gemma3, "llava_next": llava_next}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp(request.param)
    tokens = tokenizer(folder)
    text = {**TEXT, "head_dim": 16, "vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id}
    config, processor = KINDS[request.param](tokens, {**text, "tie_word_embeddings": False})
    torch.manual_seed(0)
    hf = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim > 1:  # Gemma's projector begins as nothing
                parameter.copy_(3 * parameter if parameter.any() else torch.randn_like(parameter) / 8)
    hf.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def plain_logits(
    hf: Any, folder: Path, picture: Picture, examples: list[Example], head_2D: torch.Tensor
) -> torch.Tensor:
    """Logits at the marks (M, 2), one solution after the other; its images by the folder's own processor."""
    processor, found = AutoProcessor.from_pretrained(folder), []
    sizes = {question: shown for question, shown, _ in QUESTIONS}
    for example in examples:
        shown = [picture(*size) for size in sizes[example.id]]
        made = dict(processor.image_processor(shown, return_tensors="pt"))
        vision = {name: made[name] for name in ("pixel_values", "image_sizes") if name in made}
        ids_1L = example.input_ids[None]
        if hf.config.model_type == "gemma3":
            vision["token_type_ids"] = (ids_1L == hf.config.image_token_id).long()
        h_LD = hf.model(input_ids=ids_1L, use_cache=False, **vision).last_hidden_state[0]
        found.append(torch.nn.functional.linear(h_LD[example.marks], head_2D))
    return torch.cat(found)


@pytest.mark.parametrize("options", [{}, {"language_model": "lora", "checkpoint_layers": 1.0}], ids=["all", "lora"])
def test_scores_and_gradients_are_those_of_plain_transformers(
    folder: Path, options: dict[str, Any], stock: Any, picture: Picture
) -> None:
    component = Auto(path=str(folder), exact=False, **options)
    torch.manual_seed(1)
    processor, model = component.load()
    assert isinstance(processor, OtherProcessor)
    assert isinstance(model, OtherModel)
    examples = encoded(processor, picture)
    theirs = stock(model, component)
    expected_M2 = plain_logits(theirs.hf, folder, picture, examples, theirs.head_2D)
    assert expected_M2.std() > 0.03
    loss(expected_M2).backward()
    found = gradients(model.train(), lambda: model(collate(examples)).logits_M2)
    if not options:
        assert_same(found, (expected_M2.detach(), theirs.gradients()))
    torch.testing.assert_close(found[0], expected_M2.detach(), atol=1e-5, rtol=0)
    assert found[1].keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_row_of_text_has_a_gradient_of_zero_for_what_sees_images(folder: Path) -> None:
    processor, model = Auto(path=str(folder), exact=False).load()
    example = processor.layout([], "Which?", ["red.", "blue."])
    blank = replace(example, vision=processor.vision([BLANK]))
    logits_M2, alone = gradients(model.train(), lambda: model(collate([example])).logits_M2)
    again_M2, beside = gradients(model, lambda: model(collate([blank])).logits_M2)
    assert again_M2.equal(logits_M2)
    assert beside.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(beside[name].any() for name in beside.keys() - alone.keys())


def test_the_prompt_is_the_folders_own_template_with_the_published_layout(folder: Path) -> None:
    processor, _ = Auto(path=str(folder), exact=False, system="Be kind.").load()
    example = processor.layout([(56, 56)], "Which?", ["red.", "blue."])
    text = processor.tokenizer.decode(example.input_ids)
    begun = "<bos><start>system\nBe kind.<stop>\n<start>user\n"
    assert text.startswith(f"{begun}<stop>\n<start>assistant\n")
    assert text.endswith("\nQuestion: Which?\nProcess: red.<prm>\n\nblue.<prm><stop>\n")
    assert example.input_ids[example.marks].eq(processor.mark_id).all()
    asked = processor.tokenizer.decode(processor.ask([], "Which?", "Be short.").input_ids)
    assert asked == f"{begun}Which?\nBe short.<stop>\n<start>assistant\n"


def test_an_exported_folder_is_the_same_model_again(folder: Path, picture: Picture, tmp_path: Path) -> None:
    component = Auto(path=str(folder), exact=False, system="Be kind.")
    processor, model = component.load()
    examples = encoded(processor, picture)
    with torch.no_grad():
        model.mark_D += 0.5
        model.head.weight[1] += 0.1
        expected_M2 = model.eval()(collate(examples)).logits_M2
    export(model, processor, component, tmp_path / "out", "hf")
    scorer = StepScorer.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        again_M2 = scorer.model(collate(encoded(scorer.processor, picture))).logits_M2
        hf = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
        verdicts = processor.tokenizer.convert_tokens_to_ids(["No", "Yes"])
        plain_M2 = plain_logits(hf, tmp_path / "out", picture, examples, hf.lm_head.weight[verdicts])
    torch.testing.assert_close(again_M2, expected_M2, atol=1e-5, rtol=0)
    torch.testing.assert_close(plain_M2, expected_M2, atol=1e-5, rtol=0)
