"""Teach a tiny backbone to solve and to judge, as a real one can before PRM training.

    python -m tools.pretrain chartworld_internvl --output runs/internvl

A run that was stopped goes on from its last state with the same command.

Shape suffixes: B rows, L tokens, D hidden size, K learnt tokens, V vocabulary.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import PreTrainedTokenizerFast

from mprm import chartworld
from mprm.backbones.chat import ChatModel
from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.runs.artifacts import atomic_file, write_json
from tools import tiny
from tools.stream import IGNORE, Stream, position_ids, vision_inputs

WEIGHTS = Path(chartworld.__file__).parent / "weights"
HELD_OUT = "held_out.json"  # written last: the model in this folder is finished
BACKBONES = {"internvl": InternVL, "qwen2_5_vl": Qwen2_5_VL}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    family: str  # internvl or qwen2_5_vl
    output: str  # folder that the backbone will load
    # Folder of another tiny backbone whose language model to start from: all their tokenizers number the tokens alike.
    language_model: str | None = None
    steps: int = 6_000
    colours: int = 400  # the first so many steps learn the names of the colours only
    readings: int = 2_000  # the first so many steps, those of `colours` included, learn to read bars only
    batch_size: int = 64  # rows, half solutions and half claims
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    workers: int = 1
    device: str = "cpu"
    bf16: bool = True
    checkpoint_every: int = 500  # steps between resumable states

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} is not positive; leave it out for the usual one")
        if self.batch_size < 16 or self.batch_size % 16:
            raise ValueError(f"batch_size={self.batch_size} is not a multiple of 16; try 64")


# The shipped weights. Both trainings were restarted (LOG.md), so the presets make equivalent, not the same, models.
PRESETS = {
    "chartworld_internvl": Pretraining(family="internvl", output="runs/internvl"),
    # From the language model of the InternVL, or colours are not bound to heights.
    "chartworld_qwen2_5_vl": Pretraining(
        family="qwen2_5_vl", output="runs/qwen2_5_vl", language_model=str(WEIGHTS / "internvl")
    ),
}


def forward(model: ChatModel, family: str, tokens_BL: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Hidden states, (B, L, D)."""
    image_start_B = (tokens_BL == model.hf.config.image_token_id).int().argmax(1)
    positions = position_ids(family, image_start_B, tokens_BL.shape[1])
    return model.hidden(tokens_BL, positions, vision_inputs(images, family))


def losses(
    model: ChatModel, family: str, batch: tuple[torch.Tensor, ...], digits_V: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean loss of the solutions plus mean loss of the claims; accuracy of the numbers and of the verdicts."""
    learnt_BL = batch[1] != IGNORE
    last_B = learnt_BL.shape[1] - 1 - learnt_BL.flip(1).int().argmax(1)
    claim_B = torch.arange(len(last_B), device=last_B.device) >= len(last_B) // 2
    parts = []
    for rows in last_B.argsort().chunk(2):  # the shorter rows are padded less
        tokens_BL, targets_BL, images = (tensor[rows] for tensor in batch)
        known_BL = learnt_BL[rows, : int(last_B[rows].max()) + 1]
        target_K = targets_BL[:, : known_BL.shape[1]][known_BL]
        hidden_KD = forward(model, family, tokens_BL[:, : known_BL.shape[1]], images)[known_BL]
        logits_KV = model.hf.lm_head(hidden_KD).float()
        loss_K = nn.functional.cross_entropy(logits_KV, target_K, reduction="none")
        claim_K = claim_B[rows][:, None].expand_as(known_BL)[known_BL]
        parts.append((loss_K, logits_KV.argmax(-1) == target_K, claim_K, digits_V[target_K]))
    loss_K, hit_K, claim_K, number_K = (torch.cat(column) for column in zip(*parts, strict=True))
    number_K = number_K & ~claim_K
    shown = {
        "loss_solutions": loss_K[~claim_K].mean().item(),
        "loss_claims": loss_K[claim_K].mean().item(),
        "numbers": hit_K[number_K].float().mean().item(),
        "claims": hit_K[claim_K].float().mean().item(),
    }
    # Few tokens are numbers, and they are what is hard: they have a mean of their own.
    means = [loss_K[kind].mean() for kind in (~claim_K & ~number_K, number_K, claim_K) if kind.any()]
    return torch.stack(means).sum(), shown


def load(config: Pretraining) -> tuple[ChatModel, PreTrainedTokenizerFast, torch.Tensor]:
    """The model in config.output, its tokenizer, and which of its tokens (V,) are numbers."""
    _, model = BACKBONES[config.family](path=config.output, vision="trained").load()
    model.to(config.device)
    # On the CPU the backward pass of the fused kernel takes three times as long as plain matrix products at this size.
    model.hf.set_attn_implementation("eager" if config.device == "cpu" else "sdpa")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(config.output)
    vocabulary = model.hf.get_input_embeddings().weight.shape[0]
    digits = [tokenizer.decode([token]).strip().isdigit() for token in range(vocabulary)]
    return model, tokenizer, torch.tensor(digits, device=config.device)


def pretrain(config: Pretraining, seed: int) -> Path:
    """Train and write the folder config.output: the model in float16, its tokenizer and pretrain.jsonl.

    A run that was stopped goes on from its last state. Returns the folder.
    Raises ValueError if a finished model is there: training never goes on from half-precision weights.
    """
    folder = Path(config.output)
    state_file = folder / "state.pt"
    if (folder / HELD_OUT).is_file():
        raise ValueError(f"output={folder} holds a finished model; delete it, or give another folder")
    if not state_file.is_file():
        torch.manual_seed(seed)
        tiny.build(config.family, folder)
    model, tokenizer, digits_V = load(config)
    model.train()
    optimizer = torch.optim.AdamW(
        model.hf.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    done = 0
    if state_file.is_file():
        state = torch.load(state_file, map_location=config.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    elif config.language_model is not None:
        copy_language_model(config.language_model, model)
    stream = Stream(tokenizer, config.family, config.batch_size, seed, config.steps, config.colours, config.readings)
    loader = DataLoader(
        Subset(stream, range(done, config.steps)),
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )
    started = time.monotonic()
    with (folder / "pretrain.jsonl").open("a" if done else "w") as log:
        for step, batch in enumerate(loader, start=done + 1):
            shown = train_step(model, optimizer, config, step, batch, digits_V)
            if step % 50 == 0 or step == config.steps:
                # No number is learnt as long as colours alone are.
                rounded = {name: None if math.isnan(value) else round(value, 5) for name, value in shown.items()}
                line = json.dumps({"step": step, "seconds": round(time.monotonic() - started, 1), **rounded})
                print(line, file=log, flush=True)
                print(line, flush=True)
            if step % config.checkpoint_every == 0 and step < config.steps:
                with atomic_file(state_file) as temporary:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    torch.save(state, temporary)
                save_half(model, folder)
    save_half(model, folder)
    state_file.unlink(missing_ok=True)
    return folder


def copy_language_model(path: str, model: ChatModel) -> None:
    """Layers and embeddings of another tiny backbone's language model; what it has not stays as it is.

    Raises ValueError if there is no such backbone.
    """
    weights = Path(path) / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"language_model={path} has no model.safetensors; give the folder of a tiny backbone")
    tensors = {name: value.float() for name, value in load_file(weights).items()}
    layers = {name: value for name, value in tensors.items() if ".language_model.layers." in name}
    unexpected = model.hf.load_state_dict(layers, strict=False).unexpected_keys
    assert not unexpected, unexpected
    with torch.no_grad():
        table = tensors["model.language_model.embed_tokens.weight"]
        model.hf.get_input_embeddings().weight[: len(table)] = table


def train_step(
    model: ChatModel,
    optimizer: torch.optim.Optimizer,
    config: Pretraining,
    step: int,
    batch: tuple[torch.Tensor, ...],
    digits_V: torch.Tensor,
) -> dict[str, float]:
    """Optimizer step number `step`, counted from 1; returns what is logged."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * schedule(step, config.warmup_steps, config.steps)
    on_device = tuple(tensor.to(config.device, non_blocking=True) for tensor in batch)
    with torch.autocast(config.device, torch.bfloat16, enabled=config.bf16):
        loss, shown = losses(model, config.family, on_device, digits_V)
    loss.backward()
    nn.utils.clip_grad_norm_(model.hf.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return shown


def schedule(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def save_half(model: ChatModel, folder: Path) -> None:
    """Weights in float16, the tied head left out."""
    state = model.hf.state_dict()
    tensors = {name: v.detach().cpu().half().contiguous() for name, v in state.items() if name != "lm_head.weight"}
    with atomic_file(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


@torch.no_grad()
def held_out_accuracy(config: Pretraining, seed: int, batches: int = 4) -> dict[str, float]:
    """Share of numbers and of single claims that the written model gets right on newly drawn charts."""
    model, tokenizer, digits_V = load(config)
    model.eval()
    stream = Stream(tokenizer, config.family, 256, seed, batches, part="benchmark")
    totals = []
    for index in range(batches):
        batch = tuple(tensor.to(config.device) for tensor in stream[index])
        totals.append(losses(model, config.family, batch, digits_V)[1])
    return {name: float(np.mean([total[name] for total in totals])) for name in totals[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make one of the tiny backbones.")
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--output", required=True, help="folder for the model, its tokenizer and the log")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("steps", "colours", "readings", "batch_size", "workers", "checkpoint_every"):
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--device", default=argparse.SUPPRESS, help="cpu, cuda, cuda:1")
    settings = vars(parser.parse_args(arguments))
    preset, seed = PRESETS[settings.pop("preset")], settings.pop("seed")
    try:
        config = replace(preset, **settings)
        folder = pretrain(config, seed)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    accuracy = held_out_accuracy(config, seed)
    write_json(folder / HELD_OUT, accuracy)
    print(f"wrote {folder}: {accuracy['numbers']:.1%} of numbers, {accuracy['claims']:.1%} of claims right")


if __name__ == "__main__":
    main()
