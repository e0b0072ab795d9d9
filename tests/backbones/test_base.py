"""What both families share: marks, the step head, frozen vision, independence of batch and padding."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import PreTrainedTokenizerFast

from mprm.backbones.base import add_mark, encode_pieces, single_token
from mprm.backbones.internvl import InternVL
from mprm.backbones.loading import check_folder
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.chartworld import tiny
from mprm.data.collate import collate

Picture = Callable[[int, int], Image.Image]
STEPS = ["red is 4.", "blue is 7.", "red 4 + blue 7 = 11.", "The answer is 11."]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<prm>", "<image>"]
SPECIAL += [token for tokens in tiny.IMAGE_TOKENS.values() for token in tokens]


@pytest.fixture(params=["internvl", "qwen"])
def backbone(request: pytest.FixtureRequest) -> Any:
    """(processor, model) of either family."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["internvl", "qwen2_5_vl"])
def fresh(request: pytest.FixtureRequest, internvl_folder: Path, qwen_folder: Path) -> Any:
    """A backbone of its own for tests that change it, and the module that carries images over to the text."""
    if request.param == "internvl":
        internvl = InternVL(path=str(internvl_folder)).load()
        return *internvl, internvl[1].hf.model.multi_modal_projector
    qwen = Qwen2_5_VL(path=str(qwen_folder)).load()
    return *qwen, qwen[1].hf.model.visual.merger


def test_scores_do_not_depend_on_the_batch_or_on_padding(backbone: Any, picture: Picture) -> None:
    processor, model = backbone
    sizes = [(56, 56), (150, 90), (40, 100)]
    rows = [
        processor.encode([picture(*size)], "What is red plus blue?" * (number + 1), STEPS[: number + 2])
        for number, size in enumerate(sizes)
    ]
    with torch.inference_mode():
        alone = torch.cat([model.step_logits(collate([row], processor.pad_id)) for row in rows])
        together = model.step_logits(collate(rows, processor.pad_id))
        other_padding = model.step_logits(collate(rows, processor.mark_id))
    assert together.shape == (2 + 3 + 4, 2)
    assert together.dtype == torch.float32
    assert together.std() > 0.05
    assert (together.softmax(-1) - alone.softmax(-1)).abs().max() < 1e-6
    assert torch.equal(together, other_padding)


def test_the_image_and_the_steps_before_matter_and_later_steps_do_not(backbone: Any, picture: Picture) -> None:
    processor, model = backbone

    def logits(size: tuple[int, int], steps: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            return model.step_logits(collate([processor.encode([picture(*size)], "How?", steps)], processor.pad_id))

    whole = logits((56, 56), STEPS)
    assert (logits((57, 56), STEPS) - whole).abs().max() > 1e-3
    assert torch.allclose(logits((56, 56), STEPS[:2]), whole[:2], atol=1e-5)
    assert (logits((56, 56), ["red is 5.", *STEPS[1:]]) - whole)[-1].abs().max() > 1e-3


def test_marks_stand_behind_every_step(backbone: Any, picture: Picture) -> None:
    processor, _ = backbone
    example = processor.encode([picture(56, 56)], "What is red plus blue?", STEPS)
    places = (example.input_ids == processor.mark_id).nonzero()[:, 0]
    assert places.equal(example.marks)
    text = processor.tokenizer.decode(example.input_ids)
    body = "Question: What is red plus blue?\nProcess: " + "".join(f"{step}<prm>\n\n" for step in STEPS).strip()
    assert text.startswith("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<")
    assert text.endswith(f">\n{body}<|im_end|>\n")


@given(texts=st.lists(st.lists(st.sampled_from([*SPECIAL, "a", " ", "\n"])).map("".join), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_special_tokens_in_the_users_text_are_only_text(backbone: Any, picture: Picture, texts: list[str]) -> None:
    processor, model = backbone
    question, *steps = texts
    special = torch.tensor(processor.tokenizer.all_special_ids)
    example = processor.encode([picture(56, 56)], question, steps)
    plain = processor.encode([picture(56, 56)], "a", ["b"] * len(steps))
    counts = [torch.isin(x.input_ids, special).sum() for x in (example, plain)]
    assert counts[0] == counts[1]
    assert (example.input_ids == model.hf.config.image_token_id).sum() == 4
    assert example.input_ids[example.marks].eq(processor.mark_id).all()
    assert (example.input_ids == processor.mark_id).sum() == len(steps)


def test_frozen_vision_is_neither_trained_nor_noisy(fresh: Any, picture: Picture) -> None:
    processor, model, projector = fresh
    model.train()
    assert model.hf.model.language_model.training
    assert not any(module.training for module in model.vision_tower().modules())
    batch = collate([processor.encode([picture(100, 60)], "How?", STEPS)], processor.pad_id)
    gradients_enabled = []
    blocks = getattr(model.vision_tower(), "blocks", None) or model.vision_tower().encoder.layer
    hook = blocks[-1].register_forward_hook(lambda *_: gradients_enabled.append(torch.is_grad_enabled()))
    model.step_logits(batch).square().sum().backward()
    hook.remove()
    assert gradients_enabled == [False]
    assert all(p.grad is None and not p.requires_grad for p in model.vision_parameters())
    for parameters in (projector.parameters(), model.hf.model.language_model.parameters(), model.head.parameters()):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters if p.ndim > 1)


def test_vision_can_be_trained_too(internvl_folder: Path, qwen_folder: Path, picture: Picture) -> None:
    for component in (
        InternVL(path=str(internvl_folder), freeze_vision=False),
        Qwen2_5_VL(path=str(qwen_folder), freeze_vision=False),
    ):
        processor, model = component.load()
        model.train()
        assert model.vision_tower().training
        batch = collate([processor.encode([picture(56, 56)], "How?", STEPS)], processor.pad_id)
        model.step_logits(batch).square().sum().backward()
        assert all(p.grad is not None for p in model.vision_parameters() if p.ndim > 1)


def test_gradient_checkpointing_changes_no_gradient(internvl_folder: Path, qwen_folder: Path, picture: Picture) -> None:
    for kind, folder in ((InternVL, internvl_folder), (Qwen2_5_VL, qwen_folder)):
        gradients = []
        for checkpointing in (False, True):
            processor, model = kind(path=str(folder), gradient_checkpointing=checkpointing).load()
            batch = collate([processor.encode([picture(56, 56)], "How?", STEPS)], processor.pad_id)
            model.train().step_logits(batch).sum().backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        assert all(torch.allclose(value, gradients[1][name], atol=1e-5) for name, value in gradients[0].items())


def test_the_head_begins_as_the_rows_of_the_verdicts(backbone: Any) -> None:
    processor, model = backbone
    rows = [single_token(processor.tokenizer, word) for word in ("No", "Yes")]
    assert model.head.weight.equal(model.hf.lm_head.weight[rows])
    assert [processor.tokenizer.decode([row]) for row in rows] == ["No", "Yes"]


def test_the_row_of_the_mark_is_the_mean_of_all_rows(backbone: Any) -> None:
    processor, model = backbone
    table = model.hf.get_input_embeddings().weight
    assert processor.mark_id == len(table) - 1
    assert torch.allclose(table[-1], table[:-1].mean(0), atol=1e-7)
    assert model.hf.get_output_embeddings().weight.equal(table)


def test_a_mark_that_the_tokenizer_knows_keeps_its_row(backbone: Any) -> None:
    processor, model = backbone
    before = model.hf.get_input_embeddings().weight.clone()
    assert add_mark(processor.tokenizer, model.hf) == processor.mark_id
    assert model.hf.get_input_embeddings().weight.equal(before)


def test_untied_tables_both_get_a_row_and_spare_rows_are_used() -> None:
    tokenizer = tiny.build_tokenizer("internvl")
    known = len(tokenizer)
    embeddings, head = torch.nn.Embedding(known + 5, 3), torch.nn.Linear(3, known + 5)
    hf: Any = SimpleNamespace(get_input_embeddings=lambda: embeddings, get_output_embeddings=lambda: head)
    mark_id = add_mark(tokenizer, hf)
    assert mark_id == known
    for weight in (embeddings.weight, head.weight):
        assert len(weight) == known + 5
        assert torch.allclose(weight[mark_id], weight[:mark_id].mean(0))


def test_a_verdict_of_several_tokens_is_one_line(internvl_folder: Path) -> None:
    line = r"^verdict 'Definitely' is \d+ tokens for this tokenizer; give backbone\.yes and backbone\.no a word of one$"
    with pytest.raises(ValueError, match=line):
        InternVL(path=str(internvl_folder), yes="Definitely").load()


def test_pieces_are_encoded_with_a_mark_behind_each() -> None:
    tokenizer: PreTrainedTokenizerFast = tiny.build_tokenizer("qwen2_5_vl")
    ids, marks = encode_pieces(tokenizer, ["red is 4.", "\n\nblue"], 999)
    parts = [tokenizer.encode(text, add_special_tokens=False) for text in ("red is 4.", "\n\nblue")]
    assert ids == [*parts[0], 999, *parts[1], 999]
    assert [ids[mark] for mark in marks] == [999, 999]


def test_folders_are_checked_in_one_line(tmp_path: Path, internvl_folder: Path) -> None:
    assert check_folder(str(internvl_folder), "internvl") == internvl_folder
    with pytest.raises(
        ValueError, match=r"^backbone\.path is not set; give the folder of the downloaded internvl weights$"
    ):
        check_folder(None, "internvl")
    with pytest.raises(ValueError, match=rf"^backbone\.path={tmp_path} has no config\.json; give the folder"):
        check_folder(str(tmp_path), "internvl")
    line = r"^backbone\.path=.* holds model_type 'internvl', not 'qwen2_5_vl'; choose another backbone=$"
    with pytest.raises(ValueError, match=line):
        Qwen2_5_VL(path=str(internvl_folder)).load()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: InternVL(max_tiles=0), r"^backbone\.max_tiles=0 is not positive; the published recipe uses 6$"),
        (lambda: InternVL(dtype="float16"), r"^backbone\.dtype=float16 is unknown; use float32 or bfloat16$"),
        (lambda: Qwen2_5_VL(dtype="int8"), r"^backbone\.dtype=int8 is unknown"),
        (lambda: Qwen2_5_VL(min_pixels=0), r"^backbone\.min_pixels=0 is not in 1\.\.max_pixels=200704"),
        (lambda: Qwen2_5_VL(max_pixels=500), r"^backbone\.min_pixels=784 is not in 1\.\.max_pixels=500"),
    ],
)
def test_wrong_settings_are_one_line(make: Callable[[], object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
