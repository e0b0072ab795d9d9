"""`task=pretrain`: teach a tiny backbone to solve and to judge, as a real vision-language model can before PRM training.

Half of every batch is right solutions, learnt by next-token prediction; half is solutions with errors, where every
line is followed by " ?" and the model must continue with Yes or No. The verdicts are targets only: they never
stand in the input, or the model would copy the earlier ones. Wording and mark differ from the PRM prompt.

Batches are a function of (seed, step), so a run is the same with any number of workers and can be resumed.
Shape suffixes: B rows, L tokens, V vocabulary.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from mprm.backbones.base import StepModel
from mprm.backbones.internvl import MEAN, STD, InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.chartworld import tiny
from mprm.chartworld.solver import Skill, Solver, step_texts
from mprm.chartworld.world import IMAGE_SIZE, PATCH, draw, question_text, sample_problems

CLAIM = " ?"
MAX_TOKENS = 96  # a longer row loses its tail
IGNORE = -100
RIGHT = Skill(misread=0.0, slip=0.0, look_again=0.0, illusion=0.0)
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Component `pretrain`. family: internvl or qwen2_5_vl; output: folder that the backbone will load;
    batch_size: rows, half of them solutions and half claims; checkpoint_every: steps between resumable states."""

    family: str = "internvl"
    output: str = "runs/pretrain"
    steps: int = 10_000
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    workers: int = 1
    device: str = "cpu"
    bf16: bool = True
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if self.family not in tiny.IMAGE_TOKENS:
            raise ValueError(f"pretrain.family={self.family} is unknown; use one of {', '.join(tiny.IMAGE_TOKENS)}")
        if self.batch_size < 16 or self.batch_size % 16:
            raise ValueError(f"pretrain.batch_size={self.batch_size} is not a multiple of 16; eight skills share a batch")


class Stream(Dataset):
    """Batches by step: tokens (B, L), targets (B, L; IGNORE where nothing is learnt) and uint8 images (B, 56, 56, 3)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, family: str, batch_size: int, seed: int, steps: int) -> None:
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        start, context, end = tokenizer.convert_tokens_to_ids(tiny.IMAGE_TOKENS[family])
        self.image_ids = [start, *[context] * (IMAGE_SIZE // (2 * PATCH)) ** 2, end]
        self.cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.steps

    def ids(self, text: str) -> list[int]:
        if text not in self.cache:
            self.cache[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self.cache[text]

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, step])
        half, groups = self.batch_size // 2, 8
        rows = [self.group(rng, half, RIGHT, claims=False)]
        for _ in range(groups):
            skill = Skill(rng.uniform(0.05, 0.35), rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.6), illusion=0.02)
            rows.append(self.group(rng, half // groups, skill, claims=True))
        tokens, targets, images = (np.concatenate(column) for column in zip(*rows, strict=True))
        return torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(images)

    def group(
        self, rng: np.random.Generator, count: int, skill: Skill, claims: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        problems = sample_problems(rng, count)
        trace, _ = Solver(problems, skill, rng).run()
        tokens = np.full((count, MAX_TOKENS), self.tokenizer.pad_token_id, dtype=np.int64)
        targets = np.full((count, MAX_TOKENS), IGNORE, dtype=np.int64)
        verdicts = (self.ids("No")[0], self.ids("Yes")[0])
        for row in range(count):
            question = question_text(problems, row) + (" Is each line right?" if claims else "")
            ids = [*self.ids("<|im_start|>user\n"), *self.image_ids, *self.ids("\n"), *self.ids(question)]
            ids += self.ids("<|im_end|>\n<|im_start|>assistant\n")
            start, places = len(ids), []
            for text in step_texts(problems, trace, row):
                ids += self.ids(text + CLAIM if claims else text)
                places.append(len(ids) - 1)
                ids += self.ids("\n")
            ids.append(self.tokenizer.eos_token_id)
            length = min(len(ids), MAX_TOKENS)
            tokens[row, :length] = ids[:length]
            if not claims:
                targets[row, start - 1 : length - 1] = tokens[row, start:length]
                continue
            for place, right in zip(places, trace.correct_ST[row], strict=False):
                if place < length:
                    targets[row, place] = verdicts[int(right)]
        return tokens, targets, draw(problems)


def vision_inputs(images_BHWC: torch.Tensor, family: str) -> dict[str, torch.Tensor]:
    """What the family's processor makes of the world's images, batched on the device."""
    mean, std = (MEAN, STD) if family == "internvl" else (CLIP_MEAN, CLIP_STD)
    mean_C, std_C = (torch.from_numpy(x).to(images_BHWC.device) for x in (mean, std))
    pixels_BCHW = ((images_BHWC.float() / 255 - mean_C) / std_C).permute(0, 3, 1, 2)
    if family == "internvl":
        return {"pixel_values": pixels_BCHW.contiguous()}
    # Patches ordered by blocks of 2 x 2; a still image is two equal frames.
    side = IMAGE_SIZE // (2 * PATCH)
    blocks = pixels_BCHW.unflatten(3, (side, 2, PATCH)).unflatten(2, (side, 2, PATCH))
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    grid = torch.tensor([1, 2 * side, 2 * side], device=images_BHWC.device).expand(len(images_BHWC), 3)
    return {"pixel_values": patches.reshape(-1, 3 * 2 * PATCH * PATCH), "image_grid_thw": grid}


def position_ids(family: str, image_start: int, length: int, rows: int) -> torch.Tensor:
    """Positions of the pretraining layout, whose image always starts at the same token."""
    if family == "internvl":
        return torch.arange(length).expand(rows, -1)
    side = IMAGE_SIZE // (2 * PATCH)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grid = torch.stack([torch.zeros_like(row), row, column]).flatten(1) + image_start
    head = torch.arange(image_start).expand(3, -1)
    tail = torch.arange(image_start + side, length + side - side * side).expand(3, -1)
    return torch.cat([head, grid, tail], dim=1)[:, None].expand(-1, rows, -1)


def forward(model: StepModel, family: str, tokens_BL: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Hidden states, (B, L, D)."""
    image_start = int((tokens_BL[0] == model.hf.config.image_token_id).nonzero()[0])
    positions = position_ids(family, image_start, tokens_BL.shape[1], len(tokens_BL)).to(tokens_BL.device)
    return model.hidden(tokens_BL, positions, vision_inputs(images, family))


def half_losses(
    model: StepModel, family: str, batch: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, hit and target at every learnt token of rows of one kind, each (K,)."""
    tokens_BL, targets_BL, images = batch
    longest = int((targets_BL != IGNORE).any(0).nonzero().max()) + 1
    known_BL = targets_BL[:, :longest] != IGNORE
    target_K = targets_BL[:, :longest][known_BL]
    logits_KV = model.hf.lm_head(forward(model, family, tokens_BL[:, :longest], images)[known_BL]).float()
    return nn.functional.cross_entropy(logits_KV, target_K, reduction="none"), logits_KV.argmax(-1) == target_K, target_K


def losses(
    model: StepModel, family: str, batch: tuple[torch.Tensor, ...], digits_V: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean loss of the solutions plus mean loss of the claims; accuracy of the numbers and of the verdicts."""
    half = len(batch[0]) // 2
    loss_K, hit_K, target_K = half_losses(model, family, tuple(tensor[:half] for tensor in batch))
    claim_loss_K, claim_hit_K, _ = half_losses(model, family, tuple(tensor[half:] for tensor in batch))
    shown = {
        "loss_solutions": loss_K.mean().item(),
        "loss_claims": claim_loss_K.mean().item(),
        "numbers": hit_K[digits_V[target_K]].float().mean().item(),
        "claims": claim_hit_K.float().mean().item(),
    }
    return loss_K.mean() + claim_loss_K.mean(), shown


def pretrain(config: Pretraining, seed: int) -> Path:
    """Train and write the folder config.output: the model in float16, its tokenizer and pretrain.jsonl.

    A run that was stopped goes on from its last state. Returns the folder.
    """
    torch.manual_seed(seed)
    folder = Path(config.output)
    state_file = folder / "state.pt"
    if not (folder / "config.json").is_file():
        tiny.build(config.family, folder)
    component = InternVL if config.family == "internvl" else Qwen2_5_VL
    processor, model = component(path=str(folder), freeze_vision=False).load()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model.to(config.device).train()
    if config.device == "cpu":
        # The backward pass of the fused CPU kernel takes three times as long as plain matrix products at this size.
        model.hf.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(
        model.hf.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    done = 0
    if state_file.is_file():
        state = torch.load(state_file, map_location=config.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    digits_V = torch.tensor(
        [tokenizer.decode([i]).strip().isdigit() for i in range(model.hf.get_input_embeddings().weight.shape[0])],
        device=config.device,
    )
    stream = Stream(tokenizer, config.family, config.batch_size, seed, config.steps)
    loader = DataLoader(
        torch.utils.data.Subset(stream, range(done, config.steps)),
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )
    started = time.monotonic()
    with (folder / "pretrain.jsonl").open("a") as log:
        for step, batch in enumerate(loader, start=done + 1):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(step, config.warmup_steps, config.steps)
            on_device = tuple(tensor.to(config.device, non_blocking=True) for tensor in batch)
            with torch.autocast(config.device, torch.bfloat16, enabled=config.bf16):
                loss, shown = losses(model, config.family, on_device, digits_V)
            loss.backward()
            nn.utils.clip_grad_norm_(model.hf.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 50 == 0 or step == config.steps:
                line = {"step": step, "seconds": round(time.monotonic() - started, 1)}
                line |= {name: round(value, 5) for name, value in shown.items()}
                print(json.dumps(line), file=log, flush=True)
                print(line, flush=True)
            if step % config.checkpoint_every == 0 and step < config.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, state_file.with_suffix(".tmp"))
                state_file.with_suffix(".tmp").replace(state_file)
                save_half(model, folder)
    save_half(model, folder)
    state_file.unlink(missing_ok=True)
    return folder


def schedule(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(1, total - warmup)))


def save_half(model: StepModel, folder: Path) -> None:
    """Weights in float16 without the row of the mark, as the backbone found them."""
    vocabulary = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    tensors = {}
    for name, value in model.hf.state_dict().items():
        if name == "lm_head.weight":
            continue
        rows = value[:vocabulary] if name.endswith("embed_tokens.weight") else value
        tensors[name] = rows.detach().cpu().half().contiguous()
    temporary = folder / "model.safetensors.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")


@torch.no_grad()
def held_out_accuracy(config: Pretraining, seed: int, batches: int = 4) -> dict[str, float]:
    """Share of numbers and of single claims that the written model gets right on charts it never saw."""
    component = InternVL if config.family == "internvl" else Qwen2_5_VL
    _, model = component(path=config.output).load()
    model.eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(config.output)
    count = model.hf.get_input_embeddings().weight.shape[0]
    digits_V = torch.tensor([tokenizer.decode([i]).strip().isdigit() for i in range(count)])
    stream = Stream(tokenizer, config.family, 256, seed + 1_000_003, batches)
    totals = [losses(model, config.family, stream[index], digits_V)[1] for index in range(batches)]
    return {name: float(np.mean([total[name] for total in totals])) for name in totals[0]}
