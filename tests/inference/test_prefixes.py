"""What prompts share stands once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mprm.batching.collate import Example
from mprm.inference.decoding import Trunk
from mprm.inference.local import filled
from mprm.inference.policy import Prompt

STEPS = ("red is 4.", "blue is 7.", "red 4 + blue 7 = 11.")


def laid_out(tiny_policy: Any, charts: Any, chosen: list[tuple[int, tuple[str, ...]]]) -> list[Trunk]:
    """Sequences of prompts, each the number of a chart and its steps."""
    prompts = [Prompt("", tuple(map(Path, charts[n].images)), charts[n].question, steps, 1) for n, steps in chosen]
    return list(tiny_policy("internvl").sampler.trunks(prompts))


def test_prefixes_of_one_another_are_one_sequence(tiny_policy: Any, charts: Any) -> None:
    other = ("red is 4.", "blue is 8.")
    chosen = [(0, STEPS[:1]), (1, ()), (0, STEPS), (0, other), (0, ()), (0, STEPS), (0, STEPS[:2]), (1, STEPS)]
    found = laid_out(tiny_policy, charts, chosen)
    assert sorted(sorted(number for number, _ in one.prompts) for one in found) == [[0, 2, 4, 5, 6], [1, 7], [3]]
    assert [one.example.group for one in found] == [0, 0, 1]
    for one in found:
        lengths = dict(one.prompts)
        assert max(lengths.values()) == len(one.example.input_ids) == len(one.example.marks)
    of_first = {number: length for one in found for number, length in one.prompts}
    assert of_first[4] < of_first[0] < of_first[6] < of_first[2] == of_first[5]
    assert of_first[4] == found[0].shared


def test_step_by_step_is_the_text_as_it_was_learnt(tiny_policy: Any, charts: Any) -> None:
    processor = tiny_policy("internvl").sampler.processor
    [one] = laid_out(tiny_policy, charts, [(0, STEPS)])
    behind = one.example.input_ids[one.shared :].tolist()
    assert behind == processor.tokenizer.encode("\n".join(STEPS) + "\n", add_special_tokens=False)
    assert one.example.position_ids.tolist() == list(range(len(one.example.input_ids)))


def test_text_that_looks_like_tokens_is_text(tiny_policy: Any, charts: Any) -> None:
    processor = tiny_policy("internvl").sampler.processor
    [one] = laid_out(tiny_policy, charts, [(0, ("<|im_end|><IMG_CONTEXT> <image> <prm>",))])
    special = set(processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<IMG_CONTEXT>", "<prm>"]))
    behind = one.example.input_ids[one.shared :].tolist()
    assert not special & set(behind)
    assert processor.tokenizer.decode(behind) == "<|im_end|><IMG_CONTEXT> [image] [prm]\n"


def test_an_unreadable_image_is_one_line(tiny_policy: Any) -> None:
    with pytest.raises(ValueError, match=r"\Aimage nowhere.png cannot be read .*\Z"):
        list(tiny_policy("internvl").sampler.trunks([Prompt("", (Path("nowhere.png"),), "Which?", (), 1)]))


def of_length(length: int, shared: int, group: int) -> Trunk:
    tokens = torch.zeros(length, dtype=torch.int64)
    return Trunk(Example(tokens, tokens, tokens, {}, group=group), shared, [])


@pytest.mark.parametrize(
    ("max_tokens", "rows"),
    [
        (1, [[0], [1], [2], [3]]),
        (15, [[0, 1], [2], [3]]),  # 10 and 4 behind the shared 6; 8 and 9 are too many
        (16, [[0, 1, 2], [3]]),
        (24, [[0, 1, 2], [3]]),
        (25, [[0, 1, 2, 3]]),
    ],
)
def test_rows_are_filled_with_what_is_not_shared(max_tokens: int, rows: list[list[int]]) -> None:
    everything = [of_length(10, 6, 0), of_length(10, 6, 0), of_length(8, 6, 0), of_length(9, 5, 1)]
    found = [
        [[id(other) for other in everything].index(id(one)) for one in row] for row in filled(everything, max_tokens)
    ]
    assert found == rows


def test_a_new_row_holds_the_shared_tokens_anew() -> None:
    """10 + 4 fill a row; the third costs 10 again, not 4."""
    everything = [of_length(10, 6, 0) for _ in range(4)]
    assert [len(row) for row in filled(everything, 14)] == [2, 2]
    assert [len(row) for row in filled(everything, 13)] == [1, 1, 1, 1]
