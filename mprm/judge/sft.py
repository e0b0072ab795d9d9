"""Stage 1, reasoning enhancement: supervised fine-tuning on traces whose verdict is the label.

Shape suffix: M tokens of the responses in a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torchmetrics import MeanMetric, Metric

from mprm.backbones.chat import ChatModel, ChatProcessor, encode_text
from mprm.batching.collate import Example
from mprm.batching.examples import image_size, open_images
from mprm.batching.order import Shuffled
from mprm.batching.prompt import neutralise
from mprm.data.preferences import Pair
from mprm.inference.scoring import answered
from mprm.judge.judge import Judge, Shown, shown
from mprm.judge.likelihood import Responses, in_a_row, log_likelihood
from mprm.training.batches import BatchPlan
from mprm.training.checkpoint import save_weights
from mprm.training.datamodule import Rows
from mprm.training.fit import checkpoint_of, optimise
from mprm.training.history import Mirror
from mprm.training.lengths import Measured
from mprm.training.module import Optimised
from mprm.training.recipe import Machine, Recipe

END = "<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class SFT(Recipe):
    """Component `sft`; global_batch_size: traces per optimizer step."""

    GROUP: ClassVar[str] = "sft"


def faithful(
    pairs: Iterable[Pair], judge: Judge, image_path: Callable[[str], Path]
) -> tuple[list[Shown], dict[str, int]]:
    """The pairs whose trace ends in the verdict that the label gives, in the order of the record, which is the trace's;
    and how many others there are: no_trace, no_verdict (not a single one, at the end) or other_verdict."""
    kept: list[Shown] = []
    left_out = Counter[str]()
    for pair in pairs:
        if pair.trace is None:
            left_out["no_trace"] += 1
            continue
        one = shown(pair, tuple(map(image_path, pair.images)), swapped=False)
        verdict = judge.verdict_of(pair.trace)
        if verdict == one.better:
            kept.append(one)
        else:
            left_out["no_verdict" if verdict is None else "other_verdict"] += 1
    return kept, dict(left_out)


class Traces:
    """Map-style view of faithful traces, asked for as data.examples.Examples is.

    Raises ValueError for an image that can not be read or is of a shape that the processor refuses.
    """

    def __init__(self, traced: Sequence[Shown], processor: ChatProcessor, judge: Judge) -> None:
        self.traced = traced
        self.processor = processor
        self.judge = judge
        self.question = np.arange(len(traced))  # no two pairs share their whole prompt
        self.ids = [one.pair.id for one in traced]
        self.images = [one.images for one in traced]
        self.image_path: Callable[[Any], Path] = Path

    def origin(self, position: int) -> dict[str, Any]:
        return {"id": self.ids[position], "source": self.traced[position].pair.source}

    def __len__(self) -> int:
        return len(self.traced)

    def layout(self, position: int) -> Example:
        """The trace without its pixels."""
        one = self.traced[position]
        assert one.pair.trace is not None
        asked = self.processor.ask([image_size(path) for path in one.images], one.text, self.judge.instruction)
        tokenizer = self.processor.tokenizer
        ids = encode_text(tokenizer, [neutralise(one.pair.trace.strip())])[0]
        example = answered(asked, [*ids, tokenizer.convert_tokens_to_ids(END)])
        return replace(example, id=one.pair.id, group=position)

    def __getitems__(self, keys: Sequence[tuple[int, float]]) -> list[Example]:
        """What a data loader asks for: the examples of one row."""
        return [
            replace(
                self.layout(position),
                vision=self.processor.vision(open_images(self.traced[position].images)),
                weight=weight,
            )
            for position, weight in keys
        ]


class Imitation(Optimised):
    """Teaches a judge the tokens of its traces. Logged per optimizer step, over the tokens of the global batch:
    train/loss, the mean cross-entropy, and train/likelihood, the mean probability."""

    model: ChatModel

    def __init__(self, model: ChatModel, recipe: Recipe, optimizer_steps: int) -> None:
        super().__init__(model, recipe, optimizer_steps)
        self.train_likelihood = MeanMetric()

    def curve(self) -> dict[str, Metric]:
        return {"train/loss": self.train_loss, "train/likelihood": self.train_likelihood}

    def training_step(self, batch: Responses, batch_index: int) -> torch.Tensor:
        logp_M = log_likelihood(self.model, batch)
        counted_M = batch.row.weight_M > 0  # a row left empty has a filler
        self.train_loss.update(-logp_M.detach()[counted_M])
        self.train_likelihood.update(logp_M.detach().exp(), counted_M)
        # Lightning divides by the accumulated micro-batches and DDP by the ranks: undo both.
        return -(logp_M * batch.row.weight_M).sum() * self.trainer.accumulate_grad_batches * self.trainer.world_size


def imitate(
    model: ChatModel,
    traces: Measured | None,
    recipe: SFT,
    machine: Machine,
    folder: Path,
    seed: int,
    mirror: Mirror | None = None,
) -> dict[str, Any]:
    """Train `model` in place and write metrics.jsonl, checkpoints/ and weights.safetensors into `folder`.

    traces: measured Traces; None with sft.epochs=0. The order is shuffled anew every epoch: traces have no entropy.

    Returns optimizer_steps, traces, the step it was resumed from and the number of skipped_steps.
    Raises ValueError if a trace does not fit the machine's max_tokens.
    """
    model.speak()
    if recipe.epochs == 0:
        save_weights(model, folder / "weights.safetensors")
        return {"optimizer_steps": 0, "traces": 0, "resumed_from": 0, "skipped_steps": 0}
    assert traces is not None, "there are epochs"
    checkpoint, start = checkpoint_of(folder, machine)
    machine.check(recipe)
    usable = traces.usable
    machine.check_longest(int(traces.lengths.tokens[usable].max()))
    epochs = [usable[Shuffled().epoch(usable, usable, seed, epoch)] for epoch in range(recipe.epochs)]
    n_scored = np.zeros(len(traces.lengths), dtype=np.int64)
    n_scored[usable] = [len(traces.examples.layout(position).marks) for position in usable.tolist()]
    plan = BatchPlan(
        order=np.concatenate(epochs),
        n_scored=n_scored,
        lengths=traces.lengths,
        global_batch_size=recipe.global_batch_size,
        max_tokens=machine.max_tokens,
        world_size=machine.devices * machine.num_nodes,
    )
    loaders = Rows(traces.examples, plan, start, machine.num_workers, in_a_row)
    module = Imitation(model, recipe, plan.optimizer_steps)
    skipped = optimise(module, loaders, machine, folder, checkpoint, seed, mirror)
    return {
        "optimizer_steps": plan.optimizer_steps,
        "traces": len(usable),
        "resumed_from": start,
        "skipped_steps": skipped,
    }
