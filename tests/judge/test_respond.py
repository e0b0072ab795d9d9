"""A judge's responses: their entropies against transformers, and what a kill leaves of them.

Shape suffixes: R tokens of a response, V vocabulary.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mprm.inference.local import Generation, Sampler
from mprm.inference.policy import Completion, Prompt
from mprm.judge.judge import JudgeSettings, PresentedPair, present, respond
from mprm.runs.journal import journal

END = "<|im_end|>"
Logits = Callable[[PresentedPair, list[int]], torch.Tensor]


def by_definition(logits: Logits, one: PresentedPair, generation: Generation, end: int) -> float:
    """The mean over the tokens of a response, the ending one included, of the entropy of what each was drawn from."""
    logp_RV = logits(one, [*generation.ids, *([end] if generation.finished else [])]).double().log_softmax(-1)
    return -(logp_RV.exp() * logp_RV).sum(-1).mean().item()


@pytest.mark.parametrize("temperature", [0.0, 3.0])
@torch.inference_mode()
def test_entropy_is_that_of_transformers(
    temperature: float, pairs: list[PresentedPair], loaded: Any, sampler: Callable[..., Sampler], stock_logits: Logits
) -> None:
    """One pass over prompt and response, without a cache; the temperature decides what is drawn and nothing else."""
    chosen = pairs[:6]
    found = sampler(*loaded, temperature=temperature, max_new_tokens=8).generate([one.prompt(3) for one in chosen])
    end = loaded[0].tokenizer.convert_tokens_to_ids(END)
    for one, group in zip(chosen, found, strict=True):
        for generation in group:
            assert generation.entropy == pytest.approx(by_definition(stock_logits, one, generation, end), abs=1e-5)
    if temperature:
        everything = [generation for group in found for generation in group]
        assert {generation.finished for generation in everything} == {True, False}
        assert len({len(generation.ids) for generation in everything}) > 2
        assert max(generation.entropy for generation in everything) > 2 * min(
            generation.entropy for generation in everything
        )


def test_entropy_depends_on_neither_company_nor_what_is_held_at_once(
    pairs: list[PresentedPair], loaded: Any, sampler: Callable[..., Sampler]
) -> None:
    prompts = [one.prompt(2) for one in pairs[:6]]
    whole = sampler(*loaded).generate(prompts)
    cut = [sampler(*loaded, max_tokens=tokens).generate(prompts) for tokens in (1, 200)]
    alone = [group for prompt in reversed(prompts) for group in sampler(*loaded).generate([prompt])]
    for other in (*cut, alone[::-1]):
        for one, two in zip(whole, other, strict=True):
            assert [generation.ids for generation in one] == [generation.ids for generation in two]
            assert [w.entropy for w in one] == pytest.approx([w.entropy for w in two], abs=1e-5)


def test_what_is_uniform_has_ln_v_and_what_is_certain_has_none(
    pairs: list[PresentedPair], with_bias: Callable[..., Any], sampler: Callable[..., Sampler]
) -> None:
    prompts = [one.prompt(2) for one in pairs[:3]]
    processor, model = with_bias({})
    [*uniform] = [generation for group in sampler(processor, model).generate(prompts) for generation in group]
    assert [w.entropy for w in uniform] == pytest.approx([math.log(len(model.hf.lm_head.bias))] * 6, abs=1e-6)
    assert len({tuple(w.ids) for w in uniform}) == 6
    certain = sampler(*with_bias({"A": 3.0})).generate(prompts)
    assert [generation.entropy for group in certain for generation in group] == [0.0] * 6
    ended = sampler(*with_bias({END: 3.0})).generate(prompts)
    end = [processor.tokenizer.convert_tokens_to_ids(END)]
    assert [generation for group in ended for generation in group] == [Generation(end, True, 0.0)] * 6


def test_a_piece_of_an_image_is_never_written_though_it_may_be_likely(
    pairs: list[PresentedPair], with_bias: Callable[..., Any], sampler: Callable[..., Sampler]
) -> None:
    """Of 1/2, 3/10 and 1/5 the entropy is 1.0297, whatever can be written; A is drawn 3 times of 5, and the end is."""
    shares = {"<IMG_CONTEXT>": 0.5, "A": 0.3, END: 0.2}
    processor, model = with_bias({token: math.log(share) for token, share in shares.items()})
    [found] = sampler(processor, model, temperature=1.0).generate([pairs[1].prompt(200)])
    assert [generation.entropy for generation in found] == pytest.approx([1.0296530] * 200, abs=1e-6)
    ids = Counter(token for generation in found for token in generation.ids)
    assert set(ids) == {processor.tokenizer.convert_tokens_to_ids("A")}
    assert sum(not generation.ids for generation in found) / 200 == pytest.approx(0.4, abs=0.1)
    [likeliest] = sampler(processor, model, temperature=0.0).generate([pairs[1].prompt(1)])
    assert likeliest[0].ids == [*ids] * 8


def test_a_prompt_that_is_too_long_with_its_response_gets_none(
    pairs: list[PresentedPair], judge: JudgeSettings, loaded: Any, sampler: Callable[..., Sampler]
) -> None:
    prompts = [one.prompt(2) for one in pairs[:6]]
    lengths = [len(judge.layout(one, loaded[0]).input_ids) for one in pairs[:6]]
    fits = [length < max(lengths) for length in lengths]
    whole = sampler(*loaded, max_length=max(lengths) + 8).generate(prompts)
    found = sampler(*loaded, max_length=max(lengths) + 7).generate(prompts)
    assert [len(of_one) for of_one in whole] == [2] * 6
    assert [len(of_one) for of_one in found] == [2 * fit for fit in fits]
    assert any(fits)
    assert [one.ids for of_one in found for one in of_one] == [
        one.ids for of_one, fit in zip(whole, fits, strict=True) if fit for one in of_one
    ]


@dataclass
class Counting:
    """A sampler that notes what it is asked."""

    inner: Sampler
    asked: list[str] = field(default_factory=list)

    def complete(self, prompts: Sequence[Prompt], keep: object) -> list[list[Completion]]:
        self.asked += [prompt.key for prompt in prompts]
        return self.inner.complete(prompts)


def test_a_killed_task_goes_on_to_the_same_file_and_asks_nothing_twice(
    pairs: list[PresentedPair], judge: JudgeSettings, loaded: Any, sampler: Callable[..., Sampler], tmp_path: Path
) -> None:
    orders = [present(one.pair, one.images, swapped) for one in pairs[:5] for swapped in (False, True)]

    def run(name: str, counting: Counting, stop_at: int) -> bytes:
        """The file; the process is killed behind its stop_at-th batch."""
        told: list[int] = []

        def advance(more: int) -> None:
            told.append(more)
            if len(told) == stop_at:
                raise KeyboardInterrupt

        with journal(tmp_path / name, "settings") as kept:
            draws = {"responses": (counting, 1), "votes": (counting, 2)}
            respond(draws, judge, orders, kept, advance, batch=3)  # type: ignore[arg-type]
            assert told[-1] == 1
            kept.finish([kept.done[one.key] for one in orders])
        return (tmp_path / name).read_bytes()

    whole = run("whole.jsonl", Counting(sampler(*loaded)), 0)
    resumed = Counting(sampler(*loaded))
    for stop_at in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run("resumed.jsonl", resumed, stop_at)
    assert len(resumed.asked) == 2 * 9
    assert run("resumed.jsonl", resumed, 0) == whole
    keys = [one.key for one in orders]
    assert [key for key in resumed.asked if key in keys] == keys
    assert len(set(resumed.asked)) == len(resumed.asked) == 20, "a vote is drawn by itself"
    records = [json.loads(line) for line in whole.splitlines()]
    assert [(record["id"], record["swapped"], record["better"]) for record in records] == [
        (one.pair.id, one.swapped, one.better) for one in orders
    ]
    assert {response["verdict"] for record in records for response in record["votes"]} == {"A", "B", None}
    assert {(len(record["responses"]), len(record["votes"])) for record in records} == {(1, 2)}


def test_a_response_that_was_cut_off_has_no_verdict(pairs: list[PresentedPair], tmp_path: Path) -> None:
    said = [
        Completion("Red is 4. The better answer is B.", 9, True, 0.5),
        Completion("Red is 4. The better answer is B.", 9, False, 0.25),
        Completion("Red is 4.", 3, True, 1.5),
        Completion("Red is 4. The better answer is **B**", 9, True, 0.5),
    ]

    class Scripted:
        def complete(self, prompts: Sequence[Prompt], keep: object) -> list[list[Completion]]:
            assert [prompt.n for prompt in prompts] == [4]
            return [said]

    one = replace(pairs[0], better="B", swapped=True)
    with journal(tmp_path / "said.jsonl", "settings") as kept:
        respond({"responses": (Scripted(), 4)}, JudgeSettings(), [one], kept, lambda _: None)  # type: ignore[dict-item]
        assert kept.done[one.key] == {
            "id": one.pair.id,
            "swapped": True,
            "better": "B",
            "responses": [
                {"text": said[0].text, "verdict": "B", "in_format": True, "entropy": 0.5, "n_tokens": 9},
                {"text": said[1].text, "verdict": None, "in_format": False, "entropy": 0.25, "n_tokens": 9},
                {"text": said[2].text, "verdict": None, "in_format": False, "entropy": 1.5, "n_tokens": 3},
                {"text": said[3].text, "verdict": "B", "in_format": False, "entropy": 0.5, "n_tokens": 9},
            ],
        }
