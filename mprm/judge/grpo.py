"""Stage 3: reinforcement learning by GRPO (arXiv 2402.03300), in the order that `order` gives: low entropy first.

Every optimizer step draws a group of responses per pair from the judge as it is, rewards them, and makes those more
likely that earn more than their group's mean. A group whose responses all earn the same has no advantage and is
skipped; it counts in the mean over the pairs, as published, so that the gradient is the smaller the fewer groups are
left. Each response serves one step: the ratio of the new to the old policy is 1, and there is nothing to clip. There is
no reference model.

Shape suffixes: N pairs, G responses of a pair, M tokens of all responses in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torchmetrics import MeanMetric, SumMetric

from mprm.backbones.chat import ChatModel, encode_text
from mprm.batching.collate import Example
from mprm.batching.examples import image_tensors, in_every_row, open_images
from mprm.batching.order import Lengths
from mprm.inference.local import Generation
from mprm.inference.scoring import answered
from mprm.judge.judge import PresentedPair, in_seeded_order, sampler_of
from mprm.judge.sft import Prompts, collate_responses, log_likelihood
from mprm.training.lengths import Measured, token_lengths
from mprm.training.module import TrainingModule
from mprm.training.recipe import Machine, Recipe, Schedule

LEAST_DEVIATION = 1e-4  # added to a group's


@dataclass(frozen=True, kw_only=True)
class GRPO(Recipe):
    """Component `grpo`; global_batch_size: pairs per optimizer step."""

    GROUP: ClassVar[str] = "grpo"

    # Responses per pair.
    group_size: int = 8
    # Of the responses that are drawn, and of the policy that is trained.
    temperature: float = 1.0
    # For the verdict that the label gives.
    verdict_reward: float = 1.0
    # For reasoning that ends in a verdict, whichever it is.
    format_reward: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2:
            raise ValueError(f"grpo.group_size={self.group_size} leaves nothing to compare with; give 2 or more")
        if not self.temperature > 0:
            raise ValueError(
                f"grpo.temperature={self.temperature} is not positive: all responses of a group would be the same, "
                "with nothing to compare; try 1"
            )
        for name in ("verdict_reward", "format_reward"):
            if getattr(self, name) < 0:
                raise ValueError(f"grpo.{name}={getattr(self, name)} is negative")

    def reward(self, verdict: str | None, better: str) -> float:
        """Of a response with this verdict, None: without one."""
        return self.format_reward * (verdict is not None) + self.verdict_reward * (verdict == better)


def advantages(reward_G: torch.Tensor) -> torch.Tensor:
    """(reward - mean) / (standard deviation + 1e-4) within the group, (G,); exactly 0 where all earn the same.

    Example: rewards 1, 0, 0, 0 have mean 0.25 and deviation 0.4330: advantages 1.7317, and -0.5772 three times.
    """
    if reward_G.min() == reward_G.max():  # from which the mean, rounded, may be a little away
        return torch.zeros_like(reward_G)
    return (reward_G - reward_G.mean()) / (reward_G.std(correction=0) + LEAST_DEVIATION)


def grpo_losses(logp_M: torch.Tensor, advantage_M: torch.Tensor) -> torch.Tensor:
    """-ratio x advantage of every token, (M,): the ratio of the policy to itself is 1, its gradient that of logp."""
    return -(logp_M - logp_M.detach()).exp() * advantage_M


def measure_prompts(prompts: Prompts, recipe: GRPO, machine: Machine, max_length: int) -> Measured:
    """The pairs whose prompt and longest response have at most max_length tokens, and how many are too_long.

    A pair is as long as its responses can become: how a step is cut must not depend on what will be drawn.
    Raises ValueError if no pair is left, or one with all of its responses does not fit the machine's max_tokens.
    """
    longest = prompts.judge.max_new_tokens
    measured = token_lengths(prompts, machine.num_workers)
    usable = np.flatnonzero(measured.tokens + longest <= max_length)
    if not len(usable):
        raise ValueError(
            f"backbone.max_length={max_length} is less than any prompt and judge.max_new_tokens={longest} have; "
            "raise it"
        )
    lengths = Lengths(measured.tokens + recipe.group_size * longest, measured.tokens, measured.question)
    if (most := int(lengths.tokens[usable].max())) > machine.max_tokens:
        raise ValueError(
            f"trainer.max_tokens={machine.max_tokens} is less than the {most} tokens of a pair with "
            f"grpo.group_size={recipe.group_size} responses of judge.max_new_tokens={longest}; raise it, or lower these"
        )
    return Measured(prompts, lengths, usable, {"too_long": len(prompts) - len(usable)})


def check_machine(machine: Machine) -> None:
    """Raises ValueError if its strategy cannot write responses."""
    if machine.strategy == "deepspeed_stage_3":
        raise ValueError(
            "trainer.strategy=deepspeed_stage_3 shards the weights that every response needs whole; use "
            "trainer=gpu, with backbone.language_model=lora if they do not fit"
        )


class Reinforcement(TrainingModule):
    """Draws, rewards, learns. Logged, over the responses of the global batch: train/loss, train/reward, train/accuracy
    (right verdicts), train/format (any verdict), train/entropy (nats), train/tokens."""

    rows_are_planned = False
    model: ChatModel

    def __init__(self, model: ChatModel, prompts: Prompts, recipe: GRPO, schedule: Schedule) -> None:
        """recipe: the schedule's."""
        means = {name: MeanMetric() for name in ("reward", "accuracy", "format", "entropy", "tokens")}
        # A sum: the weights of a global batch sum to 1.
        super().__init__(model, schedule, {"loss": SumMetric(nan_strategy="disable"), **means})
        self.grpo = recipe
        self.prompts = prompts
        self.sampler = sampler_of(prompts.judge, prompts.processor, model, recipe.temperature, schedule.seed)

    @staticmethod
    def collate(keys: list[tuple[int, float]]) -> torch.Tensor:
        """(N, 2) float64: positions of the pairs, and their weights in the loss."""
        return torch.tensor(keys, dtype=torch.float64)

    def prepare(self) -> None:
        check_machine(self.schedule.machine)
        self.model.train_generation()

    def terms(self, part: Measured) -> np.ndarray:
        """A pair is one: it weighs as much as any other, however long its responses become."""
        return np.ones(len(part.lengths), dtype=np.int64)

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        counted = [(int(position), weight) for position, weight in batch.tolist() if weight > 0]
        pairs = [self.in_some_order(self.prompts.pairs[position]) for position, _ in counted]
        groups = self.responses(pairs)
        advantages_G = [advantages(self.rewards(one, group)) for one, group in zip(pairs, groups, strict=True)]
        chosen = [number for number, advantage_G in enumerate(advantages_G) if advantage_G.any()]
        if not chosen:  # a gradient of 0, for other ranks to be added to
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return torch.cat([parameter.flatten()[:0] for parameter in trained]).sum()
        return self.loss_of(
            [pairs[number] for number in chosen],
            [groups[number] for number in chosen],
            [advantages_G[number] for number in chosen],
            [counted[number][1] for number in chosen],
        )

    def rehearse(self, batch: torch.Tensor) -> torch.Tensor:
        """Of responses that nobody wrote, as long as they can become."""
        judge, tokenizer = self.prompts.judge, self.prompts.processor.tokenizer
        words = encode_text(tokenizer, [str(number) for number in range(self.grpo.group_size)])
        responses = [Generation((ids * judge.max_new_tokens)[: judge.max_new_tokens], False, 0.0) for ids in words]
        positions, weights = batch.T.tolist()
        pairs, n = [self.prompts.pairs[int(position)] for position in positions], len(positions)
        return self.loss_of(pairs, [responses] * n, [torch.ones(len(responses))] * n, weights)

    def loss_of(
        self,
        pairs: Sequence[PresentedPair],
        groups: Sequence[Sequence[Generation]],  # responses to every pair
        advantages_G: Sequence[torch.Tensor],  # how much more each response earns than the others of its group
        weights: Sequence[float],  # of the pairs; all responses of a pair weigh the same, and all tokens of a response
    ) -> torch.Tensor:
        judge, processor = self.prompts.judge, self.prompts.processor
        examples: list[Example] = []
        advantage: list[torch.Tensor] = []
        vision = in_every_row([image_tensors(open_images(one.images), processor) for one in pairs], processor)
        for number, (one, group, advantage_G) in enumerate(zip(pairs, groups, advantages_G, strict=True)):
            # Responses share their prompt.
            asked = replace(judge.layout(one, processor), vision=vision[number], group=number)
            for generation, advantage_of_response in zip(group, advantage_G, strict=True):
                example = answered(asked, generation.tokens)
                n_tokens = len(example.marks)
                examples.append(replace(example, weight=weights[number] / len(group) / n_tokens))
                advantage.append(advantage_of_response.expand(n_tokens))
        batch = collate_responses(examples).to(self.device)
        logp_M = log_likelihood(self.model, batch, self.grpo.temperature)
        loss = (grpo_losses(logp_M, torch.cat(advantage).to(self.device)) * batch.row.weight_M).sum()
        self.curve["loss"].update(loss.detach())
        return loss

    def in_some_order(self, one: PresentedPair) -> PresentedPair:
        return in_seeded_order(one, self.schedule.seed, self.trainer.global_step)

    def responses(self, pairs: Sequence[PresentedPair]) -> list[list[Generation]]:
        """A group per pair, drawn from the judge as it is; the random numbers depend on seed, step and pair alone."""
        self.model.eval()  # layers that are checkpointed in training could not keep what they have seen
        self.teardown("fit")  # and each that is compiled would be compiled for itself
        step = self.trainer.global_step
        prompts = [one.prompt(self.grpo.group_size) for one in pairs]
        found = self.sampler.generate([replace(prompt, key=f"{step}\0{prompt.key}") for prompt in prompts])
        self.setup("fit")
        self.model.train()
        return found

    def rewards(self, one: PresentedPair, group: Sequence[Generation]) -> torch.Tensor:
        """Of every response of a pair, (G,); they enter what is logged."""
        rewards = []
        for generation in group:
            # A response that was cut off has no verdict.
            verdict = self.prompts.judge.verdict_of(self.sampler.text(generation.ids)) if generation.finished else None
            rewards.append(self.grpo.reward(verdict, one.better))
            self.curve["reward"].update(rewards[-1])
            self.curve["accuracy"].update(float(verdict == one.better))
            self.curve["format"].update(float(verdict is not None))
            self.curve["entropy"].update(generation.entropy)
            self.curve["tokens"].update(len(generation.ids))
        return torch.tensor(rewards)
