"""One run of stage 3, from the curated pairs to weights.safetensors, resumed where an earlier one stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mprm.backbones.chat import ChatModel
from mprm.batching.order import Order
from mprm.batching.packing import Lengths
from mprm.judge.grpo import GRPO, Asked, Prompts, Reinforcement
from mprm.judge.judge import Judge
from mprm.training.batches import BatchPlan
from mprm.training.checkpoint import save_weights
from mprm.training.datamodule import Rows
from mprm.training.fit import checkpoint_of, optimise
from mprm.training.history import Mirror
from mprm.training.lengths import token_lengths
from mprm.training.recipe import Machine


def reinforce(
    model: ChatModel,
    prompts: Prompts,
    entropy_N: np.ndarray,
    order: Order,
    recipe: GRPO,
    machine: Machine,
    max_length: int,
    folder: Path,
    seed: int,
    mirror: Mirror | None = None,
) -> dict[str, Any]:
    """Train `model` in place and write metrics.jsonl, checkpoints/ and weights.safetensors into `folder`.

    entropy_N: of the pairs, nats. Pairs whose prompt and longest response have more than max_length tokens are left out
    and counted.
    Returns optimizer_steps, pairs, too_long, the step it was resumed from and the number of skipped_steps.
    Raises ValueError if a pair with all of its responses does not fit the machine's max_tokens.
    """
    check_sampling(prompts.judge, machine)
    model.speak()
    if recipe.epochs == 0:
        save_weights(model, folder / "weights.safetensors")
        return {"optimizer_steps": 0, "pairs": 0, "too_long": 0, "resumed_from": 0, "skipped_steps": 0}
    checkpoint, start = checkpoint_of(folder, machine)
    machine.check(recipe)
    longest = prompts.judge.max_new_tokens
    lengths = token_lengths(prompts, machine.num_workers)
    usable = np.flatnonzero(lengths.tokens + longest <= max_length)
    # As long as its responses can become: how a step is cut must not depend on what will be drawn.
    lengths = Lengths(lengths.tokens + recipe.group_size * longest, lengths.tokens, lengths.question)
    check_fit(lengths, usable, recipe, prompts.judge, machine, max_length)
    epochs = [usable[order.epoch(usable, entropy_N[usable], seed, epoch)] for epoch in range(recipe.epochs)]
    plan = BatchPlan(
        order=np.concatenate(epochs),
        n_scored=np.ones(len(prompts), dtype=np.int64),
        lengths=lengths,
        global_batch_size=recipe.global_batch_size,
        max_tokens=machine.max_tokens,
        world_size=machine.devices * machine.num_nodes,
    )
    module = Reinforcement(model, prompts, recipe, plan.optimizer_steps, seed)
    loaders = Rows(prompts, plan, start, 0, Asked)
    skipped = optimise(module, loaders, machine, folder, checkpoint, seed, mirror)
    return {
        "optimizer_steps": plan.optimizer_steps,
        "pairs": len(usable),
        "too_long": len(prompts) - len(usable),
        "resumed_from": start,
        "skipped_steps": skipped,
    }


def check_sampling(judge: Judge, machine: Machine) -> None:
    """Raises ValueError if all responses of a group would be the same, or the machine's strategy can write none."""
    if judge.temperature == 0:
        raise ValueError(
            "judge.temperature=0 writes the same response again and again, which leaves grpo nothing to compare; try "
            "judge.temperature=1"
        )
    if machine.strategy == "deepspeed_stage_3":
        raise ValueError(
            "trainer.strategy=deepspeed_stage_3 shards the weights that every response needs whole; use "
            "trainer=gpu, with backbone.language_model=lora if they do not fit"
        )


def check_fit(
    lengths: Lengths, usable: np.ndarray, recipe: GRPO, judge: Judge, machine: Machine, max_length: int
) -> None:
    """Raises ValueError if no pair is left, or one does not fit."""
    if not len(usable):
        raise ValueError(
            f"backbone.max_length={max_length} is less than any prompt and judge.max_new_tokens={judge.max_new_tokens} "
            "have; raise it"
        )
    if (most := int(lengths.tokens[usable].max())) > machine.max_tokens:
        raise ValueError(
            f"trainer.max_tokens={machine.max_tokens} is less than the {most} tokens of a pair with "
            f"grpo.group_size={recipe.group_size} responses of judge.max_new_tokens={judge.max_new_tokens}; raise it, "
            "or lower these"
        )
