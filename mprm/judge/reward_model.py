"""A reward model without reasoning, the baseline of judges: one score per answer, learnt from pairs (Bradley-Terry).

It reads the conversation of question and answer and has its score at the last token: the log odds of the step head, a
linear head without a bias. Both answers to a question stand in one row and share what they begin with.

Shape suffixes: N pairs, M = 2 N answers, the better one of every pair before the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from mprm.backbones.base import StepModel
from mprm.batching.collate import Batch, Example, common_prefix
from mprm.batching.examples import image_size
from mprm.inference.scoring import conversation
from mprm.judge.sft import PresentedPairs
from mprm.training.module import Mean, TrainingModule
from mprm.training.recipe import Schedule


class AnswerPairs(PresentedPairs):
    """Pairs as two conversations each, with the errors of batching's Examples."""

    def conversations(self, position: int) -> list[Example]:
        """That of the better answer and that of the other one, without their pixels."""
        pair, images = self.pairs[position].pair, self.pairs[position].images
        answers = (pair.answer_a, pair.answer_b) if pair.label == "a" else (pair.answer_b, pair.answer_a)
        sizes = [image_size(path) for path in images]
        found = [conversation(self.processor, sizes, pair.prompt, answer) for answer in answers]
        return [replace(one, id=pair.id, group=position) for one in found]

    def layout(self, position: int) -> Example:
        """The tokens that the pair has in a row; both answers are used, or neither."""
        better, worse = (one.input_ids for one in self.conversations(position))
        ids = torch.cat([better, worse[common_prefix([better, worse]) :]])
        return Example(ids, torch.empty(0, dtype=torch.int64), torch.empty(0), vision={}, group=position)

    def __getitems__(self, keys: Sequence[tuple[int, float]]) -> list[Example]:
        """The conversations of one row, two behind each other of every pair, given by position and weight."""
        return [
            replace(one, vision=pixels, weight=weight)
            for (position, weight), pixels in zip(keys, self.pixels(keys), strict=True)
            for one in self.conversations(position)
        ]


def bradley_terry_losses(better_N: torch.Tensor, worse_N: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(better - worse) of the scores of every pair, (N,).

    Example: scores ln 3 and 0 let the better answer win with probability 3 / 4, which costs ln 4/3 = 0.2877.
    """
    return nn.functional.softplus(worse_N - better_N)


class BradleyTerry(TrainingModule):
    """Teaches a step model to score answers. Logged: train/loss, the mean over pairs, and train/accuracy."""

    def __init__(self, model: StepModel, schedule: Schedule) -> None:
        super().__init__(model, schedule, {"loss": Mean(), "accuracy": Mean()})

    def prepare(self) -> None:
        self.model.set_kappa(False)

    def loss(self, batch: Batch) -> torch.Tensor:
        score_M = self.model(batch).logits_M2.diff()[:, 0]
        better_N, worse_N = score_M[::2], score_M[1::2]
        loss_N = bradley_terry_losses(better_N, worse_N)
        weight_N = batch.weight_M[::2]
        counted_N = (weight_N > 0).float()  # a row left empty has a filler
        self.curve["loss"].update(loss_N.detach(), counted_N)
        self.curve["accuracy"].update((better_N > worse_N).float(), counted_N)
        return (loss_N * weight_N).sum()
