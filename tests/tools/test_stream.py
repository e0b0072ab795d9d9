"""Pretraining batches: what stands in the input, what is learnt, and how images are laid out."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.chartworld.world import COLOURS, PARTS, Problems, draw, part_of
from tests.encoding import normalised
from tools import tiny
from tools.stream import CLAIM, IGNORE, MAX_TOKENS, Stream, position_ids, vision_inputs

FAMILIES = pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The real processors of the tiny backbones."""
    folders = {family: tmp_path_factory.mktemp(family) for family in ("internvl", "qwen2_5_vl")}
    for family, folder in folders.items():
        tiny.build(family, folder)
    return {
        "internvl": InternVL(path=str(folders["internvl"])).load()[0],
        "qwen2_5_vl": Qwen2_5_VL(path=str(folders["qwen2_5_vl"])).load()[0],
    }


def stream(family: str, seed: int = 0, batch_size: int = 32, colours: int = 0, readings: int = 0) -> Stream:
    return Stream(tiny.build_tokenizer(family), family, batch_size, seed, 10, colours, readings)


@FAMILIES
def test_a_batch_is_a_function_of_seed_and_step(family: str) -> None:
    first, other = stream(family), stream(family, seed=1)
    assert len(first) == 10
    other_step = first[4]
    batch = first[3]
    assert all(torch.equal(a, b) for a, b in zip(batch, stream(family)[3], strict=True))
    assert not torch.equal(batch[0], other_step[0])
    assert not torch.equal(batch[0], other[3][0])
    assert [tuple(tensor.shape) for tensor in batch] == [(32, MAX_TOKENS), (32, MAX_TOKENS), (32, 56, 56, 3)]


def readings_of(source: Stream, step: int) -> list[tuple[str, str]]:
    """Per row: what is read, and what of it is learnt."""
    tokens, targets, _ = source[step]
    decoded = []
    for row in range(len(tokens)):
        text = source.tokenizer.decode(tokens[row][tokens[row] != source.tokenizer.pad_token_id])
        learnt = (targets[row] != IGNORE).nonzero()[:, 0]
        assert torch.equal(targets[row, learnt], tokens[row, learnt + 1])
        decoded.append((text.split("<|im_start|>assistant\n")[1], source.tokenizer.decode(targets[row, learnt])))
    return decoded


@FAMILIES
def test_colours_are_learnt_first_then_readings(family: str) -> None:
    source = stream(family, colours=2, readings=4)
    for step, row in ((0, 0), (1, 31)):  # from left to right in all rows
        text, learnt = readings_of(source, step)[row]
        assert learnt == "".join(line.split(" is ")[0] for line in text.splitlines())
    both, by_colour = readings_of(source, 2)[0], readings_of(source, 3)[31]
    assert both[1] == "".join(line.removesuffix(".").replace(" is", "") for line in both[0].splitlines())
    assert by_colour[1] == "".join(line.removesuffix(".").split(" is")[1] for line in by_colour[0].splitlines())
    assert "The answer is" in source.tokenizer.decode(source[4][0][0])
    pixels, text = source[0][2][0], readings_of(source, 0)[0][0]
    for bar, line in enumerate(text.splitlines()):
        name, height = line.removesuffix(".").split(" is ")
        assert tuple(pixels[-1, 14 * bar + 7].tolist()) == COLOURS[name]
        assert (pixels[:, 14 * bar + 7] != 255).any(-1).sum() == 7 * int(height)


def test_only_charts_of_pretrainings_part_are_shown() -> None:
    """Read from the pixels of colours, readings, solutions and claims."""
    source = stream("internvl", colours=1, readings=2)
    images_PHWC = torch.cat([source[step][2] for step in range(3)]).numpy()
    bars_PHBC = images_PHWC[:, :, 7::14]
    palette = np.array(list(COLOURS.values()))
    is_colour_PBN = (bars_PHBC[:, -1, :, None] == palette).all(-1)
    colour_PB = np.where(is_colour_PBN.any(-1), is_colour_PBN.argmax(-1), -1)
    height_PB = (bars_PHBC != 255).any(-1).sum(1) // 7
    shown = Problems(np.zeros(len(images_PHWC)), colour_PB, height_PB, colour_PB, colour_PB)
    assert {PARTS[part] for part in part_of(shown)} == {"pretraining"}
    assert (draw(shown) == images_PHWC).all()


@FAMILIES
def test_solutions_are_learnt_token_by_token(family: str) -> None:
    source = stream(family)
    tokens, targets, _ = source[0]
    for row in range(16):
        learnt = (targets[row] != IGNORE).nonzero()[:, 0]
        assert learnt.tolist() == list(range(int(learnt[0]), int(learnt[-1]) + 1))
        assert torch.equal(targets[row, learnt], tokens[row, learnt + 1])
        text = source.tokenizer.decode(targets[row, learnt])
        assert text.endswith(".\n<|im_end|>")
        assert "The answer is " in text
        assert CLAIM not in text
        assert source.tokenizer.decode(tokens[row, : learnt[0] + 1]).endswith("<|im_end|>\n<|im_start|>assistant\n")


@FAMILIES
def test_verdicts_are_targets_and_never_stand_in_the_input(family: str) -> None:
    source = stream(family, batch_size=128)
    tokens, targets, _ = source[0]
    verdicts = torch.tensor([source.ids(word)[0] for word in ("No", "Yes")])
    assert not torch.isin(tokens, verdicts).any()
    claims = targets[64:] != IGNORE
    assert torch.isin(targets[64:][claims], verdicts).all()
    assert set(targets[64:][claims].tolist()) == set(verdicts.tolist())
    assert (tokens[64:][claims] == source.ids(CLAIM)[-1]).all()  # each is asked for behind a line
    assert not torch.isin(targets[:64], verdicts).any()


@FAMILIES
def test_images_are_exactly_what_the_processor_makes_of_them(family: str, processors: dict[str, Any]) -> None:
    _, _, images = stream(family)[0]
    ours = vision_inputs(images, family)
    processor = processors[family]
    theirs = [normalised(processor, processor.vision([Image.fromarray(i.numpy())])) for i in images]
    assert ours.keys() == theirs[0].keys()
    for name, value in ours.items():
        together = torch.cat([vision[name] for vision in theirs])
        assert value.shape == together.shape
        torch.testing.assert_close(value, together, atol=1e-6, rtol=0)


@FAMILIES
def test_positions_are_those_of_the_processor(family: str, processors: dict[str, Any]) -> None:
    processor = processors[family]
    _, _, images = stream(family)[0]
    sizes = [images[0].shape[1::-1]]
    examples = [processor.layout(sizes, "How?", ["red is 4.", "blue is 7."]), processor.ask(sizes, "How?")]
    context = processor.tokenizer.convert_tokens_to_ids(tiny.IMAGE_TOKENS[family][1])
    starts = [int((example.input_ids == context).nonzero()[0]) for example in examples]
    assert starts[0] != starts[1]
    length = max(len(example.input_ids) for example in examples)
    positions = position_ids(family, torch.tensor(starts), length)
    for row, example in enumerate(examples):
        assert torch.equal(positions[..., row, : len(example.input_ids)], example.position_ids)


@FAMILIES
def test_claims_stand_in_either_turn_with_and_without_the_words_of_the_prm_prompt(
    family: str, processors: dict[str, Any]
) -> None:
    source = stream(family, batch_size=256)
    tokens, _, _ = source[0]
    texts = [source.tokenizer.decode(row[row != source.tokenizer.pad_token_id]) for row in tokens]
    kinds = ("Is each line right?", "Question: ", "\n\n", "<|im_start|>user\n<|im_end|>")
    assert not any(kind in text for text in texts[:128] for kind in kinds)
    seen = {tuple(kind in text for kind in kinds) for text in texts[128:]}
    assert len(seen) == 16
    # But for the mark and the end, such a row is what a step scorer reads.
    like_a_prompt = [
        text.endswith("<|im_end|>") and [k in text for k in kinds] == [False, True, True, True] for text in texts
    ]
    row = like_a_prompt.index(True)
    question, solution = texts[row].split("Question: ")[1].split("\nProcess: ")
    steps = [step.removesuffix(CLAIM) for step in solution.removesuffix("\n<|im_end|>").split("\n\n")]
    processor = processors[family]
    prompt = processor.layout([(56, 56)], question, steps).input_ids.tolist()
    prompt = prompt[: len(prompt) - prompt[::-1].index(processor.mark_id)]
    asked = [token for id in prompt for token in (source.ids(CLAIM) if id == processor.mark_id else [id])]
    assert tokens[row, : len(asked)].tolist() == asked
