"""The bar of exactness: a packed row with shared prefixes gives the scores and gradients of separate solutions.

Compared in float32: solutions in one row that share their question's prefix, the same without sharing, one by one, and
transformers' own classes on a padded batch. Every question has several images, or none for a language model; solutions
have different lengths, and some share whole steps with their marks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.language_model import TextProcessor
from mprm.backbones.loading import ChatBackbone
from mprm.batching.collate import Batch, Example, collate
from mprm.batching.examples import BLANK
from tests.encoding import encode

QUESTIONS = [
    (
        "What is red plus blue?",
        [(56, 56), (170, 90), (40, 100)],
        [
            ["red is 4.", "blue is 7.", "red 4 + blue 7 = 11.", "The answer is 11."],
            ["red is 4.", "blue is 8.", "The answer is 12."],
            ["red is 4."],
            ["red is 4.", "blue is 7.", "red 4 + blue 7 = 11.", "The answer is 11."],
        ],
    ),
    ("Which?", [(140, 84)], [["black is 3."]]),
    ("How much taller is black than orange?", [(112, 56), (60, 120)], [["black is 8.", "So 5."], ["I look."]]),
]
OPTIONS = {
    "plain": {},
    "checkpointing": {"checkpoint_layers": 1.0},
    "lora": {"language_model": "lora", "vision": "lora", "lora_rank": 3},
    "lora, checkpointing": {"language_model": "lora", "checkpoint_layers": 0.5},
    "vision": {"vision": "trained"},
    "grouped": {"grouped": True},
    "grouped, vision, checkpointing": {"grouped": True, "vision": "trained", "checkpoint_layers": 1.0},
}

Picture = Callable[[int, int], Image.Image]
Logits = Callable[[], torch.Tensor]


def encoded(processor: ChatProcessor, picture: Picture) -> list[Example]:
    """Solutions of all questions, in turn."""
    examples = [
        replace(encode(processor, seen(processor, picture, sizes), question, steps), group=number, id=question)
        for number, (question, sizes, solutions) in enumerate(QUESTIONS)
        for steps in solutions
    ]
    return examples[::2] + examples[1::2]


def stir_adapters(model: ChatModel) -> None:
    """Their second matrices start at zero, and so would the gradients of the first."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def seen(processor: ChatProcessor, picture: Picture, sizes: list[tuple[int, int]]) -> list[Image.Image]:
    return [] if isinstance(processor, TextProcessor) else [picture(*size) for size in sizes]


def gradients(model: ChatModel, logits: Logits) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    logits_M2 = logits()
    loss(logits_M2).backward()
    return logits_M2.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def loss(logits_M2: torch.Tensor) -> torch.Tensor:
    """The soft loss at scores that differ from mark to mark."""
    target_M = torch.linspace(0, 1, len(logits_M2))
    return torch.nn.functional.cross_entropy(logits_M2, torch.stack([1 - target_M, target_M], dim=1), reduction="sum")


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5, floor: float = 0.0) -> None:
    (logits_M2, ours), (expected_M2, theirs) = found, expected
    assert (logits_M2.softmax(-1) - expected_M2.softmax(-1)).abs().max() < tolerance
    for name, gradient in ours.items():
        largest = theirs[name].abs().max()
        if "vision" in name and name.endswith("k_proj.bias"):
            # Without rotation it adds the same to all logits of a query: its gradient is rounding.
            assert max(largest, gradient.abs().max()) < 1e-5, name
            continue
        assert largest > 1e-6, name
        # floor: what sums to nearly nothing keeps the rounding of what was summed.
        assert (gradient - theirs[name]).abs().max() <= tolerance * max(largest, floor), name


@pytest.fixture(params=["internvl", "qwen2_5_vl", "qwen2"])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_scores_and_gradients_are_those_of_separate_solutions(
    family: str, options: dict[str, Any], component: Any, stock: Any, picture: Any
) -> None:
    loaded: ChatBackbone = component(family, **options)
    torch.manual_seed(1)
    processor, model = loaded.load()
    stir_adapters(model)
    model.train()
    examples = encoded(processor, picture)
    alone = [replace(example, group=None) for example in examples]
    shared, separate = collate(examples), collate(alone)
    assert len(shared.input_ids_T) < 0.6 * len(separate.input_ids_T)

    theirs = stock(model, loaded)
    expected_M2 = theirs.logits(alone)
    loss(expected_M2).backward()
    expected = expected_M2.detach(), theirs.gradients()
    assert expected_M2.std() > 0.05

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    together = gradients(model, lambda: model(shared).logits_M2)
    assert together[1].keys() == trained
    assert_same(together, expected)
    apart = gradients(model, lambda: model(separate).logits_M2)
    assert_same(apart, expected)
    one_by_one = gradients(model, lambda: torch.cat([model(collate([example])).logits_M2 for example in alone]))
    assert_same(one_by_one, expected)
    assert_same(together, one_by_one)


@pytest.fixture(params=["internvl", "qwen2_5_vl"])
def sighted(request: pytest.FixtureRequest, component: Any) -> tuple[ChatProcessor, ChatModel, ChatBackbone]:
    loaded: ChatBackbone = component(request.param)
    return *loaded.load(), loaded


def test_questions_without_images_among_others(sighted: Any, stock: Any, picture: Any) -> None:
    processor, model, loaded = sighted
    bare = [
        replace(encode(processor, [], "What is 2 + 3?", steps), group=9) for steps in (["5."], ["2 + 3 = 6.", "6."])
    ]
    examples = [bare[0], *encoded(processor, picture)[:4], bare[1]]
    found = gradients(model.train(), lambda: model(collate(examples)).logits_M2)
    theirs = stock(model, loaded)
    expected_M2 = torch.cat([theirs.logits([replace(example, group=None)]) for example in examples])
    loss(expected_M2).backward()
    assert_same(found, (expected_M2.detach(), theirs.gradients()))


def test_a_blank_image_is_seen_by_nobody_and_gives_no_gradient(sighted: Any) -> None:
    processor, model, _ = sighted
    example = encode(processor, [], "What is 2 + 3?", ["5.", "The answer is 5."])
    blank = replace(example, vision=processor.vision([BLANK]))
    logits_M2, alone = gradients(model.train(), lambda: model(collate([example])).logits_M2)
    again_M2, beside = gradients(model, lambda: model(collate([blank])).logits_M2)
    assert again_M2.equal(logits_M2)
    seeing = beside.keys() - alone.keys()
    assert seeing == {name for name, p in model.named_parameters() if p.requires_grad} - alone.keys() != set()
    assert all(not beside[name].any() for name in seeing)


def test_order_and_company_do_not_matter(family: str, component: Any, picture: Any) -> None:
    processor, model = component(family).load()
    examples = encoded(processor, picture)

    def scores(chosen: Sequence[int]) -> dict[int, torch.Tensor]:
        with torch.inference_mode():
            batch = collate([examples[number] for number in chosen])
            parts = model.eval()(batch).logits_M2.softmax(-1)[:, 1].split(batch.n_marks)
        return dict(zip(chosen, parts, strict=True))

    everything = scores(range(len(examples)))
    for chosen in ([6, 5, 4, 3, 2, 1, 0], [3, 0], [2, 5, 6], [4]):
        for number, yes in scores(chosen).items():
            assert (yes - everything[number]).abs().max() < 1e-6


def test_solutions_do_not_see_each_other(family: str, component: Any, picture: Any) -> None:
    """Another last step of one solution changes its own last score alone, to the last bit."""
    processor, model = component(family).load()
    question, sizes, solutions = QUESTIONS[0]
    images = seen(processor, picture, sizes)

    def batch(last: str) -> Batch:
        first, second = [*solutions[0][:3], last], solutions[1]
        return collate([replace(encode(processor, images, question, s), group=1) for s in (first, second)])

    with torch.inference_mode():
        one, two = (model.eval()(batch(last)).logits_M2 for last in ("The answer is 11.", "The answer is 12."))
    changed = (one != two).any(-1)
    assert changed.tolist() == [False, False, False, True, False, False, False]


def test_positions_start_anew(component: Any, picture: Any) -> None:
    """M-RoPE: every solution goes on from its question's prefix, every question from zero."""
    processor, _ = component("qwen2_5_vl").load()
    examples = encoded(processor, picture)
    batch = collate(examples)
    assert batch.position_ids.shape == (3, len(batch.input_ids_T))
    key = batch.segments.key
    assert key is not None
    seen = key.split(batch.segments.key_border.diff().tolist())
    starts = [int(batch.position_ids[0, places[0]]) for places in seen]
    assert starts == [0] * len(seen)
    for example, mark in zip(examples, batch.mark_M.split(batch.n_marks), strict=True):
        segment = int((batch.segments.query_border <= mark[-1]).nonzero()[-1])
        places = seen[segment][: len(example.input_ids)]
        assert batch.position_ids[:, places].equal(example.position_ids[:, : len(places)])
