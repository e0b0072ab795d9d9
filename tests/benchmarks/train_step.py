"""One training step on the same rollouts, several ways (arms.py says which), side by side in one run.

    python tests/benchmarks/train_step.py                                 tiny, both families: minutes on two cores
    python tests/benchmarks/train_step.py --size small                    the proportions of a 3b model, minutes, too
    python tests/benchmarks/train_step.py --size 3b --family qwen2_5_vl   Qwen2.5-VL-3B shapes, random weights, CUDA
    python tests/benchmarks/train_step.py --size 8b --family internvl     InternVL2.5-8B shapes with LoRA, CUDA

Every arm prints its line as it ends; one that runs out of memory says so, and the next one begins. On the CPU the arms
take turns, so that what else the machine does falls on all of them, and end together.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import ARMS, BACKBONES, WEIGHTS, Arm, Setting, make_arm
from datasets import Dataset
from shapes import DRAWN, flops, measured_flops, random_model, random_rollouts

from mprm.backbones.loading import ChatBackbone
from mprm.batching.collate import Example
from mprm.batching.examples import Examples
from mprm.batching.order import Shuffled, ShuffledQuestions
from mprm.chartworld.corpus import ChartWorld
from mprm.selection.examples import write_examples
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import keep
from mprm.training.recipe import Machine
from mprm.training.throughput import peak_tflops
from tests.encoding import seen

ENOUGH = 8.0  # seconds of steps on the GPU, after the one that warms up
Orders = dict[str, list[list[Example]]]  # the batches of each


class Table:
    """Prints a line for every arm and order."""

    def __init__(self, title: str, orders: Orders, device: str) -> None:
        self.title, self.orders = title, orders
        self.card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        known = peak_tflops(Machine(accelerator="gpu" if device == "cuda" else "cpu"))
        self.peak = known * 1e12 if known else measured_flops(device)
        self.seconds: dict[str, dict[str, float]] = {order: {} for order in orders}
        print(f"\n{title}; {self.card}, {self.peak / 1e12:.2f} TFLOP/s peak")
        for order, batches in orders.items():
            n_tokens = statistics.mean(len(e.input_ids) for rollouts in batches for e in rollouts)
            print(f"  {order}: {len(batches[0])} rollouts a step, {n_tokens:.0f} tokens each")
        columns = f"{'s/step':>8} {'rollouts/s':>11} {'tokens/s':>9} {'MFU':>6} {'peak GiB':>9} {'times ours':>11}"
        print(f"{'':>20} {'arm':>10} {columns}", flush=True)

    def line(self, arm: Arm, order: str) -> None:
        batches, seconds = self.orders[order], arm.second
        n_rollouts = statistics.mean(len(rollouts) for rollouts in batches)
        n_tokens = statistics.mean(sum(len(e.input_ids) for e in rollouts) for rollouts in batches)
        # What a rollout needs by itself; ours computes less where prefixes are shared.
        separate = arm.name != "ours"
        work = statistics.mean(
            flops(arm.hf, [[e] for e in rollouts] if separate else arm.rows(rollouts), not separate)
            for rollouts in batches
        )
        self.seconds[order][arm.name] = seconds
        ours = self.seconds[order].get("ours", float("nan"))
        memory = f"{max(arm.peak_bytes) / 2**30:.1f}" if arm.peak_bytes else "-"
        print(
            f"{order:>20} {arm.name:>10} {seconds:8.3f} {n_rollouts / seconds:11.1f} {n_tokens / seconds:9.0f} "
            f"{work / seconds / self.peak:6.1%} {memory:>9} {seconds / ours:11.2f}",
            flush=True,
        )

    def ratios(self) -> dict[str, float]:
        """How many times as long the published style takes as ours, by order, where both were timed."""
        both = {order: seconds for order, seconds in self.seconds.items() if {"ours", "published"} <= seconds.keys()}
        return {order: seconds["published"] / seconds["ours"] for order, seconds in both.items()}


def time_together(names: list[str], setting: Setting, table: Table) -> None:
    """All arms, which take turns."""
    arms = [make_arm(name, setting) for name in names]
    for order, batches in table.orders.items():
        for number, rollouts in enumerate(batches):
            for arm in arms:
                arm.step(rollouts, setting.device, warm_up=number == 0)
        for arm in arms:
            table.line(arm, order)
            arm.seconds.clear()


def time_apart(names: list[str], setting: Setting, table: Table) -> None:
    """One arm after the other, each of which has the device for itself, so that its peak memory is its own."""
    for name in names:
        try:
            time_arm(make_arm(name, setting), setting.device, table)
        except torch.OutOfMemoryError:
            print(f"{'':>20} {name:>10} out of memory", flush=True)
        torch.cuda.empty_cache()


def time_arm(arm: Arm, device: str, table: Table) -> None:
    for order, batches in table.orders.items():
        for number, rollouts in enumerate(batches):
            if sum(arm.seconds) < ENOUGH:
                arm.step(rollouts, device, warm_up=number == 0)
        table.line(arm, order)
        arm.seconds.clear()
        arm.peak_bytes.clear()
        if arm.name != "ours":  # the others compute as much in every order
            return


def chartworld_orders(family: str, steps: int, folder: Path) -> Orders:
    """Global batches of 32 rollouts of the corpus in both orders."""
    world = ChartWorld(root=str(folder / "world"), rollouts=1600)
    if not (folder / "examples").is_dir():
        write_examples(folder / "examples", world, keep(build_signals(world, folder / "cache"), Full()))
    processor, _ = BACKBONES[family](path=str(WEIGHTS / family)).load()
    examples = Examples(Dataset.load_from_disk(str(folder / "examples")), world.image_folder.path, processor)
    question_N = np.asarray(examples.records["question_hash"])
    orders = {}
    for name, order in (("shuffled", Shuffled()), ("shuffled_questions", ShuffledQuestions())):
        positions = order.epoch(question_N, np.full(len(question_N), np.nan), 0, 0).tolist()
        orders[name] = [
            seen(processor, examples.__getitems__([(position, 1.0) for position in positions[32 * step :][:32]]))
            for step in range(steps)
        ]
    return orders


def tiny_jobs(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Setting, Orders]]:
    """The backbones that mprm ships with, on their own corpus."""
    for family in given.family:
        hf_class = type(BACKBONES[family](path=str(WEIGHTS / family)).load()[1].hf)

        def load(hf_class: Any = hf_class, family: str = family) -> Any:
            return hf_class.from_pretrained(WEIGHTS / family, dtype=torch.float32)

        yield f"{family} tiny", setting_of(load, family, given), chartworld_orders(family, given.steps, folder)


def random_jobs(given: argparse.Namespace) -> Iterator[tuple[str, Setting, Orders]]:
    """Random weights and rollouts."""
    for family in given.family:

        def load(family: str = family) -> Any:
            torch.manual_seed(0)
            return random_model(family, given.size)

        drawn = DRAWN[given.size]
        orders = {
            f"{n} of a question": [
                random_rollouts(family, drawn, given.rollouts, step, n) for step in range(given.steps)
            ]
            for n in given.per_question
        }
        yield f"{family} {given.size}{' lora' * given.lora}", setting_of(load, family, given), orders


def setting_of(load: Any, family: str, given: argparse.Namespace) -> Setting:
    options = ChatBackbone(
        checkpoint_layers=float(given.device == "cuda"), language_model="lora" if given.lora else "trained"
    )
    return Setting(
        load=load,
        family=family,
        options=options,
        device=given.device,
        micro_batch=given.micro_batch,
        max_tokens=given.max_tokens,
    )


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--size", choices=["tiny", *DRAWN], default="3b" if on_gpu else "tiny")
    parser.add_argument("--family", choices=[*BACKBONES], nargs="*", default=[*BACKBONES])
    parser.add_argument("--arms", default=",".join(ARMS[:3]), help=f"of {','.join(ARMS)}")
    parser.add_argument("--steps", type=int, default=4 if on_gpu else 8, help="the first of which warms up")
    parser.add_argument("--rollouts", type=int, default=7 if on_gpu else 8, help="of a step; tiny has 32")
    parser.add_argument("--per-question", type=int, nargs="*", default=[1, 4], help="rollouts that share an image")
    parser.add_argument("--micro-batch", type=int, default=16, help="rollouts of a padded forward pass")
    parser.add_argument("--max-tokens", type=int, default=16384 if on_gpu else 4096, help="tokens of a row")
    parser.add_argument("--lora", action=argparse.BooleanOptionalAction, help="adapters alone; at 8b the default")
    given = parser.parse_args(words)
    given.arms = given.arms.split(",")
    if unknown := set(given.arms) - set(ARMS):
        parser.error(f"--arms {','.join(sorted(unknown))}: choose of {','.join(ARMS)}")
    given.device = "cuda" if given.size in ("3b", "8b") else "cpu"
    if given.device == "cuda" and not on_gpu:
        parser.error(f"--size {given.size} takes a CUDA device; choose tiny or small")
    if given.lora is None:
        given.lora = given.size == "8b"
    return given


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Print the tables; returns how many times as fast as the published style ours is, by what was trained."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = tiny_jobs(given, Path(folder)) if given.size == "tiny" else random_jobs(given)
        for title, setting, orders in jobs:
            table = Table(title, orders, given.device)
            (time_together if given.device == "cpu" else time_apart)(given.arms, setting, table)
            found |= {f"{title}, {order}": ratio for order, ratio in table.ratios().items()}
    return found


if __name__ == "__main__":
    measure(arguments())
