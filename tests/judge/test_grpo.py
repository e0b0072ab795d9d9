"""Reinforcement learning: worked arithmetic, one step by its definition, and the invariants of the training.

Shape suffixes: G responses of a pair, M tokens of all responses, V vocabulary.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from safetensors.torch import load_file

from mprm.batching.examples import open_images
from mprm.batching.order import LowToHigh
from mprm.inference.local import Generation, Sampler
from mprm.inference.policy import Prompt
from mprm.inference.scoring import answered
from mprm.judge import grpo
from mprm.judge.grpo import GRPO, Reinforcement, advantages, grpo_losses, measure_prompts
from mprm.judge.judge import Judge, PresentedPair, present
from mprm.judge.sft import Prompts, ResponseBatch, collate_responses, log_likelihood
from mprm.training import fit as fit_module
from mprm.training.checkpoint import latest
from mprm.training.cost import rehearse
from mprm.training.fit import fit
from mprm.training.planner import plan_parts
from mprm.training.recipe import Machine, Schedule
from tests.clock import without_clock

END = "<|im_end|>"


def test_advantages_are_distances_from_the_mean_in_deviations() -> None:
    found = advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert found.tolist() == pytest.approx([1.7317, -0.5772, -0.5772, -0.5772], abs=5e-5)
    scaled = advantages(torch.tensor([50.0, 10.0, 30.0, 30.0]))  # mean 30, deviation 20 / sqrt(2)
    assert scaled.tolist() == pytest.approx([2**0.5, -(2**0.5), 0.0, 0.0], abs=2e-5)
    assert advantages(torch.tensor([1.2] * 9)).tolist() == [0.0] * 9, "exactly: their mean in float32 is not 1.2"


def test_the_gradient_of_a_response_of_one_token_is_minus_the_advantage_by_what_was_not_expected() -> None:
    logits_V = torch.tensor([0.3, -1.0, 2.0, 0.0], requires_grad=True)
    [loss] = grpo_losses(logits_V.log_softmax(-1)[2:3], torch.tensor([1.5]))
    assert loss.item() == -1.5
    loss.backward()
    onehot_V = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert logits_V.grad is not None
    torch.testing.assert_close(logits_V.grad, -1.5 * (onehot_V - logits_V.detach().softmax(-1)))


def test_rewards_are_for_the_right_verdict_and_for_any() -> None:
    recipe = GRPO(verdict_reward=1.0, format_reward=0.25)
    table = {("A", "A"): 1.25, ("B", "B"): 1.25, ("A", "B"): 0.25, ("B", "A"): 0.25, (None, "A"): 0.0, (None, "B"): 0.0}
    assert {case: recipe.reward(*case) for case in table} == table
    assert GRPO(verdict_reward=0.0, format_reward=1.0).reward("A", "B") == 1.0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"group_size": 1}, r"grpo\.group_size=1 leaves nothing to compare with; give 2 or more"),
        ({"temperature": 0.0}, r"grpo\.temperature=0\.0 is not positive: all responses of a group would be the same"),
        ({"verdict_reward": -1.0}, r"grpo\.verdict_reward=-1\.0 is negative"),
        ({"format_reward": -0.5}, r"grpo\.format_reward=-0\.5 is negative"),
        ({"learning_rate": 0.0}, r"grpo\.learning_rate=0\.0 is not positive"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}.*\Z"):
        GRPO(**settings)  # type: ignore[arg-type]


def step_of(
    processor: Any, model: Any, judge: Judge, pairs: list[PresentedPair], recipe: GRPO, step: int
) -> Reinforcement:
    """The module in optimizer step `step` of a training, without a trainer."""
    prompts = Prompts(pairs, processor, judge, np.zeros(len(pairs)))
    module = Reinforcement(model, prompts, recipe, Schedule(recipe, Machine(), LowToHigh(), seed=7))
    module.trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=3, world_size=2)  # type: ignore[assignment]
    return module


def test_a_step_by_its_definition(
    pairs: list[PresentedPair], judge: Judge, taught: Any, loaded: Any, sampler: Callable[..., Sampler]
) -> None:
    """Its gradient, as what Lightning and DDP divide by has been undone, is that of
    - sum over pairs of weight / G x sum over responses of advantage / tokens x sum of log-probabilities."""
    recipe, judge = GRPO(group_size=5, temperature=1.5), replace(judge, max_new_tokens=5)  # some responses are cut off
    processor, model = taught.load()
    keys = [(4, 0.5), (0, 0.25), (6, 0.0)]
    module = step_of(processor, model, judge, pairs, recipe, step=3)
    module.training_step(Reinforcement.collate(keys), 0).backward()
    found = {name: parameter.grad / 6 for name, parameter in model.named_parameters() if parameter.grad is not None}
    logged = {name: metric.compute().item() for name, metric in module.curve.items()}
    model.zero_grad()

    rewards, drawn, total = [], [], torch.zeros(())
    for position, weight in keys[:2]:
        one = module.in_some_order(pairs[position])
        prompt = replace(one.prompt(5), key=f"3\0{one.key}")
        [group] = sampler(*loaded, seed=7, max_new_tokens=5).generate([prompt])
        texts = [processor.tokenizer.decode(generation.ids) if generation.finished else "" for generation in group]
        reward_G = torch.tensor([recipe.reward(judge.verdict_of(text), one.better) for text in texts])
        images = open_images(one.images)
        question = processor.ask([image.size for image in images], one.text, judge.instruction)
        question = replace(question, vision=processor.vision(images))
        for generation, advantage in zip(group, advantages(reward_G), strict=True):
            end = [processor.tokenizer.convert_tokens_to_ids(END)] if generation.finished else []
            logp_M = log_likelihood(
                model, collate_responses([answered(question, [*generation.ids, *end])]), recipe.temperature
            )
            total = total - weight / 5 * advantage * logp_M.mean()
        rewards += reward_G.tolist()
        drawn += group
    assert {generation.finished for generation in drawn} == {True, False}
    total.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01, "rewards differ"
    shares = {"accuracy": np.mean([reward > 1 for reward in rewards]), "format": np.mean([r > 0 for r in rewards])}
    means = {"reward": np.mean(rewards), "tokens": np.mean([len(generation.ids) for generation in drawn])}
    means |= {"entropy": np.mean([generation.entropy for generation in drawn])}
    assert logged == pytest.approx(shares | means | {"loss": 0.0}, abs=1e-5)


def test_answers_change_places_by_seed_step_and_pair_alone(
    pairs: list[PresentedPair], loaded: Any, judge: Judge
) -> None:
    def orders(module: Reinforcement) -> list[tuple[bool, ...]]:
        found = []
        for step in range(8):
            module.trainer.global_step = step  # type: ignore[misc]
            found.append(tuple(module.in_some_order(one).swapped for one in pairs))
        return found

    module = step_of(*loaded, judge, pairs, GRPO(), 0)
    found = orders(module)
    assert orders(step_of(*loaded, judge, pairs[::-1], GRPO(group_size=2), 0)) == found
    assert np.mean(found) == pytest.approx(0.5, abs=0.12)
    assert len(set(found)) == 8
    one = next(one for one in pairs if module.in_some_order(one).swapped)
    assert module.in_some_order(one) == present(one.pair, one.images, swapped=True)
    module.schedule = module.schedule._replace(seed=8)
    assert not set(orders(module)) & set(found)


def test_a_response_of_what_can_not_be_written_is_never_drawn(
    pairs: list[PresentedPair], judge: Judge, with_bias: Callable[..., Any]
) -> None:
    """A piece of an image would be the most likely token by far."""
    processor, model = with_bias({"<IMG_CONTEXT>": 9.0, "A": 1.0, ".": 0.5, END: 0.0})
    module = step_of(processor, model, judge, pairs, GRPO(group_size=40), 0)
    [group] = module.responses(pairs[:1])
    generation = {token for response in group for token in processor.tokenizer.convert_ids_to_tokens(response.ids)}
    assert generation == {"A", "."}
    assert model.training, "as it was"


def test_a_verdict_that_was_cut_off_earns_nothing(pairs: list[PresentedPair], judge: Judge, loaded: Any) -> None:
    module = step_of(*loaded, judge, pairs, GRPO(), 0)
    ids = loaded[0].tokenizer.encode("The A.", add_special_tokens=False)
    end = loaded[0].tokenizer.convert_tokens_to_ids(END)
    group = [Generation([*ids, end], True, 1.0), Generation(ids, False, 1.0), Generation([*ids[:-1], end], True, 1.0)]
    assert module.rewards(replace(pairs[0], better="A"), group).tolist() == pytest.approx([1.2, 0.0, 0.0])
    assert module.rewards(replace(pairs[0], better="B"), group).tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert {name: metric.compute().item() for name, metric in module.curve.items() if name != "loss"} == {
        "reward": pytest.approx(1.4 / 6),
        "accuracy": pytest.approx(1 / 6),
        "format": pytest.approx(1 / 3),
        "entropy": 1.0,
        "tokens": pytest.approx((2 * len(ids) + len(ids) - 1) / 3),
    }


def test_a_rehearsal_is_as_long_as_responses_can_become(
    pairs: list[PresentedPair], judge: Judge, taught: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three responses of eight tokens to each of two pairs, which begin differently; nothing is drawn."""
    recipe = GRPO(group_size=3, global_batch_size=2)
    prompts = Prompts(pairs[1:3], taught.load()[0], judge, np.zeros(2))
    module = Reinforcement(taught.load()[1], prompts, recipe, Schedule(recipe, Machine(), LowToHigh(), seed=7))
    part, _ = plan_parts(module, measure_prompts(prompts, recipe, Machine(), 512), None)
    rows: list[ResponseBatch] = []

    def watched(model: Any, row: ResponseBatch, temperature: float) -> torch.Tensor:
        rows.append(row)
        return log_likelihood(model, row, temperature)

    monkeypatch.setattr(grpo, "log_likelihood", watched)
    monkeypatch.setattr(Sampler, "generate", None)
    assert rehearse(module, part, part.plan.cut(0)[0][0])[0]
    for row in rows:
        assert len(row.token_M) == 2 * 3 * 8
        assert len(set(row.row.mark_M.tolist())) == 2 * (1 + 3 * 7), "all of a pair share the first place"
    assert not module.curve["loss"].update_called, "nothing of it is logged"


ENTROPY = np.array([0.5, 0.2, 0.9, 0.1, 0.2, 0.7, 0.3])
LOW_TO_HIGH = [3, 1, 4, 6, 0, 5, 2]
Run = tuple[Path, list[dict[str, Any]]]
Train = Callable[..., Run]


@pytest.fixture(scope="module")
def train(pairs: list[PresentedPair], taught: Any, judge: Judge) -> Train:
    """train(folder, mirror=..., max_tokens=...): seven pairs, one of them long, in steps of three; returns the folder
    and the lines of metrics.jsonl. Behind the last step, of one pair, a second forward pass or rank is left empty."""

    def train(folder: Path, mirror: Any = None, **machine: Any) -> Run:
        processor, model = taught.load()
        recipe = GRPO(
            temperature=1.5, learning_rate=3e-4, weight_decay=0.0, warmup=0.0, group_size=4, global_batch_size=3
        )
        settings = Machine(**{"checkpoint_every": 1} | machine)
        prompts = Prompts(pairs[:7], processor, judge, ENTROPY)
        measured = measure_prompts(prompts, recipe, settings, 512)
        assert (len(measured.usable), measured.left_out) == (7, {"too_long": 0})
        module = Reinforcement(model, prompts, recipe, Schedule(recipe, settings, LowToHigh(), seed=5))
        assert fit(module, measured, None, folder, mirror)["optimizer_steps"] == 3
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return folder, without_clock(lines)

    return train


@pytest.fixture(scope="module")
def asked_for() -> list[Prompt]:
    """What the sampler has been asked for by `whole`."""
    return []


@pytest.fixture(scope="module")
def whole(train: Train, asked_for: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> Run:
    write = Sampler.generate

    def watched(self: Sampler, prompts: Sequence[Prompt]) -> list[list[Generation]]:
        asked_for.extend(prompts)
        return write(self, prompts)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Sampler, "generate", watched)
        return train(tmp_path_factory.mktemp("whole"))


def assert_same(found: Run, expected: Run, atol: float) -> None:
    assert len(found[1]) == len(expected[1])
    for one, two in zip(found[1], expected[1], strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    one, two = (load_file(folder / "weights.safetensors") for folder in (found[0], expected[0]))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=atol, rtol=0)


def test_pairs_are_asked_from_low_to_high_entropy(
    whole: Run, asked_for: list[Prompt], pairs: list[PresentedPair]
) -> None:
    """Step by step the sequence is the stable sort; within a step the rows may stand otherwise."""
    steps = [[pairs[position].pair.id for position in LOW_TO_HIGH[start : start + 3]] for start in (0, 3, 6)]
    keys = [prompt.key.split("\0") for prompt in asked_for]
    assert [sorted(name for step, name, _ in keys if step == str(number)) for number in range(3)] == [
        *map(sorted, steps)
    ]
    assert [step for step, _, _ in keys] == [*"0001112"]
    assert {order for _, _, order in keys} == {"swapped", "as it stands"}
    assert {prompt.n for prompt in asked_for} == {4}
    assert [line["rollouts"] for line in whole[1]] == [3, 6, 7]
    assert all(abs(line["train/loss"]) < 1e-6 for line in whole[1]), "advantages have mean 0"
    assert len({line["train/reward"] for line in whole[1]}) > 1


def test_how_a_step_is_cut_does_not_matter(train: Train, whole: Run, tmp_path: Path) -> None:
    """Forward passes of one pair or two instead of three."""
    assert_same(train(tmp_path, max_tokens=180), whole, 1e-5)


@pytest.mark.slow
def test_two_ranks_equal_one(train: Train, whole: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    strategy = DDPStrategy(process_group_backend="gloo", start_method="fork")  # spawned, it would import all again
    monkeypatch.setattr(fit_module, "build_strategy", lambda machine: strategy)
    assert_same(train(tmp_path / "ranks", devices=2, strategy="ddp_cpu"), whole, 1e-5)


def test_resumed_equals_uninterrupted_bit_for_bit(train: Train, whole: Run, tmp_path: Path) -> None:
    def stop(line: dict[str, float]) -> None:
        if line["step"] == 2:
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path, stop)
    assert latest(tmp_path / "checkpoints")[1] == 1
    resumed = train(tmp_path)
    assert resumed[1] == whole[1]
    assert_same(resumed, whole, 0)


def test_long_pairs_are_left_out_and_what_can_not_be_trained_is_one_line(
    pairs: list[PresentedPair], taught: Any, judge: Judge, tmp_path: Path
) -> None:
    processor, model = taught.load()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def attempt(
        folder: str = "none", epochs: int = 1, max_length: int = 512, **machine: Any
    ) -> tuple[int, dict[str, int]]:
        prompts = Prompts(pairs[:3], processor, judge, ENTROPY[:3])
        recipe = GRPO(epochs=epochs, global_batch_size=3, group_size=2)
        schedule = Schedule(recipe, Machine(**machine), LowToHigh(), seed=0)
        measured = measure_prompts(prompts, recipe, schedule.machine, max_length)
        counted = fit(Reinforcement(model, prompts, recipe, schedule), measured, None, tmp_path / folder)
        return counted["optimizer_steps"], measured.left_out

    longest = len(Prompts(pairs, processor, judge, ENTROPY).layout(0).input_ids)
    for options, line in (
        (
            {"max_length": 40},
            r"backbone\.max_length=40 is less than any prompt and judge\.max_new_tokens=8 have",
        ),
        (
            {"max_tokens": longest + 15},
            rf"trainer\.max_tokens={longest + 15} is less than the {longest + 16} tokens",
        ),
        ({"strategy": "deepspeed_stage_3"}, r"trainer\.strategy=deepspeed_stage_3 shards the weights that every"),
    ):
        with pytest.raises(ValueError, match=rf"\A{line}.*\Z"):
            attempt(**options)
    assert attempt("untrained", epochs=0) == (0, {"too_long": 0})
    for name, tensor in load_file(tmp_path / "untrained" / "weights.safetensors").items():
        assert tensor.equal(before[name])
    assert attempt("short", max_length=longest + 7) == (1, {"too_long": 1})
