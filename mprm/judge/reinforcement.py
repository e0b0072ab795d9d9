"""Stage 3: reinforcement learning by GRPO (arXiv 2402.03300), in the order that `order` gives: low entropy first.

Every global batch draws a group of responses per pair from the judge as it is, rewards them, and makes those more
likely that earn more than their group's mean. The loss is a mean over the pairs, over the responses of a pair and over
the tokens of a response, as published. A group whose responses all earn the same has no advantage: it adds 0 to this
mean, and is skipped unless there is a KL term. Where a further pair takes its place, the mean has that pair's loss.

Shape suffixes: N pairs, G responses of a pair, M tokens of all responses in a row.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torchmetrics import MeanMetric, Metric, SumMetric

from mprm.backbones.chat import ChatModel, encode_text
from mprm.batching.collate import Example
from mprm.batching.examples import image_tensors, in_every_row, open_images
from mprm.batching.order import Lengths
from mprm.inference.local import Generation
from mprm.inference.scoring import answered
from mprm.judge.grpo import GRPO, advantages, grpo_losses, kl_losses
from mprm.judge.judge import PresentedPair, in_seeded_order, present, sampler_of
from mprm.judge.sft import Prompts, ResponseBatch, collate_responses, log_likelihood
from mprm.training.lengths import Measured, token_lengths
from mprm.training.module import TrainingModule
from mprm.training.recipe import Machine, Schedule

PATIENCE = 20  # optimizer steps without any reward


class Group(NamedTuple):
    """The responses to a pair."""

    one: PresentedPair
    responses: Sequence[Generation]
    advantage_G: torch.Tensor  # how much more each earns than the others
    weight: float  # of the pair; all its responses weigh the same, and all tokens of a response


@dataclass
class Drawn:
    """What a row learns from, in all its updates."""

    logged: dict[str, list[float]]  # of every response, or group, that was drawn
    learnt: tuple[ResponseBatch, torch.Tensor] | None  # on the CPU, and the advantage of every token, (M,); or nothing
    old_M: torch.Tensor | None = None  # log-probabilities as the responses were drawn; None before the first update
    reference_M: torch.Tensor | None = None  # and before this stage; None without a KL term


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
    """Draws, rewards, learns. Logged, over all responses that a global batch has drawn: train/reward, train/accuracy
    (right verdicts), train/format (any verdict), train/entropy (nats), train/tokens; over their groups: train/advantage
    (those that have one); and of the loss: train/loss, train/kl and train/clipped, the share of it that is clipped. Of
    the pairs held out val/accuracy, val/format, val/entropy, and val/first, the verdicts for the answer shown first."""

    rows_are_planned = False
    model: ChatModel
    without_reward: torch.Tensor  # optimizer steps up to now, in a row

    def __init__(
        self, model: ChatModel, prompts: Prompts, recipe: GRPO, schedule: Schedule, held: Sequence[PresentedPair] = ()
    ) -> None:
        """recipe: the schedule's; held: pairs to be validated on."""
        means = ("reward", "accuracy", "format", "entropy", "tokens", "advantage")
        sums = ("loss", *(["kl"] if recipe.kl else []), *(["clipped"] if recipe.updates > 1 else []))
        curve: dict[str, Metric] = {name: MeanMetric() for name in means}
        # The weights of a global batch sum to 1.
        super().__init__(model, schedule, curve | {name: SumMetric(nan_strategy="disable") for name in sums})
        self.grpo, self.updates = recipe, recipe.updates
        self.prompts, self.held = prompts, held
        self.sampler = sampler_of(prompts.judge, prompts.processor, model, math.inf, recipe.temperature, schedule.seed)
        self.kept: deque[Drawn] = deque()  # of the rows of this rank, in turn, between two updates
        self.register_buffer("without_reward", torch.tensor(0))  # in checkpoints

    @staticmethod
    def collate(keys: list[tuple[int, float]]) -> torch.Tensor:
        """(N, 2) float64: positions of the pairs, and their weights in the loss."""
        return torch.tensor(keys, dtype=torch.float64)

    def prepare(self) -> None:
        check_machine(self.schedule.machine)
        self.model.train_generation()
        if self.grpo.kl:
            self.reference = [parameter.detach().clone() for parameter in self.trained()]

    def trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def drawn_at(self) -> int:
        """The optimizer step that draws what this one learns from."""
        return self.trainer.global_step - self.trainer.global_step % self.updates

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        rows = [(int(position), weight) for position, weight in batch.tolist() if weight > 0]
        update = self.trainer.global_step - self.drawn_at
        drawn = self.kept.popleft() if update else self.draw(rows)
        if update + 1 < self.updates:
            self.kept.append(drawn)
        for name, values in drawn.logged.items():
            self.curve[name].update(torch.tensor(values))
        if drawn.learnt is None:  # a gradient of 0, for other ranks to be added to
            return torch.cat([parameter.flatten()[:0] for parameter in self.trained()]).sum()
        return self.loss_of(drawn)

    def rehearse(self, batch: torch.Tensor) -> torch.Tensor:
        """Of responses that nobody wrote, as long as they can become."""
        judge, tokenizer = self.prompts.judge, self.prompts.processor.tokenizer
        words = encode_text(tokenizer, [str(number) for number in range(self.grpo.group_size)])
        responses = [Generation((ids * judge.max_new_tokens)[: judge.max_new_tokens], False, 0.0) for ids in words]
        pairs = [(self.prompts.pairs[int(position)], weight) for position, weight in batch.tolist()]
        groups = [Group(one, responses, torch.ones(len(responses)), weight) for one, weight in pairs]
        return self.loss_of(Drawn({}, self.in_a_row(groups)))

    def loss_of(self, drawn: Drawn) -> torch.Tensor:
        assert drawn.learnt is not None
        batch, advantage_M = drawn.learnt[0].to(self.device), drawn.learnt[1].to(self.device)
        logp_M = log_likelihood(self.model, batch, self.grpo.temperature)
        if drawn.old_M is None:
            drawn.old_M = logp_M.detach()
        loss_M = grpo_losses(logp_M, drawn.old_M, advantage_M, self.grpo.clip)
        noted = {"loss": loss_M}
        if self.updates > 1:
            noted["clipped"] = (loss_M > -(logp_M - drawn.old_M).exp() * advantage_M).float()
        if drawn.reference_M is not None:
            noted["kl"] = kl_losses(logp_M, drawn.reference_M)
            noted["loss"] = loss_M + self.grpo.kl * noted["kl"]
        sums = {name: (value_M * batch.row.weight_M).sum() for name, value_M in noted.items()}
        for name, value in sums.items():
            self.curve[name].update(value.detach())
        return sums["loss"]

    # ---- what is learnt from

    def draw(self, rows: Sequence[tuple[int, float]]) -> Drawn:
        """Draw and reward the responses to the pairs of a row, given by position and weight."""
        logged: dict[str, list[float]] = {name: [] for name in self.curve}  # a metric that gets nothing would warn
        waiting = {place: [position, *self.further(position)] for place, (position, _) in enumerate(rows)}
        groups: dict[int, Group] = {}  # by place in the row
        for number in range(1 + self.grpo.tries):
            asked = [place for place, positions in waiting.items() if number < len(positions)]
            pairs = [self.in_some_order(self.prompts.pairs[waiting[place][number]]) for place in asked]
            for place, one, responses in zip(asked, pairs, self.responses(pairs), strict=True):
                advantage_G = advantages(self.rewards(one, responses, logged), self.grpo.standardise)
                logged["advantage"].append(float(advantage_G.any()))
                groups[place] = Group(one, responses, advantage_G, rows[place][1])
                if advantage_G.any():
                    del waiting[place]
        learnt = [group for _, group in sorted(groups.items()) if self.grpo.kl or group.advantage_G.any()]
        if not learnt:
            return Drawn(logged, None)
        batch, advantage_M = self.in_a_row(learnt)
        drawn = Drawn(logged, (batch, advantage_M))
        if self.grpo.kl:
            self.exchange()
            with torch.no_grad():
                drawn.reference_M = log_likelihood(self.model, batch.to(self.device), self.grpo.temperature)
            self.exchange()
        return drawn

    def further(self, position: int) -> list[int]:
        """Pairs that may take the place of this one: those at its place in the following global batches that are not
        longer, so that they fit its row."""
        if not self.grpo.tries:
            return []
        plan, step = self.plan, self.drawn_at
        assert plan is not None
        place = plan.seen(step) + plan.chosen(step).index(position) + plan.global_batch_size
        following = plan.order[place :: plan.global_batch_size]
        fitting = following[plan.lengths.tokens[following] <= plan.lengths.tokens[position]]
        return fitting[: self.grpo.tries].tolist()

    def in_a_row(self, groups: Sequence[Group]) -> tuple[ResponseBatch, torch.Tensor]:
        """All responses of the groups in a row, with the weight of every token, and their advantages, (M,)."""
        judge, processor = self.prompts.judge, self.prompts.processor
        examples: list[Example] = []
        advantage: list[torch.Tensor] = []
        vision = in_every_row([image_tensors(open_images(group.one.images), processor) for group in groups], processor)
        for number, group in enumerate(groups):
            # Responses share their prompt.
            asked = replace(judge.layout(group.one, processor), vision=vision[number], group=number)
            for generation, advantage_of_response in zip(group.responses, group.advantage_G, strict=True):
                example = answered(asked, generation.tokens)
                n_tokens = len(example.marks)
                examples.append(replace(example, weight=group.weight / len(group.responses) / n_tokens))
                advantage.append(advantage_of_response.expand(n_tokens))
        return collate_responses(examples), torch.cat(advantage)

    def exchange(self) -> None:
        """The trained weights and their copies change places."""
        torch.clear_autocast_cache()  # of what is cast from those that go
        for number, weight in enumerate(self.trained()):
            weight.data, self.reference[number] = self.reference[number].to(weight), weight.data

    def in_some_order(self, one: PresentedPair) -> PresentedPair:
        return in_seeded_order(one, self.schedule.seed, self.drawn_at)

    def responses(self, pairs: Sequence[PresentedPair], held: bool = False) -> list[list[Generation]]:
        """A group per pair, drawn from the judge as it is; the random numbers depend on seed, step and pair alone. To
        those that are held out one response, whose numbers are the same at every step."""
        if not pairs:
            return []
        n, key = (1, "held out") if held else (self.grpo.group_size, str(self.drawn_at))
        self.model.eval()  # layers that are checkpointed in training could not keep what they have seen
        self.teardown("fit")  # and each that is compiled would be compiled for itself
        found = self.sampler.generate([replace(one.prompt(n), key=f"{key}\0{one.key}") for one in pairs])
        self.setup("fit")
        self.model.train()
        return found

    def rewards(
        self, pair: PresentedPair, responses: Sequence[Generation], logged: dict[str, list[float]]
    ) -> torch.Tensor:
        """Of every response to a pair, (G,); logged: gets them, and what else is known."""
        verdicts = [self.verdict(one) for one in responses]
        rewards = [self.grpo.reward(verdict, pair.better) for verdict in verdicts]
        logged["reward"] += rewards
        logged["accuracy"] += [float(verdict == pair.better) for verdict in verdicts]
        logged["format"] += [float(verdict is not None) for verdict in verdicts]
        logged["entropy"] += [one.entropy for one in responses]
        logged["tokens"] += [float(len(one.ids)) for one in responses]
        return torch.tensor(rewards)

    def verdict(self, response: Generation) -> str | None:
        """A or B; None also where it was cut off."""
        return self.prompts.judge.verdict_of(self.sampler.text(response.ids)) if response.finished else None

    def validate(self) -> dict[str, float]:
        """A response to every pair held out, in both orders of its answers; no verdict is wrong."""
        if not self.held:
            return {}
        own = self.held[self.trainer.global_rank :: self.trainer.world_size]
        pairs = [present(one.pair, one.images, swapped) for one in own for swapped in (False, True)]
        with self.trainer.precision_plugin.val_step_context():
            found = [response for [response] in self.responses(pairs, held=True)]
        verdicts = [self.verdict(one) for one in found]
        values = {
            "accuracy": [verdict == one.better for verdict, one in zip(verdicts, pairs, strict=True)],
            "format": [verdict is not None for verdict in verdicts],
            "first": [verdict == "A" for verdict in verdicts if verdict],
            "entropy": [one.entropy for one in found],
        }
        logged = {}
        for name, of_rank in values.items():
            mean = MeanMetric().to(self.device)  # over all ranks
            mean.update(torch.tensor(of_rank, dtype=torch.float32))
            logged[f"val/{name}"] = float(mean.compute())
        return {name: value for name, value in logged.items() if not math.isnan(value)}  # as of no verdict

    def look(self, logged: dict[str, float]) -> None:
        """Raises ValueError if nothing has been rewarded for PATIENCE steps."""
        unrewarded = logged["train/reward"] == 0
        self.without_reward.copy_((self.without_reward + 1) * unrewarded)
        if self.without_reward >= PATIENCE:
            raise ValueError(
                f"no response of the last {PATIENCE} steps earned a reward ({logged['train/format']:.0%} of the last "
                "step's had a verdict), so that there is nothing to learn; raise sft.epochs, give a judge.verdict that "
                f"this judge writes, or raise judge.max_new_tokens={self.prompts.judge.max_new_tokens}"
            )
