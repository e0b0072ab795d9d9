"""A trained model leaves the project and scores as it did: in plain transformers, and in OpenGVLab's format."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLProcessor,
    Qwen2VLImageProcessorPil,
)

from mprm.backbones.base import KAPPA
from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.internvl import InternVL
from mprm.backbones.loading import ChatBackbone
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.collate import collate
from mprm.inference.scoring import conversation
from mprm.training.checkpoint import export
from mprm.training.objectives import step_losses
from tests.encoding import encode, normalised

REPOSITORY = Path(__file__).resolve().parents[2]
ORIGINAL = REPOSITORY / "tests" / "oracle_data" / "internvl" / "checkpoint"
WEIGHTS = REPOSITORY / "mprm" / "chartworld" / "weights"
PICTURE = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
QUESTION, STEPS = "What is red plus blue?", ["red is 4.", "blue is 7.", "The answer is 11."]

BACKBONES: dict[str, Callable[[], ChatBackbone]] = {
    "internvl": lambda: InternVL(path=str(WEIGHTS / "internvl")),
    "internvl lora": lambda: InternVL(path=str(WEIGHTS / "internvl"), language_model="lora", vision="lora"),
    "original": lambda: InternVL(path=str(ORIGINAL), max_length=2048),
    "qwen2_5_vl": lambda: Qwen2_5_VL(path=str(WEIGHTS / "qwen2_5_vl")),
    "qwen2_5_vl lora": lambda: Qwen2_5_VL(path=str(WEIGHTS / "qwen2_5_vl"), language_model="lora"),
}


def scores(processor: ChatProcessor, model: ChatModel) -> torch.Tensor:
    with torch.inference_mode():
        batch = collate([encode(processor, [PICTURE], QUESTION, STEPS)])
        return model.eval()(batch).logits_M2.softmax(-1)[:, 1]


def trained(component: ChatBackbone) -> tuple[ChatProcessor, ChatModel, torch.Tensor]:
    """The backbone after five large steps, and its scores."""
    torch.manual_seed(0)
    processor, model = component.load()
    before = scores(processor, model)
    batch = collate([encode(processor, [PICTURE], QUESTION, STEPS)])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(5):
        step_losses(model.train()(batch).logits_M2, torch.tensor([1.0, 0.0, 1.0])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = scores(processor, model)
    assert (after - before).abs().max() > 0.05
    return processor, model, after


def plain_scores(folder: Path) -> torch.Tensor:
    """Without a line of this project."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    if model.config.model_type == "internvl":
        vision = GotOcr2ImageProcessorPil.from_pretrained(folder)([PICTURE], return_tensors="pt")
        tokens = model.config.image_seq_length * len(vision["pixel_values"])
        image = "<img>" + "<IMG_CONTEXT>" * tokens + "</img>"
        del vision["num_patches"]
    else:
        vision = Qwen2VLImageProcessorPil.from_pretrained(folder)([PICTURE], return_tensors="pt")
        tokens = int(vision["image_grid_thw"].prod()) // 4
        image = "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"
    body = f"{image}\nQuestion: {QUESTION}\nProcess: " + "\n\n".join(f"{step}<prm>" for step in STEPS)
    text = f"<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n{body}<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    if "image_grid_thw" in vision:
        vision["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    with torch.inference_mode():
        logits = model(input_ids=ids, **vision).logits[0, ids[0] == tokenizer.convert_tokens_to_ids("<prm>")]
    return logits[:, tokenizer.convert_tokens_to_ids(["No", "Yes"])].softmax(-1)[:, 1]


@pytest.mark.parametrize("name", BACKBONES)
def test_plain_transformers_gives_the_same_scores(name: str, tmp_path: Path) -> None:
    component = BACKBONES[name]()
    processor, model, expected = trained(component)
    export(model, processor, component, tmp_path / "out", "hf")
    torch.testing.assert_close(plain_scores(tmp_path / "out"), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl"])
def test_the_code_on_the_card_gives_the_same_scores(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pieces of it, as they stand there, in the exported folder."""
    component = replace(BACKBONES[name](), system="You 'judge'\nevery \"step\".")
    processor, model = component.load()
    question, steps = "What is blue plus purple?", ["blue is 3.", "purple is 7.", "The answer is 10."]
    with torch.inference_mode():
        expected = model.eval()(collate([encode(processor, [PICTURE], question, steps)])).logits_M2.softmax(-1)[:, 1]
    export(model, processor, component, tmp_path / "out", "hf", f"# A card\n\n{component.usage()}")
    monkeypatch.chdir(tmp_path / "out")
    PICTURE.save("chart.png")
    ours, plain = re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(ours.replace("\nscorer.score(", "\nours = scorer.score(") + plain, found)
    torch.testing.assert_close(torch.tensor(found["scores"]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(found["ours"]).float(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl"])
def test_the_code_on_the_card_of_a_reward_model_gives_the_same_score(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = replace(BACKBONES[name](), system="Be 'kind'.")
    processor, model = component.load()
    example = conversation(processor, [PICTURE.size], "What is blue plus purple?", "The answer is 10.")
    with torch.inference_mode():
        batch = collate([replace(example, vision=processor.vision([PICTURE]))])
        expected = float(model.eval()(batch).logits_M2.diff())
    export(model, processor, component, tmp_path / "out", "hf", component.usage(rates_answers=True))
    monkeypatch.chdir(tmp_path / "out")
    PICTURE.save("chart.png")
    [code] = re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["score"] == pytest.approx(expected, abs=1e-5)


class WithoutVideos(InternVLProcessor):
    """What AutoProcessor makes of the folder, but for the videos' part, which takes torchvision."""

    def __init__(
        self, image_processor: Any, tokenizer: Any, image_seq_length: int = 256, chat_template: str | None = None
    ) -> None:
        super().__init__(image_processor, tokenizer, None, image_seq_length, chat_template)


@pytest.mark.parametrize("name", ["internvl", "original"])
def test_transformers_processor_reads_the_folder(name: str, tmp_path: Path) -> None:
    """It writes out the image tokens itself. Twice exported, the files are the same."""
    component = BACKBONES[name]()
    processor, model = component.load()
    export(model, processor, component, tmp_path / "out", "hf")
    again, _ = InternVL(path=str(tmp_path / "out"), max_length=512).load()
    again.save(tmp_path / "again")
    assert len(list((tmp_path / "again").iterdir())) == 4
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
    text = f"<|im_start|>user\n<IMG_CONTEXT>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    found = WithoutVideos.from_pretrained(tmp_path / "out")(images=[PICTURE], text=[text], return_tensors="pt")
    assert found["input_ids"][0].equal(processor.ask([PICTURE.size], QUESTION).input_ids)
    pixels = normalised(processor, processor.vision([PICTURE]))["pixel_values"]
    assert len(pixels) == 7
    assert found["pixel_values"].equal(pixels)


@pytest.mark.parametrize("name", BACKBONES)
def test_an_exported_folder_is_a_backbone_again(name: str, tmp_path: Path) -> None:
    component = BACKBONES[name]()
    processor, model, expected = trained(component)
    export(model, processor, component, tmp_path / "out", "hf")
    again = type(component)(path=str(tmp_path / "out"), max_length=component.max_length).load()
    torch.testing.assert_close(scores(*again), expected, atol=1e-5, rtol=0)


def test_the_original_format_gives_the_same_scores(tmp_path: Path) -> None:
    for language_model in ("trained", "lora"):
        component = InternVL(path=str(ORIGINAL), max_length=2048, language_model=language_model)
        processor, model, expected = trained(component)
        export(model, processor, component, tmp_path / language_model, "original")
        again = InternVL(path=str(tmp_path / language_model), max_length=2048).load()
        torch.testing.assert_close(scores(*again), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "layout"), [("internvl lora", "hf"), ("qwen2_5_vl", "hf"), ("original", "original")])
def test_a_kappa_head_goes_with_the_folder(name: str, layout: str, tmp_path: Path) -> None:
    component = BACKBONES[name]()
    processor, model, expected = trained(component)
    model.set_kappa(True)
    assert model.kappa is not None
    model.kappa.weight.data.normal_(std=0.1)
    batch = collate([encode(processor, [PICTURE], QUESTION, STEPS)])
    with torch.inference_mode():
        expected_kappa = model(batch).kappa_M
    assert expected_kappa.std() > 0.01
    export(model, processor, component, tmp_path / "out", layout)
    assert (tmp_path / "out" / KAPPA).stat().st_mode == (tmp_path / "out" / "config.json").stat().st_mode
    torch.manual_seed(5)
    again, folder_model = type(component)(path=str(tmp_path / "out"), max_length=component.max_length).load()
    torch.testing.assert_close(scores(again, folder_model), expected, atol=1e-5, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(folder_model(batch).kappa_M, expected_kappa, atol=1e-4, rtol=0)
    if layout == "hf":
        torch.testing.assert_close(plain_scores(tmp_path / "out"), expected, atol=1e-5, rtol=0)
    folder_model.set_kappa(True)
    assert folder_model.kappa.weight.equal(model.kappa.weight), "trained on from where it was"
    folder_model.set_kappa(False)
    export(
        folder_model,
        again,
        type(component)(path=str(tmp_path / "out"), max_length=component.max_length),
        tmp_path / "dropped",
        layout,
    )
    assert not (tmp_path / "dropped" / KAPPA).exists()


def test_an_untrained_original_comes_back_bit_for_bit(tmp_path: Path) -> None:
    component = InternVL(path=str(ORIGINAL), max_length=2048, dtype="stored")
    processor, model = component.load()
    export(model, processor, component, tmp_path / "out", "original")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"mprm.json", *(path.name for path in ORIGINAL.iterdir())}
    before, after = (load_file(folder / "model.safetensors") for folder in (ORIGINAL, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        assert json.loads((ORIGINAL / name).read_text()) == json.loads((tmp_path / "out" / name).read_text())


def test_a_new_mark_is_named_in_every_file_that_lists_added_tokens(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ORIGINAL, source)
    (source / "added_tokens.json").write_text('{"<img>": 400}')
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        content: dict[str, Any] = json.loads((source / name).read_text())
        if key == "added_tokens":
            content[key] = [token for token in content[key] if token["content"] != "<prm>"]
        else:
            content[key] = {number: token for number, token in content[key].items() if token["content"] != "<prm>"}
        (source / name).write_text(json.dumps(content))
    component = InternVL(path=str(source), max_length=2048)
    processor, model, expected = trained(component)
    assert model.mark_id == 409
    export(model, processor, component, tmp_path / "out", "original")
    again, step_model = InternVL(path=str(tmp_path / "out"), max_length=2048).load()
    assert step_model.mark_id == 409
    torch.testing.assert_close(scores(again, step_model), expected, atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "out" / "added_tokens.json").read_text()) == {"<img>": 400, "<prm>": 409}
    listed = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert listed["409"]["content"] == "<prm>"
    assert listed["409"]["special"]


def test_a_mark_beyond_the_table_adds_a_row(tmp_path: Path) -> None:
    component = BACKBONES["internvl"]()
    processor, model, _ = trained(component)
    rows = len(model.hf.get_input_embeddings().weight)
    assert model.mark_id == rows
    mark_D = model.mark_D.detach().clone()
    export(model, processor, component, tmp_path / "out", "hf")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    table_VD, head_VD = tensors["model.language_model.embed_tokens.weight"], tensors["lm_head.weight"]
    assert len(table_VD) == len(head_VD) == rows + 1
    assert table_VD[rows].equal(mark_D)
    assert torch.allclose(head_VD[rows], head_VD[:rows].mean(0), atol=1e-4)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    component = BACKBONES["internvl"]()
    processor, model = component.load()
    line = r"^format=original: backbone\.path=.*internvl is not in OpenGVLab's format; use format=hf$"
    with pytest.raises(ValueError, match=line):
        export(model, processor, component, tmp_path / "out", "original")
    assert not (tmp_path / "out").exists()


def test_an_exported_folder_refuses_another_prompt(tmp_path: Path) -> None:
    component = InternVL(path=str(WEIGHTS / "internvl"), system="Be strict.", max_tiles=2)
    processor, model = component.load()
    export(model, processor, component, tmp_path / "out", "hf")
    replace(component, path=str(tmp_path / "out")).load()
    line = r"^backbone\.system='', but backbone\.path=.*out was trained with 'Be strict\.'; give the backbone= it was"
    with pytest.raises(ValueError, match=line):
        InternVL(path=str(tmp_path / "out"), max_tiles=2).load()
    with pytest.raises(ValueError, match=r"^backbone\.max_tiles=6, but backbone\.path=.* was trained with 2; give"):
        InternVL(path=str(tmp_path / "out"), system="Be strict.").load()


def test_exported_weights_are_for_all_to_read(tmp_path: Path) -> None:
    component = BACKBONES["internvl"]()
    processor, model = component.load()
    export(model, processor, component, tmp_path / "out", "hf")
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in (*(tmp_path / "out").iterdir(), tmp_path / "plain")}
    assert len(modes) == 1
