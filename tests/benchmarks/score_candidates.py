"""Scoring N candidate solutions of one question, four ways, side by side in one run.

stock_alone: transformers as it is, a forward pass per candidate. stock_padded: all in one padded batch, the
image in every row. ours_alone: our model, a row per candidate. ours_shared: as task=rerank scores, image,
prompt and whatever candidates begin with in the row once. Stock computes the logits of the whole vocabulary at every
token. All have the same weights and start from token ids and pixels.

    python tests/benchmarks/score_candidates.py                                    tiny, a minute on two cores
    python tests/benchmarks/score_candidates.py --size small                       the proportions of a 3b model
    python tests/benchmarks/score_candidates.py --size 3b --candidates 8 32 64     Qwen2.5-VL-3B shapes, random, CUDA

On the GPU an arm is timed after the other and prints its line as it ends; on the CPU they take turns.

Shape suffixes: M marks, 2 logits (no, yes).
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
from arms import BACKBONES, STEP_MODELS, WEIGHTS, padded_logits, verdicts
from PIL import Image
from shapes import DRAWN, ON_CPU, random_model, random_rollouts

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.loading import ChatBackbone
from mprm.batching.collate import Example, collate
from mprm.chartworld.corpus import BENCHMARK_SKILL
from mprm.chartworld.solver import Solver, step_texts
from mprm.chartworld.world import IMAGE_SIZE, draw, question_text, sample_problems
from mprm.inference.scoring import rows, step_scores
from tests.encoding import encode, seen
from tools import tiny

ARMS = ("ours_shared", "ours_alone", "stock_padded", "stock_alone")
LARGE = 448  # pixels: 256 image tokens


@dataclass
class Arm:
    """One way to score the candidates of a question. score: P(yes) at every mark, candidate after candidate."""

    name: str
    score: Callable[[list[Example]], list[float]]
    seconds: list[float] = field(default_factory=list)
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))  # of the last round


def stock_scores(hf: Any, verdict_ids: list[int], device: str, examples: list[Example]) -> list[float]:
    """In one padded forward pass."""
    verdicts_M2 = verdicts(padded_logits(hf, examples, device)[0], examples, verdict_ids)
    yes: list[float] = verdicts_M2.softmax(-1)[:, 1].tolist()
    return yes


def our_scores(model: ChatModel, max_tokens: int, device: str, examples: list[Example]) -> list[float]:
    scores = {}
    for row in rows(examples, max_tokens):
        batch = collate(row).to(torch.device(device))
        scores |= zip(batch.ids, step_scores(model, batch), strict=True)
    return [score for example in examples for score in scores[example.id].scores]


def make_arms(load: Callable[[], Any], family: str, device: str, given: argparse.Namespace) -> list[Arm]:
    ours: ChatModel = STEP_MODELS[family](load(), tiny.build_tokenizer(family), ChatBackbone()).to(device).eval()
    stock = load().to(device).eval()
    if ours.mark_id >= len(stock.get_input_embeddings().weight):
        stock.resize_token_embeddings(ours.mark_id + 1, mean_resizing=False)
    stock.get_input_embeddings().weight.data[ours.mark_id] = ours.mark_D.data
    verdict_ids = ours.verdict_ids

    def by_stock(examples: list[Example]) -> list[float]:
        return stock_scores(stock, verdict_ids, device, examples)

    def by_us(examples: list[Example]) -> list[float]:
        return our_scores(ours, given.max_tokens, device, examples)

    def one_by_one(score: Callable[[list[Example]], list[float]]) -> Callable[[list[Example]], list[float]]:
        return lambda examples: [yes for example in examples for yes in score([example])]

    scores = (by_us, one_by_one(by_us), by_stock, one_by_one(by_stock))
    arms = {name: Arm(name, score) for name, score in zip(ARMS, scores, strict=True)}
    return [arms[name] for name in given.arms.split(",")]


@torch.inference_mode()
def time_arms(arms: list[Arm], questions: list[list[Example]], rounds: int, device: str) -> None:
    """Every arm scores every question in every round, of which the first warms up."""
    turns = [arms] if device == "cpu" else [[arm] for arm in arms]
    for taking_turns in turns:
        try:
            for number in range(rounds + 1):
                for arm in taking_turns:
                    time_arm(arm, questions, device, warm_up=number == 0)
        except torch.OutOfMemoryError:
            taking_turns[0].seconds.clear()
            torch.cuda.empty_cache()
        for arm in taking_turns:
            show(arm, questions, arms[0])


def time_arm(arm: Arm, questions: list[list[Example]], device: str, warm_up: bool) -> None:
    started = time.perf_counter()
    arm.scores = np.array([score for examples in questions for score in arm.score(examples)])
    if device == "cuda":
        torch.cuda.synchronize()
    if not warm_up:
        arm.seconds.append(time.perf_counter() - started)


def show(arm: Arm, questions: list[list[Example]], first: Arm) -> None:
    if not arm.seconds:
        print(f"{arm.name:>20} out of memory", flush=True)
        return
    n_candidates = sum(len(examples) for examples in questions)
    median, fastest = statistics.median(arm.seconds), min(arm.seconds)
    print(
        f"{arm.name:>20} {1e3 * median / len(questions):12.1f} {1e3 * fastest / len(questions):9.1f} "
        f"{n_candidates / median:13.1f} {median / statistics.median(first.seconds or [float('nan')]):12.2f}",
        flush=True,
    )


def compare(arms: list[Arm]) -> float | None:
    """How many times as long stock transformers takes as we do; None if one of the two was not timed."""
    timed = {arm.name: arm for arm in arms if arm.seconds}
    if not {"ours_shared", "stock_alone"} <= timed.keys():
        return None
    ours, stock = timed["ours_shared"], timed["stock_alone"]
    print(f"their scores differ by {np.abs(ours.scores - stock.scores).max():.1e}", flush=True)
    return statistics.median(stock.seconds) / statistics.median(ours.seconds)


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
        found.append(_of_one_question(seen(processor, encoded)))
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


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", *DRAWN], default="tiny")
    parser.add_argument("--family", choices=[*BACKBONES], nargs="*", default=[*BACKBONES])
    parser.add_argument("--arms", default=",".join(ARMS), help="which of them, in which order")
    parser.add_argument("--candidates", type=int, nargs="*", default=[16])
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--max-tokens", type=int, default=32768, help="tokens of a row")
    return parser.parse_args(words)


def measure(given: argparse.Namespace) -> dict[str, float | None]:
    """Print the tables; returns how many times as fast as stock transformers we are, by what was scored."""
    found = {}
    for family in given.family:
        if given.size != "tiny":
            device = "cpu" if given.size in ON_CPU else "cuda"
            arms = make_arms(seeded(lambda f=family: random_model(f, given.size)), family, device, given)
            for n in given.candidates:
                drawn = DRAWN[given.size]
                questions = [random_rollouts(family, drawn, n, seed, n) for seed in range(given.questions)]
                title = f"{family} {given.size}, {n} candidates"
                found[title] = run(arms, questions, given.rounds, device, title)
            continue
        processor, model = BACKBONES[family](path=str(WEIGHTS / family)).load()
        model_class = type(model.hf)
        load = lambda m=model_class, f=family: m.from_pretrained(WEIGHTS / f, dtype=torch.float32)  # noqa: E731
        for side in (None, LARGE) if family == "qwen2_5_vl" else (None,):
            arms = make_arms(load if side is None else wide_windows(load), family, "cpu", given)
            for n in given.candidates:
                questions = charts(processor, n, given.questions, side)
                pixels = side or IMAGE_SIZE
                title = f"{family} tiny, {n} candidates, charts of {pixels} x {pixels} pixels"
                found[title] = run(arms, questions, given.rounds, "cpu", title)
    return found


def run(arms: list[Arm], questions: list[list[Example]], rounds: int, device: str, title: str) -> float | None:
    for arm in arms:
        arm.seconds.clear()
    lengths = [len(example.input_ids) for examples in questions for example in examples]
    print(f"\n{title}, {statistics.mean(lengths):.0f} tokens each")
    print(f"{'':>20} {'ms/question':>12} {'fastest':>9} {'candidates/s':>13} {'times first':>12}", flush=True)
    time_arms(arms, questions, rounds, device)
    return compare(arms)


if __name__ == "__main__":
    measure(arguments())
