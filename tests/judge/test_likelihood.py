"""The likelihood of responses and its gradient, against transformers; what of a model is trained as a judge.

Shape suffixes: M tokens of all responses, R tokens of a response, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mprm.backbones.internvl import InternVL
from mprm.batching.collate import Example
from mprm.batching.examples import open_images
from mprm.inference.scoring import answered
from mprm.judge import sft
from mprm.judge.judge import JudgeSettings, PresentedPair
from mprm.judge.sft import collate_responses, log_likelihood
from mprm.training.checkpoint import load_weights, save_weights

ORIGINAL = Path(__file__).parents[1] / "oracle_data" / "internvl" / "checkpoint"  # its LM head is a table of its own
WORDS = ("The A.", "The B.", "The answer is B.", "The A.", "Again: red is 4. B", "The", "")
OF_PAIR = (1, 1, 1, 3, 0, 3, 1)  # the pair that each of these answers


@pytest.fixture
def responses(pairs: list[PresentedPair], loaded: Any) -> list[tuple[PresentedPair, list[int]]]:
    """To three pairs, one of them long: some begin alike, one is a part of another, one ends at once."""
    tokenizer = loaded[0].tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return [(pairs[pair], [*tokenizer.encode(words), end]) for pair, words in zip(OF_PAIR, WORDS, strict=True)]


@pytest.fixture
def examples(responses: list[tuple[PresentedPair, list[int]]], loaded: Any, judge: JudgeSettings) -> list[Example]:
    processor, _ = loaded
    made = []
    for (one, ids), group in zip(responses, OF_PAIR, strict=True):
        images = open_images(one.images)
        asked = processor.ask([image.size for image in images], one.text, judge.instruction)
        made.append(answered(replace(asked, vision=processor.vision(images), group=group), ids))
    return made


@pytest.fixture
def expected(
    responses: list[tuple[PresentedPair, list[int]]], loaded: Any, stock_logits: Callable[..., torch.Tensor]
) -> Callable[[float], torch.Tensor]:
    """expected(temperature): (M,) log-probabilities among all tokens but the image's, from separate passes."""

    def expected(temperature: float) -> torch.Tensor:
        logp = []
        for one, ids in responses:
            logits_RV = stock_logits(one, ids) / temperature
            image = torch.arange(logits_RV.shape[-1]) == loaded[1].hf.config.image_token_id
            logp_RV = logits_RV.masked_fill(image, -torch.inf).log_softmax(-1)
            logp.append(logp_RV[torch.arange(len(ids)), torch.tensor(ids)])
        return torch.cat(logp)

    return expected


@pytest.mark.parametrize(("temperature", "chunk"), [(1.0, 1024), (1.5, 5)])
@torch.no_grad()
def test_it_is_the_log_softmax_of_transformers_in_whatever_company(
    temperature: float, chunk: int, examples: list[Example], expected: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "CHUNK", chunk)
    _, model = loaded
    expected_M = expected(temperature)
    together = collate_responses(examples)
    assert len(together.row.input_ids_T) < sum(len(example.input_ids) for example in examples) * 0.7
    found_M = log_likelihood(model, together, temperature)
    assert found_M.dtype == torch.float32
    torch.testing.assert_close(found_M, expected_M, atol=1e-5, rtol=0)
    alone_M = torch.cat([log_likelihood(model, collate_responses([example]), temperature) for example in examples])
    torch.testing.assert_close(alone_M, expected_M, atol=1e-5, rtol=0)
    apart = collate_responses([replace(example, group=None) for example in reversed(examples)])
    backwards_M = torch.cat(log_likelihood(model, apart, temperature).split(apart.row.n_marks)[::-1])
    torch.testing.assert_close(backwards_M, expected_M, atol=1e-5, rtol=0)


def test_its_gradient_is_that_of_separate_passes_in_transformers(
    examples: list[Example], expected: Any, taught: Any, stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "CHUNK", 5)
    _, model = taught.load()
    weight_M = torch.randn(sum(len(example.marks) for example in examples), generator=torch.Generator().manual_seed(0))
    weight_M = weight_M / len(weight_M)
    (log_likelihood(model.train(), collate_responses(examples), 1.5) * weight_M).sum().backward()
    (expected(1.5) * weight_M).sum().backward()
    gradients = {f"hf.{name}": parameter.grad for name, parameter in stock.named_parameters()}
    stock.zero_grad()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"hf.model.language_model.embed_tokens.weight", "hf.model.multi_modal_projector.linear_1.weight"} < {
        *trained
    }
    for name, gradient in trained.items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in trained.values() if gradient is not None) > 0.01


def test_what_can_not_be_written_has_no_share(
    pairs: list[PresentedPair], with_bias: Callable[..., Any], judge: JudgeSettings
) -> None:
    """Of 1/2 for a piece of an image, 3/10 and 1/5, 3/5 and 2/5 are left; at temperature 2 they go as their roots."""
    shares = {"<IMG_CONTEXT>": 0.5, "A": 0.3, "<|im_end|>": 0.2}
    processor, model = with_bias({token: math.log(share) for token, share in shares.items()})
    images = open_images(pairs[1].images)
    asked = processor.ask([image.size for image in images], pairs[1].text, judge.instruction)
    ids = processor.tokenizer.convert_tokens_to_ids(["A", "<|im_end|>"])
    row = collate_responses([answered(replace(asked, vision=processor.vision(images)), ids)])
    assert row.token_M.tolist() == ids
    assert row.row.mark_M.tolist() == [len(asked.input_ids) - 1, len(asked.input_ids)]
    with torch.no_grad():
        assert log_likelihood(model, row).exp().tolist() == pytest.approx([0.6, 0.4], abs=1e-6)
        total = math.sqrt(0.3) + math.sqrt(0.2)
        roots = [math.sqrt(0.3) / total, math.sqrt(0.2) / total]
        assert log_likelihood(model, row, 2.0).exp().tolist() == pytest.approx(roots, abs=1e-6)


@pytest.mark.parametrize("language_model", ["trained", "lora", "frozen"])
def test_a_judge_trains_what_writes_and_nothing_that_scores_steps(language_model: str, tmp_path: Path) -> None:
    """The LM head with the language model, also where it is a table of its own; what is saved is found again."""
    torch.manual_seed(0)
    backbone = InternVL(path=str(ORIGINAL), max_length=2048, max_tiles=1, language_model=language_model)
    processor, model = backbone.load()
    model.set_kappa(True)
    model.train_generation()
    head = model.hf.lm_head.weight
    assert head is not model.hf.get_input_embeddings().weight
    picture = Image.new("RGB", (56, 56), "red")
    asked = replace(processor.ask([picture.size], "Red?"), vision=processor.vision([picture]))
    row = collate_responses([answered(asked, processor.tokenizer.encode("Yes", add_special_tokens=False))])
    before_M = log_likelihood(model.train(), row)
    before_M.sum().backward()
    assert (head.grad is not None) == (language_model == "trained")
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in moved if name == "mark_D" or name.startswith(("head.", "kappa."))]
    assert {"lora": "lora_", "trained": "q_proj"}.get(language_model, "multi_modal") in "".join(moved)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
        after_M = log_likelihood(model, row)
    assert (after_M - before_M).abs().max() > 0.01
    save_weights(model, tmp_path / "weights.safetensors")
    _, again = backbone.load()
    again.train_generation()
    load_weights(again, tmp_path / "weights.safetensors")
    assert log_likelihood(again, row).equal(after_M)
