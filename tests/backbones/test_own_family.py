"""The family of chat models that docs/add_your_own.md shows, pasted outside the repository, is exact."""

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from mprm.backbones.loading import ChatBackbone
from mprm.batching.collate import collate
from tests.backbones.families import TEXT
from tests.backbones.test_packed import assert_same, encoded, gradients, loss
from tests.encoding import encode
from tools import tiny

PAGE = (Path(__file__).parents[2] / "docs" / "add_your_own.md").read_text(encoding="utf-8")
Picture = Callable[[int, int], Image.Image]


def write_llava_next(folder: Path) -> None:
    """A tiny random model of LLaVA-NeXT with Mistral."""
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer("llava_onevision")
    tokenizer.bos_token = "<|im_start|>"
    grids = [[56, 28], [28, 56], [56, 56]]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {**TEXT, "model_type": "mistral", "sliding_window": None, "vocab_size": len(tokenizer)}
    text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "head_dim": 16}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=28, patch_size=14),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
    )
    hf = LlavaNextForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    LlavaNextImageProcessorPil(**size, image_grid_pinpoints=grids).save_pretrained(folder)


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The component's class."""
    folder = tmp_path_factory.mktemp("outside")
    blocks = re.findall(r"^```(?:python|yaml)\n# (\S*llava_next\S*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["mine/llava_next.py", "conf/backbone/llava_next.yaml"]
    assert sum(text.count("\n") for _, text in blocks) < 120
    (folder / "own_llava_next.py").write_text(blocks[0][1])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("own_llava_next").LlavaNext


@pytest.fixture(scope="module")
def component(pasted: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ChatBackbone]:
    folder = tmp_path_factory.mktemp("llava_next")
    write_llava_next(folder)
    return lambda **options: pasted(path=str(folder), system="Be kind.", max_length=2048, **options)


@pytest.mark.parametrize("vision", ["frozen", "trained", "lora"])
def test_a_row_gives_the_scores_and_gradients_of_plain_transformers(
    vision: str, component: Any, stock: Any, picture: Picture
) -> None:
    loaded = component(vision=vision, lora_rank=3, checkpoint_layers=float(vision == "lora"))
    torch.manual_seed(1)
    processor, model = loaded.load()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    examples = encoded(processor, picture)
    alone = [replace(example, group=None) for example in examples]
    theirs = stock(model, loaded)
    expected_M2 = theirs.logits(alone)
    loss(expected_M2).backward()
    assert expected_M2.std() > 0.03
    together = gradients(model.train(), lambda: model(collate(examples)).logits_M2)
    assert together[1].keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert_same(together, (expected_M2.detach(), theirs.gradients()))
    one_by_one = gradients(model, lambda: torch.cat([model(collate([one])).logits_M2 for one in alone]))
    assert_same(together, one_by_one)


def test_the_prompt_has_the_turns_of_mistral(component: Any, picture: Picture) -> None:
    processor, _ = component().load()
    [shown] = [encode(processor, [picture(56, 28)], "Which?", ["red is 4.", "So 4."])]
    text = processor.tokenizer.decode(shown.input_ids).replace("<image>" * 14, "IMAGE")  # 2 x 2, and 2 rows of 4 and 1
    assert text == (
        "<|im_start|>[INST] Be kind.  [/INST]IMAGE\nQuestion: Which?\nProcess: red is 4.<prm>\n\nSo 4.<prm><|im_end|>"
    )
