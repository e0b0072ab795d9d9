"""Qwen2.5-VL against stock transformers."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

from mprm.backbones.qwen import SegmentedAttention
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL, window_layout
from mprm.batching.collate import Batch, Example, collate
from tests.encoding import encode, normalised

STEPS = ["red is 4.", "blue is 7.", "The answer is 11."]
SIZES = [[(140, 84)], [(56, 56), (84, 140), (30, 200)], [(170, 170)]]  # pixels, per solution

Picture = Callable[[int, int], Image.Image]


@pytest.fixture(scope="module")
def examples(qwen: Any, picture: Picture) -> list[Example]:
    processor, _ = qwen
    return [
        encode(processor, [picture(*size) for size in sizes], "What is red plus blue?" * number, STEPS[: number + 1])
        for number, sizes in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def batch(examples: list[Example]) -> Batch:
    return collate(examples)


def test_step_logits_are_those_of_stock_transformers(
    qwen: Any, component: Any, stock: Any, examples: list[Example], batch: Batch
) -> None:
    _, model = qwen
    theirs = stock(model, component("qwen2_5_vl"))
    assert type(model.hf.model.visual.blocks[0].attn) is SegmentedAttention
    assert type(theirs.hf.model.visual.blocks[0].attn) is Qwen2_5_VLVisionAttention
    with torch.inference_mode():
        ours, expected = model(batch).logits_M2, theirs.logits(examples)
    assert expected.std() > 0.05
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)


def test_the_head_is_that_of_the_stock_language_model(
    qwen: Any, component: Any, stock: Any, examples: list[Example]
) -> None:
    """Logits of the verdicts out of the whole model, head included, as a user of transformers would call it."""
    processor, model = qwen
    example = examples[1]
    verdicts = [processor.tokenizer.convert_tokens_to_ids(word) for word in ("No", "Yes")]
    hf = stock(model, component("qwen2_5_vl")).hf
    ids_1L = example.input_ids[None]
    with torch.inference_mode():
        vision = normalised(processor, example.vision)
        logits = hf(input_ids=ids_1L, mm_token_type_ids=(ids_1L == processor.image_id).int(), **vision).logits
        ours = model(collate([example])).logits_M2
    torch.testing.assert_close(ours, logits[0, example.marks][:, verdicts], atol=2e-5, rtol=1e-5)


def test_positions_are_those_of_stock_transformers(
    qwen: Any, component: Any, stock: Any, examples: list[Example]
) -> None:
    processor, model = qwen
    hf = stock(model, component("qwen2_5_vl")).hf
    for example in examples:
        ids_1L = example.input_ids[None]
        types = (ids_1L == processor.image_id).int()
        positions, _ = hf.model.get_rope_index(ids_1L, types, image_grid_thw=example.vision["image_grid_thw"])
        assert torch.equal(example.position_ids, positions[:, 0])
        assert not torch.equal(example.position_ids[0], example.position_ids[1])


@pytest.mark.parametrize("sizes", [[(56, 56)], [(300, 100), (100, 300)], [(640, 480)] * 3, [(57, 900)], [(3, 5)]])
def test_a_layout_has_a_token_for_every_feature(qwen: Any, picture: Picture, sizes: list[tuple[int, int]]) -> None:
    processor, model = qwen
    example = encode(processor, [picture(*size) for size in sizes], "Which?", STEPS)
    assert example.input_ids.equal(processor.layout(sizes, "Which?", STEPS).input_ids)
    n_tokens = int((example.input_ids == processor.image_id).sum())
    assert n_tokens == int(example.vision["image_grid_thw"].prod(-1).sum()) // 4
    assert len(model.image_embeddings(model.pixels(example.vision))) == n_tokens


def test_windows_of_several_sizes_are_used(qwen: Any, batch: Batch) -> None:
    _, model = qwen
    visual = model.hf.model.visual
    layout = window_layout(batch.vision["image_grid_thw"], visual, torch.device("cpu"))
    assert set(layout["cu_window_seqlens"].diff().tolist()) == {4, 8, 16}
    assert layout["cu_window_seqlens"][-1] == len(batch.vision["pixel_values"])
    n_tokens = len(batch.vision["pixel_values"]) // 4
    assert layout["window_index"].sort().values.equal(torch.arange(n_tokens))
    assert not layout["window_index"].equal(torch.arange(n_tokens))


def test_the_patch_embedding_is_the_convolution(qwen: Any, batch: Batch) -> None:
    proj = deepcopy(qwen[1].hf.model.visual.patch_embed.proj).double()
    patches = batch.vision["pixel_values"].double().view(-1, *proj.weight.shape[1:])
    torch.testing.assert_close(proj(patches), torch.nn.Conv3d.forward(proj, patches).flatten(1))


def test_window_attention_is_really_local(qwen: Any, picture: Picture) -> None:
    """In the first block a changed patch is felt inside its window only."""
    processor, model = qwen
    visual = model.hf.model.visual
    pictures = [picture(112, 112), picture(112, 112)]
    pictures[1].paste((0, 0, 0), (0, 0, 14, 14))
    outputs: list[torch.Tensor] = []
    hook = visual.blocks[0].register_forward_hook(lambda *call: outputs.append(call[2]))
    for image in pictures:
        with torch.inference_mode():
            model.image_embeddings(model.pixels(encode(processor, [image], "How?", STEPS).vision))
    hook.remove()
    changed = (outputs[0] - outputs[1]).abs().amax(-1) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == list(range(16))


def test_images_keep_their_shape_and_come_one_line_each(qwen: Any, picture: Picture) -> None:
    processor, _ = qwen
    example = encode(processor, [picture(140, 84), picture(56, 56)], "Which?", STEPS)
    assert example.vision["image_grid_thw"].tolist() == [[1, 6, 10], [1, 4, 4]]
    lines = [f"<|vision_start|>{'<|image_pad|>' * n}<|vision_end|>\n" for n in (15, 4)]
    text = processor.tokenizer.decode(example.input_ids).partition("assistant\n")[2]
    assert text.startswith("".join([*lines, "Question: Which?"]))


def test_large_images_are_scaled_down_to_max_pixels(qwen: Any, picture: Picture) -> None:
    processor, _ = qwen
    _, rows, columns = encode(processor, [picture(1000, 500)], "How?", STEPS).vision["image_grid_thw"][0].tolist()
    assert 0.9 * 200_704 < rows * columns * 14 * 14 <= 200_704
    assert 1.9 < columns / rows < 2.1


def test_the_projector_runs_once_and_in_its_own_type(qwen_folder: Path, picture: Picture) -> None:
    component = Qwen2_5_VL(path=str(qwen_folder), dtype="bfloat16", vision="trained", projector="frozen")
    processor, model = component.load()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as a training without DeepSpeed does
    calls: list[torch.dtype] = []
    hook = model.hf.model.visual.merger.mlp.register_forward_hook(lambda *call: calls.append(call[2].dtype))
    model(collate([encode(processor, [picture(56, 56)], "How?", STEPS)])).logits_M2.sum().backward()
    hook.remove()
    assert calls == [torch.bfloat16]
