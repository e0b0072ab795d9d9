"""One training step on the same rollouts, several ways, which train_step.py times.

stock: transformers as it is: padded micro-batches, logits of the whole vocabulary at every token and their
cross-entropy. published: the same forward pass, loss of two of the logits at the marks. ours: rows without padding,
shared prefixes, hidden states at the marks only, the frozen vision tower under no_grad. compiled: ours with
trainer.compile=true, which runs where --arms asks for it. All train the same parameters with AdamW; the vision tower is
frozen, which for stock and published means requires_grad=False and no more.

Shape suffixes: B rollouts, L tokens, M marks, V vocabulary, 2 logits (no, yes).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from shapes import peak_memory
from torch import nn

from mprm.backbones.chat import ChatModel
from mprm.backbones.internvl import InternVL, InternVLStepModel
from mprm.backbones.loading import ChatBackbone, add_adapters, checkpoint_layers, single_token
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL, Qwen2_5StepModel
from mprm.batching.collate import Example, collate
from mprm.inference.scoring import rows
from mprm.training.compiling import compile_layers
from mprm.training.objectives import step_losses
from mprm.training.recipe import Machine
from tools import tiny

WEIGHTS = Path(__file__).resolve().parents[2] / "mprm" / "chartworld" / "weights"
STEP_MODELS: dict[str, Any] = {"internvl": InternVLStepModel, "qwen2_5_vl": Qwen2_5StepModel}
BACKBONES: dict[str, Any] = {"internvl": InternVL, "qwen2_5_vl": Qwen2_5_VL}
ARMS = ("ours", "published", "stock", "compiled")
Losses = Callable[[list[Example]], Iterator[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all arms train, and on which device. load: transformers' model, the same at every call."""

    load: Callable[[], Any]
    family: str
    options: ChatBackbone
    device: str
    micro_batch: int  # rollouts of a padded forward pass
    max_tokens: int  # of a row of ours


@dataclass
class Arm:
    """One way to do the step. hf: transformers' model in it; losses: of each of its forward passes; rows: the rollouts
    of each."""

    name: str
    model: nn.Module
    hf: Any
    losses: Losses
    rows: Callable[[list[Example]], list[list[Example]]]
    optimizer: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    @property
    def second(self) -> float:
        """Of a step, the median."""
        return statistics.median(self.seconds)

    def step(self, rollouts: list[Example], device: str, warm_up: bool) -> None:
        started = time.perf_counter()
        with peak_memory(self.peak_bytes, device), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            for loss in self.losses(rollouts):
                loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
        if not warm_up:
            self.seconds.append(time.perf_counter() - started)


def make_arm(name: str, setting: Setting) -> Arm:
    """The arm, its model on the device."""
    device, tokenizer = setting.device, tiny.build_tokenizer(setting.family)
    if name in ("ours", "compiled"):
        ours = STEP_MODELS[setting.family](setting.load(), tokenizer, setting.options).to(device).train()
        if name == "compiled":
            compile_layers(ours, Machine())

        def packed(rollouts: list[Example]) -> list[list[Example]]:
            return rows(rollouts, setting.max_tokens)

        def row_losses(rollouts: list[Example]) -> Iterator[torch.Tensor]:
            return (our_loss(ours, row, device) for row in packed(rollouts))

        return Arm(name, ours, ours.hf, row_losses, packed, optimizer_of(ours))
    mark_id = len(tokenizer)
    verdict_ids = [single_token(tokenizer, word) for word in (setting.options.no, setting.options.yes)]
    hf = stock_model(setting.load(), mark_id, setting.options).to(device).train()

    def micro_batches(rollouts: list[Example]) -> list[list[Example]]:
        return [rollouts[start : start + setting.micro_batch] for start in range(0, len(rollouts), setting.micro_batch)]

    def padded_losses(rollouts: list[Example]) -> Iterator[torch.Tensor]:
        wanted = verdict_ids if name == "published" else None
        return (padded_loss(hf, part, device, wanted) for part in micro_batches(rollouts))

    return Arm(name, hf, hf, padded_losses, micro_batches, optimizer_of(hf))


def pad(examples: list[Example]) -> dict[str, torch.Tensor]:
    """What transformers takes: right-padded rows and an attention mask."""
    longest = max(len(example.input_ids) for example in examples)
    ids_BL = torch.zeros(len(examples), longest, dtype=torch.int64)
    for row, example in enumerate(examples):
        ids_BL[row, : len(example.input_ids)] = example.input_ids
    lengths = torch.tensor([len(example.input_ids) for example in examples])
    vision = {name: torch.cat([e.vision[name] for e in examples]) for name in examples[0].vision}
    return {"input_ids": ids_BL, "attention_mask": (torch.arange(longest) < lengths[:, None]).long(), **vision}


def padded_logits(hf: Any, examples: list[Example], device: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(B, L, V), and what they were computed of."""
    inputs = {name: value.to(device) for name, value in pad(examples).items()}
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == hf.config.image_token_id).int()
    return hf(**inputs, use_cache=False).logits, inputs


def verdicts(logits_BLV: torch.Tensor, examples: list[Example], verdict_ids: list[int]) -> torch.Tensor:
    """The two logits at every mark, (M, 2) float32."""
    row_M = torch.cat([torch.full_like(example.marks, row) for row, example in enumerate(examples)])
    mark_M = torch.cat([example.marks for example in examples])
    return logits_BLV[row_M.to(logits_BLV.device), mark_M.to(logits_BLV.device)][:, verdict_ids].float()


def padded_loss(hf: Any, examples: list[Example], device: str, verdict_ids: list[int] | None) -> torch.Tensor:
    """Of every next token, or (verdict_ids given) of two logits at the marks; summed."""
    logits_BLV, inputs = padded_logits(hf, examples, device)
    if verdict_ids is None:
        target_BL = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        return nn.functional.cross_entropy(
            logits_BLV[:, :-1].flatten(0, 1).float(), target_BL[:, 1:].flatten(), reduction="sum"
        )
    return step_losses(verdicts(logits_BLV, examples, verdict_ids), target(examples).to(device)).sum()


def our_loss(model: ChatModel, examples: list[Example], device: str) -> torch.Tensor:
    batch = collate(examples).to(torch.device(device), non_blocking=True)
    return step_losses(model(batch).logits_M2, target(examples).to(device)).sum()


def target(examples: list[Example]) -> torch.Tensor:
    return torch.cat([(example.mc > 0).float() for example in examples if example.mc is not None])


def stock_model(hf: Any, mark_id: int, options: ChatBackbone) -> nn.Module:
    """The model as transformers loads it, the mark's row in its table, the same parameters trained."""
    if mark_id >= len(hf.get_input_embeddings().weight):
        hf.resize_token_embeddings(mark_id + 1, mean_resizing=False)
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


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW on float32 parameters, as trainer=gpu has it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    return torch.optim.AdamW(trained, lr=1e-5, fused=trained[0].is_cuda or None)
