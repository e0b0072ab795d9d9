"""Scoring and training rollouts of every family three ways, side by side in one run, on tiny random models of the real
architectures.

stock: transformers as it is, a forward pass per rollout, its image and its prompt in every one. one by one:
backbone.exact=false, which computes an image once and the language model for every rollout. ours: rows of many
rollouts, image, prompt and whatever rollouts begin with once.

    python tests/benchmarks/families.py                     every family that has the fast path, minutes on one core
    python tests/benchmarks/families.py --family qwen3_vl   one of them
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from score_candidates import charts
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from mprm.backbones.auto import Auto
from mprm.backbones.chat import ChatModel
from mprm.batching.collate import Example, collate
from mprm.inference.scoring import rows
from mprm.training.objectives import step_losses
from tests.backbones.families import FAMILIES, LANGUAGE_MODELS, write, write_language_model

LARGER = {"num_hidden_layers": 8, "intermediate_size": 384}  # of the language model, most of the work of a real one
SIDE = 224  # pixels of an image
MAX_TOKENS = 4096  # of a row, as trainer=cpu has it

Logits = Callable[[list[Example]], torch.Tensor]


def stock_logits(hf: Any, verdict_ids: list[int]) -> Logits:
    def logits(examples: list[Example]) -> torch.Tensor:
        found = []
        for example in examples:
            inputs = {"input_ids": example.input_ids[None], **example.vision}
            if "image_grid_thw" in inputs:
                inputs["mm_token_type_ids"] = (inputs["input_ids"] == hf.config.image_token_id).int()
            found.append(hf(**inputs, use_cache=False).logits[0, example.marks][:, verdict_ids])
        return torch.cat(found)

    return logits


def step_logits(model: ChatModel) -> Logits:
    return lambda examples: torch.cat([model(collate(row)).logits_M2 for row in rows(examples, MAX_TOKENS)])


def arms_of(folder: Path, options: dict[str, Any], stock: Any) -> tuple[Any, dict[str, tuple[torch.nn.Module, Logits]]]:
    """The processor, and of every arm its model and how it computes logits."""
    component = Auto(path=str(folder), **options)
    processor, ours = component.load()
    _, alone = replace(component, exact=False).load()
    hf = stock.from_pretrained(folder)
    hf.resize_token_embeddings(ours.mark_id + 1, mean_resizing=False)
    frozen = {name for name, parameter in ours.hf.named_parameters() if not parameter.requires_grad}
    for name, parameter in hf.named_parameters():
        parameter.requires_grad_(name not in frozen)
    arms = {"stock": (hf, stock_logits(hf, ours.verdict_ids)), "one by one": (alone, step_logits(alone))}
    return processor, {**arms, "ours": (ours, step_logits(ours))}


def measure(arms: dict[str, tuple[torch.nn.Module, Logits]], examples: list[Example], rounds: int, train: bool) -> None:
    """Print rollouts per second. The arms take turns, so that what else the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    target_M = torch.linspace(0, 1, sum(len(example.marks) for example in examples))
    for number in range(rounds + 1):
        for name, (model, logits) in arms.items():
            model.train(train)
            started = time.perf_counter()
            with torch.set_grad_enabled(train):
                logits_M2 = logits(examples)
            if train:
                step_losses(logits_M2, target_M).sum().backward()
                model.zero_grad(set_to_none=True)
            if number:  # the first is to warm up
                seconds[name].append(time.perf_counter() - started)
    found = {name: len(examples) / statistics.median(times) for name, times in seconds.items()}
    print(f"  {'training' if train else 'scoring':>10}", end="")
    print("".join(f"{name:>12} {rate:7.1f}/s ({rate / found['stock']:5.2f})" for name, rate in found.items()))


def run(name: str, given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if name in FAMILIES:
            family = FAMILIES[name]
            write(replace(family, text={**family.text, **LARGER}), Path(folder))
            processor, arms = arms_of(Path(folder), dict(family.options), AutoModelForImageTextToText)
        else:
            write_language_model({**LANGUAGE_MODELS[name], **LARGER}, Path(folder))
            processor, arms = arms_of(Path(folder), {}, AutoModelForCausalLM)
    questions = charts(processor, given.candidates, given.questions, SIDE if name in FAMILIES else 0)
    examples = [replace(one, group=number) for number, question in enumerate(questions) for one in question]
    lengths = [len(example.input_ids) for example in examples]
    packed = sum(len(collate(row).input_ids_T) for row in rows(examples, MAX_TOKENS))
    print(f"{name}: {len(examples)} rollouts, {statistics.mean(lengths):.0f} tokens each; {packed} tokens in our rows")
    for train in (False, True):
        measure(arms, examples, given.rounds, train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    exact = [*(name for name, family in FAMILIES.items() if family.exact), *LANGUAGE_MODELS]
    parser.add_argument("--family", choices=exact, nargs="*", default=exact)
    parser.add_argument("--candidates", type=int, default=8, help="rollouts of a question")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for name in given.family:
        run(name, given)


if __name__ == "__main__":
    main()
