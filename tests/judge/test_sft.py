"""Fine-tuning on traces: which are taken, how they are laid out, the loss, and what a kill leaves of the training.

Shape suffixes: R tokens of a response, M tokens of all responses, V vocabulary.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mprm.batching.examples import image_size
from mprm.batching.order import Shuffled
from mprm.data.questions import Pair
from mprm.judge.judge import JudgeSettings, PresentedPair
from mprm.judge.sft import SFT, Imitation, ResponseBatch, Traces, collate_responses, faithful_traces, log_likelihood
from mprm.training.checkpoint import latest
from mprm.training.fit import fit
from mprm.training.lengths import measure, measure_again
from mprm.training.recipe import Machine, Schedule
from tests.clock import without_clock


def test_only_traces_that_end_in_the_verdict_of_the_label_are_taken() -> None:
    def pair(name: str, label: str, trace: str | None) -> Pair:
        return Pair(name, "s", (f"{name}.png",), "How?", "4", "5", label, trace)

    traces = {
        "right": ("a", "Red is 4. The better answer is A."),
        "none": ("a", None),
        "other": ("b", "Red is 4. The better answer is A."),
        "middle": ("a", "The better answer is A. Red is 4."),
        "right too": ("b", "Red is 5. The better answer is B.\n"),
        "twice": ("a", "The better answer is B. No. The better answer is A."),
        "untold": ("b", None),
        "bare": ("a", "The better answer is A."),
    }
    kept, left_out = faithful_traces([pair(name, *given) for name, given in traces.items()], JudgeSettings(), Path)
    assert [(one.pair.id, one.better, one.images) for one in kept] == [
        ("right", "A", (Path("right.png"),)),
        ("right too", "B", (Path("right too.png"),)),
    ]
    assert not any(one.swapped for one in kept), "a trace speaks of the answers in the order of the record"
    assert left_out == {"no_trace": 2, "other_verdict": 1, "no_verdict": 3}


def test_a_trace_stands_behind_the_question_and_every_token_of_it_is_predicted(
    pairs: list[PresentedPair], loaded: Any, judge: JudgeSettings
) -> None:
    processor, _ = loaded
    one = replace(pairs[2], pair=replace(pairs[2].pair, trace=" See <image> and <|im_end|>: A.\n"))
    example = Traces([pairs[1], one], processor, judge).layout(1)
    asked = processor.ask([image_size(path) for path in one.images], one.text, judge.instruction)
    response = example.input_ids[len(asked.input_ids) :]
    assert example.input_ids[: len(asked.input_ids)].equal(asked.input_ids)
    assert processor.tokenizer.decode(response) == "See [image] and <|im_end|>: A.<|im_end|>"
    special = torch.isin(response, torch.tensor(processor.tokenizer.all_special_ids))
    assert special.nonzero().flatten().tolist() == [len(response) - 1], "words of the trace are no special tokens"
    assert collate_responses([example]).token_M.equal(response)
    assert (example.id, example.group, example.vision) == (one.pair.id, 1, {})
    [with_pixels] = Traces([pairs[1], one], processor, judge).__getitems__([(1, 0.25)])
    assert with_pixels.input_ids.equal(example.input_ids)
    assert with_pixels.weight == 0.25
    assert with_pixels.vision["pixel_values"].shape == (1, 3, 56, 56)


def test_a_pair_may_have_no_images(pairs: list[PresentedPair], loaded: Any, judge: JudgeSettings) -> None:
    """A row of such pairs has a blank image, which no token stands for."""
    processor, model = loaded
    bare = replace(pairs[1], images=())
    (example,) = Traces([bare, pairs[2]], processor, judge).__getitems__([(0, 1.0)])
    assert example.vision["pixel_values"].shape == (1, 3, 56, 56)
    assert processor.tokenizer.decode(example.input_ids).startswith(f"<|im_start|>user\n{bare.text}")
    with torch.inference_mode():
        found_M = log_likelihood(model, collate_responses([example]))
        without_M = log_likelihood(model, collate_responses([replace(example, vision={})]))
    assert found_M.equal(without_M)
    first, second = Traces([bare, pairs[2]], processor, judge).__getitems__([(0, 1.0), (1, 1.0)])
    assert (first.vision, len(second.vision["pixel_values"])) == ({}, 1)


def test_the_loss_falls(taught: Any) -> None:
    assert taught.counted == {"optimizer_steps": 24, "resumed_from": 0, "skipped_steps": 0}
    assert [line["step"] for line in taught.lines] == [*range(1, 25)]
    assert taught.lines == [json.loads(line) for line in (taught.folder / "metrics.jsonl").read_text().splitlines()]
    assert taught.lines[0]["train/loss"] > 5
    assert taught.lines[-1]["train/loss"] < 0.2
    assert taught.lines[-1]["train/likelihood"] > 0.85 > 0.3 > taught.lines[0]["train/likelihood"]
    names = load_file(taught.folder / "weights.safetensors").keys()
    assert "hf.model.language_model.embed_tokens.weight" in names
    assert not [name for name in names if name == "mark_D" or name.startswith("head.") or "vision_tower" in name]


Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def train(pairs: list[PresentedPair], taught: Any, judge: JudgeSettings) -> Train:
    """train(folder, mirror=..., max_tokens=...): one epoch over ten traces, one of them long, in steps of four."""

    def train(folder: Path, mirror: Any = None, **machine: Any) -> list[dict[str, Any]]:
        processor, model = taught.load()
        recipe = SFT(learning_rate=1e-3, epochs=1, global_batch_size=4, warmup=0.0)
        schedule = Schedule(recipe, Machine(**{"checkpoint_every": 1} | machine), Shuffled(), seed=3)
        traces = measure_again(Traces(pairs[:10], processor, judge), {}, 0)
        fit(Imitation(model, schedule), traces, None, folder, mirror)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return without_clock(lines)

    return train


@pytest.fixture(scope="module")
def whole(train: Train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def test_every_token_of_a_step_weighs_the_same_however_the_step_is_cut(
    train: Train,
    whole: Any,
    taught: Any,
    pairs: list[PresentedPair],
    judge: JudgeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first loss is the mean over the tokens of its four traces; forward passes that hold two leave it alone, and
    what each of them minimises is its part of it."""
    minimised: list[float] = []
    training_step = Imitation.training_step

    def watched(self: Imitation, batch: ResponseBatch, batch_index: int) -> torch.Tensor:
        loss = training_step(self, batch, batch_index)
        minimised.append(loss.item() / self.trainer.accumulate_grad_batches)
        return loss

    monkeypatch.setattr(Imitation, "training_step", watched)
    folder, lines = whole
    cut = train(tmp_path / "cut", max_tokens=110)
    parts = np.array(minimised).reshape(3, -1)
    assert parts.shape[1] > 1
    assert parts.sum(axis=1).tolist() == pytest.approx([line["train/loss"] for line in cut], abs=1e-5)
    processor, model = taught.load()
    traces = Traces(pairs[:10], processor, judge)
    first = Shuffled().epoch(np.arange(10), np.arange(10), 3, 0)[:4]
    with torch.no_grad():
        rows = [collate_responses(traces.__getitems__([(int(position), 1.0)])) for position in first]
        logp_M = torch.cat([log_likelihood(model, row) for row in rows])
    assert lines[0]["train/loss"] == pytest.approx(-logp_M.mean().item(), abs=1e-5)
    assert lines[0]["train/likelihood"] == pytest.approx(logp_M.exp().mean().item(), abs=1e-5)
    for one, two in zip(lines, cut, strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    found = load_file(tmp_path / "cut" / "weights.safetensors")
    for name, tensor in load_file(folder / "weights.safetensors").items():
        # AdamW divides by the gradient's size: where it is nearly zero, rounding is a part of a step of 1e-3.
        torch.testing.assert_close(found[name], tensor, atol=5e-4, rtol=0)


def test_resumed_equals_uninterrupted_bit_for_bit(train: Train, whole: Any, tmp_path: Path) -> None:
    def stop(line: dict[str, float]) -> None:
        if line["step"] == 2:
            raise RuntimeError("the power is cut")

    folder, lines = whole
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path / "resumed", stop)
    assert latest(tmp_path / "resumed" / "checkpoints")[1] == 1
    assert train(tmp_path / "resumed") == lines
    one, two = (load_file(path / "weights.safetensors") for path in (folder, tmp_path / "resumed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_long_traces_are_left_out_and_what_can_not_be_trained_is_one_line(
    pairs: list[PresentedPair], taught: Any, judge: JudgeSettings, tmp_path: Path
) -> None:
    processor, model = taught.load()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    traces = Traces(pairs[:10], processor, judge)
    lengths = [len(traces.layout(position).input_ids) for position in range(10)]
    assert sum(length > 70 for length in lengths) == 2, lengths

    def attempt(folder: str, epochs: int, max_length: int, max_tokens: int = 4096) -> tuple[int, int]:
        recipe = SFT(learning_rate=1e-3, epochs=epochs, global_batch_size=8)
        schedule = Schedule(recipe, Machine(max_tokens=max_tokens), Shuffled(), seed=0)
        measured, _ = measure(traces, max_length, 0, tmp_path / "cache")
        counted = fit(Imitation(model, schedule), measured, None, tmp_path / folder)
        return counted["optimizer_steps"], len(measured.usable)

    with pytest.raises(ValueError, match=rf"\Atrainer\.max_tokens=80 is less than the {max(lengths)} tokens of .*\Z"):
        attempt("wide", 1, 512, max_tokens=80)
    assert attempt("untrained", 0, 512)[0] == 0
    for name, tensor in load_file(tmp_path / "untrained" / "weights.safetensors").items():
        assert tensor.equal(before[name])
    assert attempt("short", 1, 70) == (1, 8)
