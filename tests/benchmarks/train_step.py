"""One training step on the same rollouts, three ways, side by side in one run.

stock: transformers as it is: padded micro-batches, logits of the whole vocabulary at every token and their
cross-entropy. published: the same forward pass, loss of two of the logits at the marks. ours: rows without padding,
shared prefixes, hidden states at the marks only, the frozen vision tower under no_grad. All train the same parameters
with AdamW; the vision tower is frozen, which for stock and published means requires_grad=False and no more.

    python tests/benchmarks/train_step.py                               tiny, both families: minutes on two cores
    python tests/benchmarks/train_step.py --size 3b --family qwen2_5_vl   Qwen2.5-VL-3B shapes, random weights, CUDA
    python tests/benchmarks/train_step.py --size 8b --family internvl     InternVL2.5-8B shapes with LoRA, CUDA

Shape suffixes: B rollouts, L tokens, M marks, V vocabulary.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from shapes import FLOPS_PER_SECOND, SHAPES, flops, measured_flops, peak_memory, random_rollouts
from torch import nn

from mprm.backbones.chat import ChatModel
from mprm.backbones.internvl import InternVL, InternVLStepModel
from mprm.backbones.loading import ChatBackbone, add_adapters, checkpoint_layers
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL, Qwen2_5StepModel
from mprm.batching.collate import Example, collate
from mprm.batching.examples import Examples
from mprm.batching.order import Shuffled, ShuffledQuestions
from mprm.chartworld.corpus import ChartWorld
from mprm.inference.scoring import rows
from mprm.selection.examples import write_examples
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import keep
from mprm.training.objectives import step_losses
from tools import tiny

WEIGHTS = Path(__file__).resolve().parents[2] / "mprm" / "chartworld" / "weights"
STEP_MODELS: dict[str, Any] = {"internvl": InternVLStepModel, "qwen2_5_vl": Qwen2_5StepModel}
BACKBONES: dict[str, Any] = {"internvl": InternVL, "qwen2_5_vl": Qwen2_5_VL}
Losses = Callable[[list[Example]], Iterator[torch.Tensor]]


@dataclass
class Arm:
    """One way to do the step. losses: of each of its forward passes; rows: the rollouts of each."""

    name: str
    model: nn.Module
    losses: Losses
    rows: Callable[[list[Example]], list[list[Example]]]
    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)


def pad(examples: list[Example]) -> dict[str, torch.Tensor]:
    """What transformers takes: right-padded rows and an attention mask."""
    longest = max(len(example.input_ids) for example in examples)
    ids_BL = torch.zeros(len(examples), longest, dtype=torch.int64)
    for row, example in enumerate(examples):
        ids_BL[row, : len(example.input_ids)] = example.input_ids
    lengths = torch.tensor([len(example.input_ids) for example in examples])
    vision = {name: torch.cat([e.vision[name] for e in examples]) for name in examples[0].vision}
    return {"input_ids": ids_BL, "attention_mask": (torch.arange(longest) < lengths[:, None]).long(), **vision}


def padded_loss(hf: Any, examples: list[Example], device: str, verdict_ids: tuple[int, int] | None) -> torch.Tensor:
    """Of every next token, or (verdict_ids given) of two logits at the marks; summed."""
    inputs = {name: value.to(device) for name, value in pad(examples).items()}
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == hf.config.image_token_id).int()
    logits_BLV = hf(**inputs, use_cache=False).logits
    if verdict_ids is None:
        target_BL = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        return nn.functional.cross_entropy(
            logits_BLV[:, :-1].flatten(0, 1).float(), target_BL[:, 1:].flatten(), reduction="sum"
        )
    row_M = torch.cat([torch.full_like(example.marks, row) for row, example in enumerate(examples)])
    mark_M = torch.cat([example.marks for example in examples])
    logits_M2 = logits_BLV[row_M.to(device), mark_M.to(device)][:, list(verdict_ids)].float()
    return step_losses(logits_M2, target(examples).to(device)).sum()


def our_loss(model: ChatModel, examples: list[Example], device: str) -> torch.Tensor:
    batch = collate(examples).to(torch.device(device), non_blocking=True)
    return step_losses(model(batch).logits_M2, target(examples).to(device)).sum()


def target(examples: list[Example]) -> torch.Tensor:
    return torch.cat([(example.mc > 0).float() for example in examples if example.mc is not None])


def stock_model(hf: Any, step_model: ChatModel, options: ChatBackbone) -> nn.Module:
    """The model as transformers loads it, the mark's row in its table, the same parameters trained."""
    if step_model.mark_id >= len(hf.get_input_embeddings().weight):
        hf.resize_token_embeddings(step_model.mark_id + 1, mean_resizing=False)
    tower = hf.model.visual if hasattr(hf.model, "visual") else hf.model.vision_tower
    merger = set(getattr(tower, "merger", nn.Module()).parameters())
    for parameter in tower.parameters():
        parameter.requires_grad_(parameter in merger)
    if options.language_model == "lora":
        hf.model.language_model.requires_grad_(False)
        hf.lm_head.requires_grad_(False)
        layers = {m for m in hf.model.language_model.modules() if isinstance(m, nn.Linear)}
        add_adapters(hf, layers, options.lora_rank, options.lora_alpha)
    if options.checkpoint_layers:
        checkpoint_layers(hf, options.checkpoint_layers)
    return hf


def make_arms(
    load: Callable[[], Any], family: str, options: ChatBackbone, device: str, micro_batch: int, max_tokens: int
) -> list[Arm]:
    """The arms, their models on the CPU."""
    ours = STEP_MODELS[family](load(), tiny.build_tokenizer(family), options).cpu().train()

    def micro_batches(rollouts: list[Example]) -> list[list[Example]]:
        return [rollouts[start : start + micro_batch] for start in range(0, len(rollouts), micro_batch)]

    def padded(verdict_ids: tuple[int, int] | None) -> tuple[nn.Module, Losses]:
        hf = stock_model(load(), ours, options).cpu().train()
        return hf, lambda rollouts: (padded_loss(hf, part, device, verdict_ids) for part in micro_batches(rollouts))

    def packed(rollouts: list[Example]) -> list[list[Example]]:
        return rows(rollouts, max_tokens)

    return [
        Arm("stock", *padded(None), micro_batches),
        Arm("published", *padded(ours.verdict_ids), micro_batches),
        Arm("ours", ours, lambda rollouts: (our_loss(ours, row, device) for row in packed(rollouts)), packed),
    ]


def time_arms(arms: list[Arm], batches: list[list[Example]], device: str) -> None:
    """Every arm does every batch. On the CPU the arms take turns, so that what else the machine does falls on all of
    them; on the GPU each has it for itself, so that its peak memory is its own."""
    if device == "cpu":
        optimizers = [optimizer_of(arm) for arm in arms]
        for number, rollouts in enumerate(batches):
            for arm, optimizer in zip(arms, optimizers, strict=True):
                one_step(arm, optimizer, rollouts, device, warm_up=number == 0)
        return
    for arm in arms:
        arm.model.to(device)
        optimizer = optimizer_of(arm)
        for number, rollouts in enumerate(batches):
            one_step(arm, optimizer, rollouts, device, warm_up=number == 0)
        arm.model.to("cpu")
        del optimizer
        torch.cuda.empty_cache()


def optimizer_of(arm: Arm) -> torch.optim.Optimizer:
    """AdamW on float32 parameters, as trainer=gpu has it."""
    trained = [parameter for parameter in arm.model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    return torch.optim.AdamW(trained, lr=1e-5)


def one_step(arm: Arm, optimizer: torch.optim.Optimizer, rollouts: list[Example], device: str, warm_up: bool) -> None:
    started = time.perf_counter()
    with peak_memory(arm.peak_bytes, device), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        for loss in arm.losses(rollouts):
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
    if not warm_up:
        arm.seconds.append(time.perf_counter() - started)


def show(arms: list[Arm], batches: list[list[Example]], device: str, title: str) -> None:
    model = arms[-1].model
    assert isinstance(model, ChatModel)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    peak = next((flops for card, flops in FLOPS_PER_SECOND.items() if card in name), None) or measured_flops(device)
    n_rollouts = statistics.mean(len(rollouts) for rollouts in batches)
    n_tokens = statistics.mean(sum(len(e.input_ids) for e in rollouts) for rollouts in batches)
    print(f"\n{title}: {n_rollouts:.0f} rollouts, {n_tokens:.0f} tokens a step; {name}, {peak / 1e12:.2f} TFLOP/s peak")
    print(f"{'':>10} {'s/step':>8} {'rollouts/s':>11} {'tokens/s':>9} {'MFU':>6} {'peak MiB':>9} {'ratio':>6}")
    published = statistics.median(arms[1].seconds)
    for arm in arms:
        seconds = statistics.median(arm.seconds)
        # What a rollout needs by itself; ours computes less where prefixes are shared.
        separate = arm.name != "ours"
        work = statistics.mean(
            flops(model, [[e] for e in rollouts] if separate else arm.rows(rollouts), not separate)
            for rollouts in batches
        )
        memory = f"{max(arm.peak_bytes) / 2**20:.0f}" if arm.peak_bytes else "-"
        print(
            f"{arm.name:>10} {seconds:8.3f} {n_rollouts / seconds:11.1f} {n_tokens / seconds:9.0f} "
            f"{work / seconds / peak:6.1%} {memory:>9} {published / seconds:6.2f}"
        )


def chartworld_batches(family: str, steps: int, folder: Path) -> dict[str, list[list[Example]]]:
    """Global batches of 32 rollouts of the corpus in both orders."""
    world = ChartWorld(root=str(folder / "world"), rollouts=1600)
    if not (folder / "examples").is_dir():
        write_examples(folder / "examples", world, keep(build_signals(world, folder / "cache"), Full()))
    processor, _ = BACKBONES[family](path=str(WEIGHTS / family)).load()
    examples = Examples(Dataset.load_from_disk(str(folder / "examples")), world.image_folder.path, processor)
    question_N = np.asarray(examples.records["question_hash"])
    batches = {}
    for order in (Shuffled(), ShuffledQuestions()):
        positions = order.epoch(question_N, np.full(len(question_N), np.nan), 0, 0).tolist()
        batches[type(order).__name__] = [
            examples.__getitems__([(position, 1.0) for position in positions[32 * step : 32 * (step + 1)]])
            for step in range(steps)
        ]
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", *SHAPES], default="tiny")
    parser.add_argument("--family", choices=["internvl", "qwen2_5_vl"], nargs="*", default=["internvl", "qwen2_5_vl"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=16, help="rollouts of a padded forward pass")
    parser.add_argument("--max-tokens", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--lora", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.size == "tiny":
        with tempfile.TemporaryDirectory() as folder:
            for family in given.family:
                model_class = type(BACKBONES[family](path=str(WEIGHTS / family)).load()[1].hf)
                load = lambda m=model_class, f=family: m.from_pretrained(WEIGHTS / f, dtype=torch.float32)  # noqa: E731
                for order, batches in chartworld_batches(family, given.steps, Path(folder)).items():
                    arms = make_arms(load, family, ChatBackbone(), "cpu", given.micro_batch, given.max_tokens)
                    time_arms(arms, batches, "cpu")
                    show(arms, batches, "cpu", f"{family} tiny, {order}")
        return
    for family in given.family:
        options = replace(ChatBackbone(checkpoint_layers=1.0), language_model="lora" if given.lora else "trained")
        load = lambda f=family: SHAPES[given.size](f)  # noqa: E731
        batches = [random_rollouts(family, given.micro_batch, seed) for seed in range(given.steps)]
        arms = make_arms(load, family, options, "cuda", given.micro_batch, given.max_tokens)
        time_arms(arms, batches, "cuda")
        show(arms, batches, "cuda", f"{family} {given.size}{' lora' if given.lora else ''}")


if __name__ == "__main__":
    main()
