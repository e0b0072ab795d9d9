"""Stage 3: reinforcement learning by GRPO (arXiv 2402.03300), in the order that `order` gives: low entropy first.

Every optimizer step draws a group of responses per pair from the judge as it is, rewards them, and makes those more
likely that earn more than their group's mean. Each response serves one step, so that the ratio of the new to the old
policy is 1 and there is nothing to clip; no reference model is held, and no divergence from one is punished.

Shape suffixes: G responses of a pair, M tokens of all responses in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torchmetrics import MeanMetric, Metric, SumMetric

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.batching.collate import Example
from mprm.batching.examples import image_size, open_images
from mprm.inference.local import Generation
from mprm.inference.policy import key_hash
from mprm.inference.scoring import answered
from mprm.judge.judge import Judge, Shown, shown
from mprm.judge.likelihood import in_a_row, log_likelihood
from mprm.judge.respond import prompt_of, sampler_of
from mprm.training.module import Optimised
from mprm.training.recipe import Recipe

LEAST_DEVIATION = 1e-4  # added to a group's, which is 0 where all earn the same


@dataclass(frozen=True, kw_only=True)
class GRPO(Recipe):
    """Component `grpo`; global_batch_size: pairs per optimizer step.

    group_size: responses per pair; verdict_reward: for the verdict that the label gives; format_reward: for reasoning
    that ends in a verdict, whichever it is.
    """

    GROUP: ClassVar[str] = "grpo"

    group_size: int = 8
    verdict_reward: float = 1.0
    format_reward: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise ValueError(f"grpo.group_size={self.group_size} leaves nothing to compare with; give 2 or more")
        for name in ("verdict_reward", "format_reward"):
            if getattr(self, name) < 0:
                raise ValueError(f"grpo.{name}={getattr(self, name)} is negative")

    def reward(self, verdict: str | None, better: str) -> float:
        """Of a response with this verdict, None: without one."""
        return self.format_reward * (verdict is not None) + self.verdict_reward * (verdict == better)


def advantages(reward_G: torch.Tensor) -> torch.Tensor:
    """(reward - mean) / (standard deviation + 1e-4) within the group, (G,).

    Example: rewards 1, 0, 0, 0 have mean 0.25 and deviation 0.4330: advantages 1.7317, and -0.5772 three times.
    """
    return (reward_G - reward_G.mean()) / (reward_G.std(correction=0) + LEAST_DEVIATION)


def grpo_losses(logp_M: torch.Tensor, advantage_M: torch.Tensor) -> torch.Tensor:
    """-ratio x advantage of every token, (M,): the ratio of the policy to itself is 1, its gradient that of logp."""
    return -(logp_M - logp_M.detach()).exp() * advantage_M


@dataclass(frozen=True)
class Asked:
    """Positions of pairs and the weight of each in the loss: what a loader hands over instead of tensors."""

    keys: list[tuple[int, float]]

    def to(self, device: torch.device, non_blocking: bool = False) -> Asked:
        return self

    def pin_memory(self) -> Asked:
        return self


class Prompts:
    """Map-style view of pairs to be judged; a row of them is an Asked, once it is collated."""

    def __init__(self, pairs: Sequence[Shown], processor: ChatProcessor, judge: Judge) -> None:
        self.pairs = pairs
        self.processor = processor
        self.judge = judge
        self.question = np.arange(len(pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def layout(self, position: int) -> Example:
        """The prompt without its pixels."""
        one = self.pairs[position]
        asked = self.processor.ask([image_size(path) for path in one.images], one.text, self.judge.instruction)
        return replace(asked, group=position)

    def __getitems__(self, keys: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
        return list(keys)


class Reinforcement(Optimised):
    """Draws, rewards, learns. Logged per optimizer step, over the responses of the global batch: train/loss,
    train/reward, train/accuracy (right verdicts), train/format (any verdict), train/entropy (nats), train/tokens."""

    model: ChatModel

    def __init__(self, model: ChatModel, prompts: Prompts, recipe: GRPO, optimizer_steps: int, seed: int) -> None:
        super().__init__(model, recipe, optimizer_steps)
        self.grpo = recipe
        self.prompts = prompts
        self.seed = seed
        judge = prompts.judge
        self.sampler = sampler_of(judge, prompts.processor, model, judge.temperature, seed)
        self.loss = SumMetric(nan_strategy="disable")  # the weights of a global batch sum to 1
        self.reward, self.accuracy, self.format, self.entropy, self.tokens = (MeanMetric() for _ in range(5))

    def curve(self) -> dict[str, Metric]:
        names = ("reward", "accuracy", "format", "entropy", "tokens")
        return {"train/loss": self.loss} | {f"train/{name}": getattr(self, name) for name in names}

    def training_step(self, asked: Asked, batch_index: int) -> torch.Tensor:
        pairs = [self.in_some_order(self.prompts.pairs[position]) for position, _ in asked.keys]
        examples: list[Example] = []
        advantage: list[torch.Tensor] = []
        for number, (one, group) in enumerate(zip(pairs, self.responses(pairs), strict=True)):
            weight = asked.keys[number][1] / len(group)
            reward_G = torch.tensor(self.rewards(one, group, weight > 0))
            examples += self.examples(one, group, weight, number)
            lengths = torch.tensor([len(example.marks) for example in examples[-len(group) :]])
            advantage.append(advantages(reward_G).repeat_interleave(lengths))
        batch = in_a_row(examples).to(self.device)
        logp_M = log_likelihood(self.model, batch, self.prompts.judge.temperature)
        loss_M = grpo_losses(logp_M, torch.cat(advantage).to(self.device))
        self.loss.update((loss_M.detach() * batch.row.weight_M).sum())
        # Lightning divides by the accumulated micro-batches and DDP by the ranks: undo both.
        return (loss_M * batch.row.weight_M).sum() * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def in_some_order(self, one: Shown) -> Shown:
        """The pair with its answers in an order that the seed, the step and the pair alone decide."""
        swapped = key_hash(f"{self.seed}\0{self.trainer.global_step}\0{one.pair.id}") % 2 == 1
        return shown(one.pair, one.images, swapped)

    def responses(self, pairs: Sequence[Shown]) -> list[list[Generation]]:
        """A group per pair, drawn from the judge as it is; the random numbers depend on seed, step and pair alone."""
        self.model.eval()  # layers that are checkpointed in training could not keep what they have seen
        drawn = [prompt_of(one, self.grpo.group_size) for one in pairs]
        step = self.trainer.global_step
        found = self.sampler.generate([replace(prompt, key=f"{step}\0{prompt.key}") for prompt in drawn])
        self.model.train()
        return found

    def rewards(self, one: Shown, group: Sequence[Generation], counted: bool) -> list[float]:
        """Of every response of a pair; counted: they enter what is logged."""
        verdicts = [self.verdict(generation) for generation in group]
        rewards = [self.grpo.reward(verdict, one.better) for verdict in verdicts]
        for generation, verdict, reward in zip(group, verdicts, rewards, strict=True):
            # A row left empty has a filler, which weighs nothing.
            self.reward.update(reward, counted)
            self.accuracy.update(float(verdict == one.better), counted)
            self.format.update(float(verdict is not None), counted)
            self.entropy.update(generation.entropy, counted)
            self.tokens.update(len(generation.ids), counted)
        return rewards

    def verdict(self, generation: Generation) -> str | None:
        """None, too, of a response that was cut off."""
        return self.prompts.judge.verdict_of(self.sampler.text(generation)) if generation.finished else None

    def examples(self, one: Shown, group: Sequence[Generation], weight: float, number: int) -> list[Example]:
        """The responses behind their prompt, which they share; a token weighs `weight` / tokens of its response."""
        processor = self.prompts.processor
        images = open_images(one.images)
        asked = processor.ask([image.size for image in images], one.text, self.prompts.judge.instruction)
        asked = replace(asked, vision=processor.vision(images), group=number)
        examples = [answered(asked, generation.tokens) for generation in group]
        return [replace(example, weight=weight / len(example.marks)) for example in examples]
