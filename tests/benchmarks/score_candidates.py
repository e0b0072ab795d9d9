"""Scoring N candidate solutions of one question, four ways, side by side in one run.

stock, one by one: transformers as it is, a forward pass per candidate. stock, padded: all in one padded batch, the
image in every row. ours, one by one: our model, a row per candidate. ours, shared: as task=rerank scores, image,
prompt and whatever candidates begin with in the row once. Stock computes the logits of the whole vocabulary at every
token. All have the same weights and start from token ids and pixels.

    python tests/benchmarks/score_candidates.py                                    tiny, a minute on two cores
    python tests/benchmarks/score_candidates.py --size 3b --candidates 8 32 64     Qwen2.5-VL-3B shapes, random, CUDA

Shape suffixes: B candidates, L tokens, M marks, V vocabulary.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from shapes import SHAPES, random_rollouts
from train_step import BACKBONES, STEP_MODELS, WEIGHTS, pad

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.loading import ChatBackbone
from mprm.batching.collate import Example, collate
from mprm.chartworld.corpus import BENCHMARK_SKILL
from mprm.chartworld.solver import Solver, step_texts
from mprm.chartworld.world import IMAGE_SIZE, draw, question_text, sample_problems
from mprm.inference.scoring import rows, step_scores
from tests.encoding import encode
from tools import tiny

LARGE = 448  # pixels: 256 image tokens


@dataclass
class Arm:
    """One way to score the candidates of a question. score: P(yes) at every mark, candidate after candidate."""

    name: str
    score: Callable[[list[Example]], list[float]]
    seconds: list[float] = field(default_factory=list)


def stock_scores(hf: Any, verdict_ids: tuple[int, int], device: str, examples: list[Example]) -> list[float]:
    """In one padded forward pass."""
    inputs = {name: value.to(device) for name, value in pad(examples).items()}
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == hf.config.image_token_id).int()
    logits_BLV = hf(**inputs, use_cache=False).logits
    row_M = torch.cat([torch.full_like(example.marks, row) for row, example in enumerate(examples)])
    mark_M = torch.cat([example.marks for example in examples])
    verdicts_M2 = logits_BLV[row_M.to(device), mark_M.to(device)][:, list(verdict_ids)].float()
    yes: list[float] = verdicts_M2.softmax(-1)[:, 1].tolist()
    return yes


def our_scores(model: ChatModel, max_tokens: int, device: str, examples: list[Example]) -> list[float]:
    scores = {}
    for row in rows(examples, max_tokens):
        batch = collate(row).to(torch.device(device))
        scores |= zip(batch.ids, step_scores(model, batch), strict=True)
    return [score for example in examples for score in scores[example.id].scores]


def make_arms(load: Callable[[], Any], family: str, device: str, max_tokens: int) -> list[Arm]:
    ours: ChatModel = STEP_MODELS[family](load(), tiny.build_tokenizer(family), ChatBackbone()).to(device).eval()
    stock = load().to(device).eval()
    if ours.mark_id >= len(stock.get_input_embeddings().weight):
        stock.resize_token_embeddings(ours.mark_id + 1, mean_resizing=False)
    stock.get_input_embeddings().weight.data[ours.mark_id] = ours.mark_D.data
    verdict_ids = ours.verdict_ids

    def by_stock(examples: list[Example]) -> list[float]:
        return stock_scores(stock, verdict_ids, device, examples)

    def by_us(examples: list[Example]) -> list[float]:
        return our_scores(ours, max_tokens, device, examples)

    def one_by_one(score: Callable[[list[Example]], list[float]]) -> Callable[[list[Example]], list[float]]:
        return lambda examples: [yes for example in examples for yes in score([example])]

    return [
        Arm("stock, one by one", one_by_one(by_stock)),
        Arm("stock, padded", by_stock),
        Arm("ours, one by one", one_by_one(by_us)),
        Arm("ours, shared", by_us),
    ]


@torch.inference_mode()
def time_arms(arms: list[Arm], questions: list[list[Example]], rounds: int, device: str) -> dict[str, np.ndarray]:
    """Every arm scores every question in every round; they take turns. Returns the scores; an arm that runs out of
    memory has none, and no seconds."""
    scores: dict[str, np.ndarray] = {}
    for number in range(rounds + 1):  # the first one warms up
        for arm in arms:
            if number and arm.name not in scores:
                continue
            started = time.perf_counter()
            try:
                found = [score for examples in questions for score in arm.score(examples)]
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                continue
            if device == "cuda":
                torch.cuda.synchronize()
            if number:
                arm.seconds.append(time.perf_counter() - started)
            scores[arm.name] = np.array(found)
    return scores


def show(arms: list[Arm], scores: dict[str, np.ndarray], questions: list[list[Example]], title: str) -> None:
    lengths = [len(example.input_ids) for examples in questions for example in examples]
    n = len(questions[0])
    print(f"\n{title}: {n} candidates of a question, {statistics.mean(lengths):.0f} tokens each")
    print(f"{'':>20} {'ms/question':>12} {'fastest':>9} {'candidates/s':>13} {'times stock':>12} {'times ours':>11}")
    one_by_one = [statistics.median(arms[place].seconds or [float("nan")]) for place in (0, 2)]
    for arm in arms:
        if not arm.seconds:
            print(f"{arm.name:>20} {'out of memory':>12}")
            continue
        median, fastest = statistics.median(arm.seconds), min(arm.seconds)
        print(
            f"{arm.name:>20} {1e3 * median / len(questions):12.1f} {1e3 * fastest / len(questions):9.1f} "
            f"{len(lengths) / median:13.1f} {one_by_one[0] / median:12.2f} {one_by_one[1] / median:11.2f}"
        )
    apart = np.abs(scores["ours, shared"] - scores["stock, one by one"])
    print(f"largest difference of a score, ours shared to stock one by one: {apart.max():.1e}")


def charts(processor: ChatProcessor, n: int, questions: int, side: int | None = None) -> list[list[Example]]:
    """Candidates of the benchmark's solver for questions about charts, drawn `side` pixels wide where given; 0: not."""
    rng = np.random.default_rng(0)
    problems = sample_problems(rng, questions)
    pictures = [Image.fromarray(pixels) for pixels in draw(problems)]
    found = []
    for number, picture in enumerate(pictures):
        same = problems.take(np.full(n, number))
        trace, _ = Solver(same, BENCHMARK_SKILL, rng).run()
        images = [] if side == 0 else [picture if side is None else picture.resize((side, side))]
        encoded = [
            encode(processor, images, question_text(same, row), step_texts(same, trace, row)) for row in range(n)
        ]
        found.append(_of_one_question(encoded))
    return found


def _of_one_question(examples: list[Example]) -> list[Example]:
    vision = examples[0].vision
    return [replace(example, vision=vision, id=str(place), group=0) for place, example in enumerate(examples)]


def seeded(load: Callable[[], Any]) -> Callable[[], Any]:
    """Random weights, the same at every call."""

    def again() -> Any:
        torch.manual_seed(0)
        return load()

    return again


def wide_windows(load: Callable[[], Any]) -> Callable[[], Any]:
    """The published window of the vision tower; the tiny one's would cut a large image into 256 of them."""

    def widened() -> Any:
        hf = load()
        hf.model.visual.window_size = 112
        return hf

    return widened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", *SHAPES], default="tiny")
    parser.add_argument("--family", choices=["internvl", "qwen2_5_vl"], nargs="*", default=["internvl", "qwen2_5_vl"])
    parser.add_argument("--candidates", type=int, nargs="*", default=[16])
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--max-tokens", type=int, default=32768, help="tokens of a row")
    given = parser.parse_args()
    for family in given.family:
        if given.size != "tiny":
            arms = make_arms(seeded(lambda f=family: SHAPES[given.size](f)), family, "cuda", given.max_tokens)
            for n in given.candidates:
                questions = [_of_one_question(random_rollouts(family, n, seed)) for seed in range(given.questions)]
                run(arms, questions, given.rounds, "cuda", f"{family} {given.size}")
            continue
        processor, model = BACKBONES[family](path=str(WEIGHTS / family)).load()
        model_class = type(model.hf)
        load = lambda m=model_class, f=family: m.from_pretrained(WEIGHTS / f, dtype=torch.float32)  # noqa: E731
        for side in (None, LARGE) if family == "qwen2_5_vl" else (None,):
            arms = make_arms(load if side is None else wide_windows(load), family, "cpu", given.max_tokens)
            for n in given.candidates:
                questions = charts(processor, n, given.questions, side)
                title = f"{family} tiny, charts of {side or IMAGE_SIZE} x {side or IMAGE_SIZE} pixels"
                run(arms, questions, given.rounds, "cpu", title)


def run(arms: list[Arm], questions: list[list[Example]], rounds: int, device: str, title: str) -> None:
    for arm in arms:
        arm.seconds.clear()
    show(arms, time_arms(arms, questions, rounds, device), questions, title)


if __name__ == "__main__":
    main()
