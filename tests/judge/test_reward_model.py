"""The reward model of whole answers: its loss, its rows, that the company of an answer is not seen, and its training.

Shape suffixes: N pairs, B rows, L tokens of a padded row.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText

from mprm.batching.collate import collate
from mprm.batching.examples import open_images
from mprm.batching.order import Shuffled
from mprm.inference.scoring import ScoreRequest, Scoring, conversation
from mprm.judge.judge import PresentedPair
from mprm.judge.reward_model import AnswerPairs, BradleyTerry, bradley_terry_losses
from mprm.training.checkpoint import latest
from mprm.training.fit import fit
from mprm.training.lengths import measure_again
from mprm.training.recipe import Machine, Recipe, Schedule
from tests.clock import without_clock
from tests.encoding import normalised
from tests.judge.conftest import BACKBONE, WEIGHTS, Run, assert_same


def test_the_loss_and_its_gradient_by_hand() -> None:
    """exp(better - worse) of 3, 1 and 1/3: the better answer wins with probability 3/4, 1/2 and 1/4."""
    better_N = torch.tensor([math.log(3), 2.0, 0.0], requires_grad=True)
    worse_N = torch.tensor([0.0, 2.0, math.log(3)], requires_grad=True)
    losses_N = bradley_terry_losses(better_N, worse_N)
    assert losses_N.tolist() == pytest.approx([math.log(4 / 3), math.log(2), math.log(4)])
    losses_N.sum().backward()
    assert better_N.grad is not None
    assert worse_N.grad is not None
    assert better_N.grad.tolist() == pytest.approx([-1 / 4, -1 / 2, -3 / 4])
    assert worse_N.grad.tolist() == pytest.approx([1 / 4, 1 / 2, 3 / 4])


def test_a_pair_is_two_conversations_and_one_row(pairs: list[PresentedPair]) -> None:
    processor, _ = BACKBONE.load()
    pair = replace(pairs[1].pair, answer_a="It is <image> 4.", answer_b="It is 5 <|im_end|>.", label="b")
    examples = AnswerPairs([pairs[0], replace(pairs[1], pair=pair)], processor)
    chosen, rejected = row = examples.__getitems__([(1, 0.25)])
    for one, answer in ((chosen, pair.answer_b), (rejected, "It is [image] 4.")):
        text = processor.tokenizer.decode(one.input_ids)
        assert text.startswith("<|im_start|>user\n<img>")
        assert text.endswith(f"</img>\n{pair.prompt}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n")
        assert one.marks.tolist() == [len(one.input_ids) - 1]
        assert (one.weight, one.id) == (0.25, pair.id)
    batch = collate(row)
    assert len(batch.input_ids_T) == len(examples.layout(1).input_ids) < 0.7 * sum(len(one.input_ids) for one in row)
    assert len(batch.vision["pixel_values"]) == 1, "they share their picture"
    measured = measure_again(examples, {}, 0)
    assert measured.lengths.cost([0, 1]) == sum(len(examples.layout(number).input_ids) for number in (0, 1))


def test_an_answer_has_the_same_score_packed_alone_and_padded_in_transformers(pairs: list[PresentedPair]) -> None:
    processor, model = BACKBONE.load()
    shown = [one for one in pairs[:4] for _ in "ab"]
    answers = [answer for one in pairs[:4] for answer in (one.pair.answer_a, one.pair.answer_b)]
    requests = [
        ScoreRequest(str(number), [str(one.images[0])], one.pair.prompt, [answer])
        for number, (one, answer) in enumerate(zip(shown, answers, strict=True))
    ]

    def scores(max_tokens: int) -> list[float]:
        scoring = Scoring(model, processor, 512, max_tokens, "cpu")
        found: dict[str, Any] = dict(
            scoring.scores(requests, lambda names: open_images([Path(n) for n in names]), whole=True)
        )
        return [found[request.id].log_odds[0] for request in requests]

    packed, alone = scores(10_000), scores(1)
    assert len(set(packed)) == len(packed)
    assert packed == pytest.approx(alone, abs=1e-5)
    pictures = [open_images(one.images) for one in shown]
    examples = [
        conversation(processor, [image.size for image in images], request.question, request.steps[0])
        for images, request in zip(pictures, requests, strict=True)
    ]
    ids_BL = pad_sequence([one.input_ids for one in examples], batch_first=True)
    real_BL = pad_sequence([torch.ones_like(one.input_ids) for one in examples], batch_first=True)
    vision = processor.vision([image for images in pictures for image in images])
    hf = AutoModelForImageTextToText.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = hf(input_ids=ids_BL, attention_mask=real_BL, **normalised(processor, vision)).logits
    last = logits[torch.arange(len(examples)), real_BL.sum(-1) - 1]
    assert packed == pytest.approx((last[:, model.verdict_ids].diff()[:, 0]).tolist(), abs=1e-5)


Train = Callable[..., Run]


@pytest.fixture(scope="module")
def train(pairs: list[PresentedPair]) -> Train:
    """train(folder, mirror=..., max_tokens=...): one epoch over 10 pairs in steps of 8 and 2."""

    def train(folder: Path, mirror: Any = None, **machine: Any) -> Run:
        processor, model = BACKBONE.load()
        recipe = Recipe(learning_rate=1e-3, weight_decay=0.0, epochs=1, global_batch_size=8, warmup=0.0, eps=1e-3)
        schedule = Schedule(recipe, Machine(**{"checkpoint_every": 1} | machine), Shuffled(), seed=3)
        examples = measure_again(AnswerPairs(pairs[:10], processor), {}, 0)
        assert fit(BradleyTerry(model, schedule), examples, None, folder, mirror)["optimizer_steps"] == 2
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return folder, without_clock(lines)

    return train


@pytest.fixture(scope="module")
def whole(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("whole"))


def test_the_first_loss_is_the_mean_over_its_pairs(whole: Run, pairs: list[PresentedPair]) -> None:
    processor, model = BACKBONE.load()
    examples = AnswerPairs(pairs[:10], processor)
    order = Shuffled().epoch(measure_again(examples, {}, 0).lengths.question, examples.entropy, 3, 0)[:8]
    margins = []
    for position in order.tolist():
        with torch.inference_mode():
            better, worse = model(collate(examples.__getitems__([(position, 1.0)]))).logits_M2.diff()[:, 0].tolist()
        margins.append(better - worse)
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert whole[1][0]["train/loss"] == pytest.approx(sum(losses) / 8, abs=1e-5)
    assert whole[1][0]["train/accuracy"] == sum(margin > 0 for margin in margins) / 8
    names = load_file(whole[0] / "weights.safetensors").keys()
    assert "head.weight" in names
    assert "hf.lm_head.weight" not in names


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_how_a_step_is_cut_does_not_matter(train: Train, whole: Run, tmp_path: Path) -> None:
    """Two ranks, and on each of them forward passes of a pair or two, give what one pass over eight pairs gives."""
    assert_same(train(tmp_path, devices=2, strategy="ddp_cpu", max_tokens=150), whole, 1e-5)


def test_resumed_equals_uninterrupted_bit_for_bit(train: Train, whole: Run, tmp_path: Path) -> None:
    def stop(line: dict[str, float]) -> None:
        if line["step"] == 2:
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path, stop)
    assert latest(tmp_path / "checkpoints")[1] == 1
    assert_same(train(tmp_path), whole, 0)
