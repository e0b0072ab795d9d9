"""Qwen2.5-VL against stock transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

from mprm.backbones.qwen2_5_vl import SegmentedAttention, window_layout
from mprm.data.collate import Batch, collate

STEPS = ["red is 4.", "blue is 7.", "The answer is 11."]
SIZES = [[(140, 84)], [(56, 56), (84, 140), (30, 200)], [(170, 170)]]  # pixels, per row of the batch

Picture = Callable[[int, int], Image.Image]


@pytest.fixture(scope="module")
def batch(qwen: Any, picture: Picture) -> Batch:
    processor, _ = qwen
    rows = [
        processor.encode([picture(*size) for size in sizes], "What is red plus blue?" * number, STEPS[: number + 1])
        for number, sizes in enumerate(SIZES)
    ]
    return collate(rows, processor.pad_id)


@pytest.fixture(scope="module")
def stock(qwen: Any, qwen_folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    """The same weights in transformers' own classes."""
    processor, model = qwen
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen_folder)
    stock.resize_token_embeddings(processor.mark_id + 1, mean_resizing=False)
    stock.load_state_dict(model.hf.state_dict())
    return stock.eval()


def masks(batch: Batch, image_token_id: int, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    attention = torch.arange(batch.input_ids_BL.shape[1]) < torch.tensor(lengths)[:, None]
    return attention.long(), (batch.input_ids_BL == image_token_id).int()


def lengths(batch: Batch, closing_id: int) -> list[int]:
    """Rows end with <|im_end|>."""
    return [int((row == closing_id).nonzero()[-1]) + 1 for row in batch.input_ids_BL]


def test_step_logits_are_those_of_stock_transformers(
    qwen: Any, stock: Qwen2_5_VLForConditionalGeneration, batch: Batch
) -> None:
    processor, model = qwen
    assert type(model.hf.model.visual.blocks[0].attn) is SegmentedAttention
    assert type(stock.model.visual.blocks[0].attn) is Qwen2_5_VLVisionAttention
    attention, types = masks(batch, processor.image_id, lengths(batch, processor.closing_ids[0]))
    verdicts = [processor.tokenizer.convert_tokens_to_ids(word) for word in ("No", "Yes")]
    with torch.inference_mode():
        logits = stock(
            input_ids=batch.input_ids_BL, attention_mask=attention, mm_token_type_ids=types, **batch.vision
        ).logits
        ours = model.step_logits(batch)
    theirs = logits[batch.mark_row_M, batch.mark_column_M][:, verdicts]
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_positions_are_those_of_stock_transformers(
    qwen: Any, stock: Qwen2_5_VLForConditionalGeneration, batch: Batch
) -> None:
    processor, _ = qwen
    attention, types = masks(batch, processor.image_id, lengths(batch, processor.closing_ids[0]))
    positions, _ = stock.model.get_rope_index(
        batch.input_ids_BL, types, image_grid_thw=batch.vision["image_grid_thw"], attention_mask=attention
    )
    stated = attention.bool()
    assert torch.equal(batch.position_ids[:, stated], positions[:, stated])
    assert not torch.equal(batch.position_ids[0], batch.position_ids[1])


def test_windows_of_several_sizes_are_used(qwen: Any, batch: Batch) -> None:
    _, model = qwen
    visual = model.hf.model.visual
    layout = window_layout(batch.vision["image_grid_thw"].tolist(), visual, torch.device("cpu"))
    assert set(layout["cu_window_seqlens"].diff().tolist()) == {4, 8, 16}
    assert layout["cu_window_seqlens"][-1] == len(batch.vision["pixel_values"])
    n_tokens = len(batch.vision["pixel_values"]) // 4
    assert layout["window_index"].sort().values.equal(torch.arange(n_tokens))
    assert not layout["window_index"].equal(torch.arange(n_tokens))


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
            model.image_embeddings(processor.encode([image], "How?", STEPS).vision)
    hook.remove()
    changed = (outputs[0] - outputs[1]).abs().amax(-1) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == list(range(16))


def test_images_keep_their_shape_and_come_one_line_each(qwen: Any, picture: Picture) -> None:
    processor, _ = qwen
    example = processor.encode([picture(140, 84), picture(56, 56)], "Which?", STEPS)
    assert example.vision["image_grid_thw"].tolist() == [[1, 6, 10], [1, 4, 4]]
    lines = [f"<|vision_start|>{'<|image_pad|>' * n}<|vision_end|>\n" for n in (15, 4)]
    text = processor.tokenizer.decode(example.input_ids).partition("assistant\n")[2]
    assert text.startswith("".join([*lines, "Question: Which?"]))


def test_large_images_are_scaled_down_to_max_pixels(qwen: Any, picture: Picture) -> None:
    processor, _ = qwen
    _, rows, columns = processor.encode([picture(1000, 500)], "How?", STEPS).vision["image_grid_thw"][0].tolist()
    assert 0.9 * 200_704 < rows * columns * 14 * 14 <= 200_704
    assert 1.9 < columns / rows < 2.1
