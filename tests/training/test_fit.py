"""The invariants of training, on an untrained tiny InternVL: 20 rollouts, two epochs, five steps of 8."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mprm.batching.order import FileOrder, Shuffled, ShuffledQuestions
from mprm.training.checkpoint import latest, load_weights
from mprm.training.fit import History, fit, run_trainer
from mprm.training.lengths import measure_again
from mprm.training.module import StepScoring, TrainingModule
from mprm.training.objectives import Hard
from mprm.training.planner import BatchPlan
from mprm.training.recipe import Machine, Recipe, Schedule
from tests.clock import without_clock

Lines = list[dict[str, Any]]


def losses(lines: Lines) -> list[float]:
    return [line["train/loss"] for line in lines if "train/loss" in line]


def assert_same_curve(found: Lines, expected: Lines) -> None:
    assert len(found) == len(expected)
    for one, two in zip(without_clock(found), without_clock(expected), strict=True):
        assert one == pytest.approx(two, abs=2e-6)  # float32 sums over ranks


def assert_equal_weights(found: Path, expected: Path) -> None:
    one, two = (load_file(folder / "weights.safetensors") for folder in (found, expected))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def assert_same_weights(found: Path, expected: Path) -> None:
    one, two = (load_file(folder / "weights.safetensors") for folder in (found, expected))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=0)


def stop_after(step: int) -> Callable[[dict[str, float]], None]:
    def stop(line: dict[str, float]) -> None:
        if line["step"] == step:
            raise RuntimeError("the power is cut")

    return stop


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole training is written; tests only read it."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(train: Any, whole_folder: Path) -> Lines:
    lines: Lines = train(whole_folder)
    return lines


def test_one_curve(whole: Lines) -> None:
    assert [line["step"] for line in whole if "train/loss" in line] == [1, 2, 3, 4, 5]
    assert [line["rollouts"] for line in whole if "train/loss" in line] == [8, 16, 24, 32, 40]
    assert all(
        {"val/loss", "val/step_accuracy", "val/auc"} <= line.keys() for line in whole if "train/loss" not in line
    )
    assert [line["step"] for line in whole if "val/loss" in line] == [2, 4]
    assert losses(whole)[-1] < losses(whole)[0]


def test_every_step_says_how_fast_it_was(whole: Lines) -> None:
    seconds = 0.0
    for line in whole:
        found = {name: value for name, value in line.items() if name.startswith("speed/")}
        if "val/loss" in line:
            assert not found
            continue
        names = ("rollouts_per_second", "tokens_per_second", "waiting", "peak_memory_gib")
        assert found.keys() == {f"speed/{name}" for name in names}, "no MFU where nobody knows the peak"
        # Nothing is counted behind a validation or a checkpoint.
        assert 0 <= found["speed/waiting"] < 1
        assert (found["speed/waiting"] > 0) == (line["step"] in (2, 4))
        assert 20 < found["speed/tokens_per_second"] / found["speed/rollouts_per_second"] < 109
        seconds += 8 / found["speed/rollouts_per_second"]
    assert seconds < whole[-1]["seconds"] + 0.02


@pytest.mark.parametrize("max_tokens", [109, 200, 400])
def test_loss_does_not_depend_on_the_tokens_of_a_forward_pass(
    train: Any, whole: Lines, whole_folder: Path, tmp_path: Path, max_tokens: int
) -> None:
    """109 tokens hold the longest rollout."""
    assert_same_curve(train(tmp_path / "cut", max_tokens=max_tokens), whole)
    assert_same_weights(tmp_path / "cut", whole_folder)


def test_published_normalisation_is_of_the_order_and_not_of_the_forward_passes(
    train: Any, whole: Lines, tmp_path: Path
) -> None:
    published = Hard(normalise="micro_batch", micro_batch_size=2)
    at_once = train(tmp_path / "4096", published)
    cut = train(tmp_path / "109", published, max_tokens=109)
    assert losses(cut) == pytest.approx(losses(at_once), abs=1e-6)
    assert losses(at_once)[0] == pytest.approx(losses(whole)[0], abs=1e-6), "the loss that is shown is over all steps"
    assert losses(at_once)[1:] != pytest.approx(losses(whole)[1:], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "max_tokens"), [(2, 4096), (3, 200)])
def test_ranks_equal_one(
    train: Any, whole: Lines, whole_folder: Path, tmp_path: Path, devices: int, max_tokens: int
) -> None:
    """Three ranks do not divide the global batch of 8, nor the 4 rollouts of the last step."""
    ranks = train(tmp_path / "ranks", devices=devices, strategy="ddp_cpu", max_tokens=max_tokens)
    assert_same_curve(ranks, whole)
    assert_same_weights(tmp_path / "ranks", whole_folder)


@pytest.mark.slow
def test_a_rank_whose_rollouts_have_no_images_computes_alike(train: Any, tmp_path: Path) -> None:
    """A forward pass holds one rollout here, or a few of one question: often one rank has images and the other none."""

    def every_other_question(record: dict[str, Any], number: int) -> dict[str, Any]:
        return {"images": [] if record["question_hash"] % 2 else record["images"]}

    one = train(tmp_path / "one", relabel=every_other_question)
    ranks = {"devices": 2, "strategy": "ddp_cpu", "max_tokens": 109}
    assert_same_curve(train(tmp_path / "ranks", relabel=every_other_question, **ranks), one)
    assert_same_weights(tmp_path / "ranks", tmp_path / "one")


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(
    train: Any, whole: Lines, whole_folder: Path, tmp_path: Path, stop_at: int
) -> None:
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path / "resumed", mirror=stop_after(stop_at))
    assert latest(tmp_path / "resumed" / "checkpoints")[1] == stop_at - 1 - (stop_at - 1) % 2
    resumed = train(tmp_path / "resumed")
    assert without_clock(resumed) == without_clock(whole)
    assert_equal_weights(tmp_path / "resumed", whole_folder)


@pytest.mark.parametrize(("before", "after"), [(4096, 109), (109, 4096)])
def test_resuming_with_other_forward_passes_is_the_same_curve(
    train: Any, whole: Lines, whole_folder: Path, tmp_path: Path, before: int, after: int
) -> None:
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path / "resumed", mirror=stop_after(3), max_tokens=before)
    assert latest(tmp_path / "resumed" / "checkpoints")[1] == 2
    resumed = train(tmp_path / "resumed", max_tokens=after)
    assert_same_curve(resumed, whole)
    assert_same_weights(tmp_path / "resumed", whole_folder)


@pytest.mark.slow
def test_resuming_on_other_devices_is_the_same_curve(
    train: Any, whole: Lines, whole_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path / "resumed", mirror=stop_after(3), max_tokens=109)
    resumed = train(tmp_path / "resumed", devices=2, strategy="ddp_cpu", max_tokens=4096)
    assert_same_curve(resumed, whole)
    assert_same_weights(tmp_path / "resumed", whole_folder)


def test_only_the_order_of_questions_differs(train: Any, tmp_path: Path) -> None:
    """With all rollouts in one global batch the orders give one and the same curve."""
    curves = [
        train(
            tmp_path / type(order).__name__,
            order=order,
            recipe={"global_batch_size": 20, "warmup": 0.5},
            max_tokens=300,
        )
        for order in (Shuffled(), ShuffledQuestions(), FileOrder())
    ]
    assert len(losses(curves[0])) == 2
    assert_same_curve(curves[1], curves[0])
    assert_same_curve(curves[2], curves[0])


def test_checkpointing_every_second_layer_is_the_same_curve(train: Any, whole: Lines, tmp_path: Path) -> None:
    calls: list[int] = []

    def watch(model: Any) -> None:
        for number, layer in enumerate(model.hf.model.language_model.layers):
            layer.input_layernorm.register_forward_hook(lambda *_, number=number: calls.append(number))

    options = {"checkpoint_layers": 0.5}
    assert_same_curve(train(tmp_path / "checkpointed", options=options, watch=watch), whole)
    # A forward pass for each of 5 steps and 2 validations, one more in the backward pass of every second layer.
    assert [calls.count(number) for number in range(6)] == [5 + 2 + 5, 5 + 2] * 3


def test_clipping_is_lightnings(
    train: Any, whole_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(TrainingModule, "configure_gradient_clipping")
    train(tmp_path / "lightning")
    assert_equal_weights(tmp_path / "lightning", whole_folder)


def test_a_fused_optimizer_is_clipped_and_resumed(
    train: Any, whole: Lines, whole_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, where mixed precision is computed, too; here it rounds otherwise than torch's loop."""
    shutil.copytree(whole_folder, tmp_path / "loop")
    monkeypatch.setattr(Machine, "is_fused", True)
    lines = train(tmp_path / "mixed", precision="bf16-mixed")
    assert losses(lines) == pytest.approx(losses(whole), abs=0.05)
    weights = (tmp_path / "mixed" / "weights.safetensors").read_bytes()
    assert latest(tmp_path / "mixed" / "checkpoints")[1] == 4
    assert without_clock(train(tmp_path / "mixed", precision="bf16-mixed")) == without_clock(lines)
    assert (tmp_path / "mixed" / "weights.safetensors").read_bytes() == weights
    assert_same_curve(train(tmp_path / "loop"), whole)
    with pytest.raises(AssertionError):  # a checkpoint of another device does not say which kernel is used
        assert_equal_weights(tmp_path / "loop", whole_folder)


def test_the_language_model_is_in_training_mode_and_the_frozen_tower_is_not(train: Any, tmp_path: Path) -> None:
    modes: list[tuple[bool, bool]] = []

    def watch(model: Any) -> None:
        layer, tower = model.hf.model.language_model.layers[2], model.vision_tower()
        layer.register_forward_hook(lambda *_: modes.append((layer.training, tower.training)))

    train(tmp_path / "watched", watch=watch)
    assert modes == [(True, False)] * 2 + [(False, False)] + [(True, False)] * 2 + [(False, False), (True, False)]


def test_a_rollout_that_fits_no_forward_pass_is_one_line(backbone: Any, part: Any, tmp_path: Path) -> None:
    processor, model = backbone.load()
    line = r"^trainer\.max_tokens=90 is less than the 99 tokens of the longest rollout; raise it, or lower backbone"
    for numbers in ((range(12), range(4)), (range(8), range(8, 12))):
        with pytest.raises(ValueError, match=line):
            run(model, *(part(processor, chosen) for chosen in numbers), tmp_path, max_tokens=90)


def test_validation_may_be_smaller_than_the_ranks_or_empty(backbone: Any, part: Any, tmp_path: Path) -> None:
    for number in (0, 1):
        processor, model = backbone.load()
        folder = tmp_path / str(number)
        counted = run(model, part(processor, range(8)), part(processor, range(number)), folder, validate_every=1)
        assert counted["optimizer_steps"] == 2
        text = (folder / "metrics.jsonl").read_text()
        assert ("val/loss" in text) == bool(number)


def test_only_what_is_trained_is_written(train: Any, whole: Lines, whole_folder: Path, tmp_path: Path) -> None:
    names = load_file(whole_folder / "weights.safetensors").keys()
    assert not [name for name in names if "vision_tower" in name or "lm_head" in name]
    assert [name for name in names if "multi_modal_projector" in name]
    assert {"head.weight", "mark_D"} < names
    train(tmp_path / "lora", options={"language_model": "lora", "projector": "frozen"})
    names = load_file(tmp_path / "lora" / "weights.safetensors").keys()
    assert {name for name in names if "lora_" not in name} == {"head.weight", "mark_D"}
    assert len(names) == 2 + 2 * 7 * 6  # two matrices beside seven linear layers in each of six layers


def test_an_untrained_backbone_is_written_as_it_is(train: Any, backbone: Any, tmp_path: Path) -> None:
    _, model = backbone.load()
    module = StepScoring(model, Hard(), Schedule(Recipe(epochs=0), Machine(), Shuffled(), seed=0))
    assert fit(module, None, None, tmp_path) == {"optimizer_steps": 0, "resumed_from": 0, "skipped_steps": 0}
    written = load_file(tmp_path / "weights.safetensors")
    assert written["mark_D"].equal(model.mark_D)


def test_weights_of_another_backbone_are_refused(
    whole: Lines, whole_folder: Path, backbone: Any, tmp_path: Path
) -> None:
    _, model = replace(backbone, language_model="lora").load()
    line = r"differ in hf\.model\.language_model\..*; choose the backbone= it was trained from"
    with pytest.raises(ValueError, match=line):
        load_weights(model, whole_folder / "weights.safetensors")
    with pytest.raises(ValueError, match="is missing; train first"):
        load_weights(model, tmp_path / "nowhere.safetensors")


def test_half_precision_weights_are_trained_in_float32(train: Any, tmp_path: Path) -> None:
    """At 1e-5 an update is less than half a bfloat16 step of many weights."""
    before: dict[str, torch.Tensor] = {}

    def watch(model: Any) -> None:
        before.update({name: p.detach().clone() for name, p in model.named_parameters()})

    options, recipe = {"dtype": "bfloat16"}, {"learning_rate": 1e-5}
    train(tmp_path / "half", options=options, recipe=recipe, watch=watch)
    after = load_file(tmp_path / "half" / "weights.safetensors")
    in_float32 = {name for name, tensor in before.items() if tensor.dtype == torch.float32}
    assert in_float32 == {"mark_D", "head.weight"}, "what a backbone does not come with"
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    name = "hf.model.language_model.layers.0.mlp.up_proj.weight"
    moved = (after[name] - before[name].float()).abs()
    assert (moved > 0).float().mean() > 0.99
    assert (after[name].bfloat16() == before[name]).float().mean() > 0.3


def test_a_training_that_diverges_says_so(backbone: Any, part: Any, tmp_path: Path) -> None:
    processor, model = backbone.load()
    examples = part(processor, range(12))
    with pytest.raises(
        ValueError, match=r"^the gradient of step \d is not finite \(in .*\) .*; lower recipe\.learning"
    ):
        run(model, examples, examples, tmp_path, learning_rate=1e30)


def run(
    model: Any,
    train: Any,
    validation: Any,
    folder: Path,
    learning_rate: float = 1e-3,
    **machine: Any,
) -> dict[str, int]:
    """One epoch in global batches of 4."""
    folder.mkdir(exist_ok=True)
    recipe = Recipe(learning_rate=learning_rate, global_batch_size=4)
    module = StepScoring(model, Hard(), Schedule(recipe, Machine(**machine), Shuffled(), seed=0))
    return fit(module, *(measure_again(part, {}, 0) for part in (train, validation)), folder)


@pytest.mark.parametrize(("code", "seen"), [(1, KeyboardInterrupt), (None, KeyboardInterrupt), (-1, SystemExit)])
def test_an_interrupt_is_told_from_a_job_that_is_started_again(code: int | None, seen: type[BaseException]) -> None:
    """Lightning exits with 1 for Ctrl-C and None for SIGTERM; submitit exits to start a job again."""
    strategy = SimpleNamespace(launcher=None)
    trainer: Any = SimpleNamespace(fit=lambda *_, **__: sys.exit(code), interrupted=True, strategy=strategy)
    with pytest.raises(seen):
        run_trainer(trainer, None, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (0, "training, epoch 1 of 2, step 0 of 10"),
        (4, "training, epoch 1 of 2, step 4 of 10"),
        (5, "training, epoch 2 of 2, step 5 of 10"),
        (10, "training, epoch 2 of 2, step 10 of 10"),
    ],
)
def test_the_epoch_is_that_of_the_plan(step: int, words: str) -> None:
    unused: Any = None
    plan = BatchPlan(np.array([*range(40)] * 2), np.ones(40), unused, 8, 400, 1)
    assert History(Path("metrics.jsonl"), plan, unused).words(step) == words


def test_steps_are_those_of_so_many_epochs(train: Any, whole: Lines, whole_folder: Path, tmp_path: Path) -> None:
    """Five steps of 8 are two epochs over 20 rollouts."""
    lines = train(tmp_path / "steps", recipe={"epochs": None, "steps": 5})
    assert without_clock(lines) == without_clock(whole)
    assert_equal_weights(tmp_path / "steps", whole_folder)


def test_a_training_of_so_many_steps_resumes_bit_for_bit(train: Any, tmp_path: Path) -> None:
    """Seven steps see each rollout almost three times; the learning rate falls over these seven."""
    recipe = {"epochs": None, "steps": 7}
    lines = train(tmp_path / "at_once", recipe=recipe)
    assert [line["rollouts"] for line in lines if "train/loss" in line] == [8, 16, 24, 32, 40, 48, 56]
    rates = [line["lr"] for line in lines if "train/loss" in line]
    assert rates[-1] == 0 < rates[-2], "the rate of the step that would follow"
    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path / "resumed", recipe=recipe, mirror=stop_after(5))
    assert without_clock(train(tmp_path / "resumed", recipe=recipe)) == without_clock(lines)
    assert_equal_weights(tmp_path / "resumed", tmp_path / "at_once")
