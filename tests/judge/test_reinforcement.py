"""Reinforcement learning: one step by its definition, what is drawn, and the invariants of the training.

Shape suffixes: G responses of a pair, M tokens of all responses.
"""

import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mprm.batching.examples import open_images
from mprm.batching.order import Lengths, LowToHigh
from mprm.inference.local import Generation, Sampler
from mprm.inference.policy import Prompt
from mprm.inference.scoring import answered
from mprm.judge import reinforcement
from mprm.judge.grpo import GRPO, advantages
from mprm.judge.judge import JudgeSettings, PresentedPair, present
from mprm.judge.reinforcement import Reinforcement, measure_prompts
from mprm.judge.sft import Prompts, ResponseBatch, collate_responses, log_likelihood
from mprm.training.checkpoint import latest
from mprm.training.cost import rehearse
from mprm.training.fit import fit
from mprm.training.planner import BatchPlan, plan_parts
from mprm.training.recipe import Machine, Schedule
from tests.clock import without_clock
from tests.judge.conftest import Run, assert_same

END = "<|im_end|>"


def step_of(
    processor: Any, model: Any, judge: JudgeSettings, pairs: list[PresentedPair], recipe: GRPO, step: int
) -> Reinforcement:
    """The module in optimizer step `step` of a training, without a trainer."""
    prompts = Prompts(pairs, processor, judge, np.zeros(len(pairs)))
    module = Reinforcement(model, prompts, recipe, Schedule(recipe, Machine(), LowToHigh(), seed=7))
    module.trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=3, world_size=2)  # type: ignore[assignment]
    return module


def test_a_step_by_its_definition(
    pairs: list[PresentedPair], judge: JudgeSettings, taught: Any, loaded: Any, sampler: Callable[..., Sampler]
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
    means |= {"advantage": np.mean([len(set(rewards[start : start + 5])) > 1 for start in (0, 5)])}
    assert logged == pytest.approx(shares | means | {"loss": 0.0}, abs=1e-5)


def test_answers_change_places_by_seed_step_and_pair_alone(
    pairs: list[PresentedPair], loaded: Any, judge: JudgeSettings
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
    pairs: list[PresentedPair], judge: JudgeSettings, with_bias: Callable[..., Any]
) -> None:
    """A piece of an image would be the most likely token by far."""
    processor, model = with_bias({"<IMG_CONTEXT>": 9.0, "A": 1.0, ".": 0.5, END: 0.0})
    module = step_of(processor, model, judge, pairs, GRPO(group_size=40), 0)
    [group] = module.responses(pairs[:1])
    generation = {token for response in group for token in processor.tokenizer.convert_ids_to_tokens(response.ids)}
    assert generation == {"A", "."}
    assert model.training, "as it was"


def test_a_verdict_that_was_cut_off_earns_nothing(
    pairs: list[PresentedPair], judge: JudgeSettings, loaded: Any
) -> None:
    module = step_of(*loaded, judge, pairs, GRPO(), 0)
    ids = loaded[0].tokenizer.encode("The A.", add_special_tokens=False)
    end = loaded[0].tokenizer.convert_tokens_to_ids(END)
    group = [Generation([*ids, end], True, 1.0), Generation(ids, False, 1.0), Generation([*ids[:-1], end], True, 1.0)]
    logged: dict[str, list[float]] = defaultdict(list)
    assert module.rewards(replace(pairs[0], better="A"), group, logged).tolist() == pytest.approx([1.2, 0.0, 0.0])
    assert module.rewards(replace(pairs[0], better="B"), group, logged).tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert logged == {
        "reward": [1.2, 0.0, 0.0, 0.2, 0.0, 0.0],
        "accuracy": [1, 0, 0, 0, 0, 0],
        "format": [1, 0, 0, 1, 0, 0],
        "entropy": [1] * 6,
        "tokens": [len(ids), len(ids), len(ids) - 1] * 2,
    }


def test_a_rehearsal_is_as_long_as_responses_can_become(
    pairs: list[PresentedPair], judge: JudgeSettings, taught: Any, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr(reinforcement, "log_likelihood", watched)
    monkeypatch.setattr(Sampler, "generate", None)
    assert rehearse(module, part, part.plan.cut(0)[0][0])[0]
    for row in rows:
        assert len(row.token_M) == 2 * 3 * 8
        assert len(set(row.row.mark_M.tolist())) == 2 * (1 + 3 * 7), "all of a pair share the first place"
    assert not module.curve["loss"].update_called, "nothing of it is logged"


ENTROPY = np.array([0.5, 0.2, 0.9, 0.1, 0.2, 0.7, 0.3])
LOW_TO_HIGH = [3, 1, 4, 6, 0, 5, 2]
OPTIONS = {"tries": 2, "standardise": "none", "updates": 2, "clip": 0.05, "kl": 0.1, "schedule": "constant"}
OPTIONS |= {"held_out": 3}
Train = Callable[..., Run]


@pytest.fixture(scope="module")
def train(pairs: list[PresentedPair], taught: Any, judge: JudgeSettings) -> Train:
    """train(folder, mirror=..., max_tokens=...): seven pairs, one of them long, in steps of three; returns the folder
    and the lines of metrics.jsonl. Behind the last step, of one pair, a second forward pass or rank is left empty.
    options: of the recipe, where held_out=3 holds out the three pairs behind them."""

    def train(
        folder: Path,
        mirror: Any = None,
        options: dict[str, Any] | None = None,
        judge: JudgeSettings = judge,
        **machine: Any,
    ) -> Run:
        processor, model = taught.load()
        sizes = {"group_size": 2, "global_batch_size": 3}  # some earn the same
        rate = {"learning_rate": 3e-4, "weight_decay": 0.0, "warmup": 0.0}
        recipe = GRPO(temperature=1.5, **rate, **sizes, **(options or {}))  # type: ignore[arg-type]
        settings = Machine(**{"checkpoint_every": 1} | machine)
        prompts = Prompts(pairs[:7], processor, judge, ENTROPY)
        measured = measure_prompts(prompts, recipe, settings, 512)
        assert (len(measured.usable), measured.left_out) == (7, {"too_long": 0})
        held = pairs[7 : 7 + recipe.held_out]
        module = Reinforcement(model, prompts, recipe, Schedule(recipe, settings, LowToHigh(), seed=5), held)
        assert fit(module, measured, None, folder, mirror)["optimizer_steps"] == 3 * recipe.updates
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return folder, without_clock(lines)

    return train


@pytest.fixture(scope="module")
def asked_for() -> dict[str, list[Prompt]]:
    """What the sampler has been asked for by `whole` and by `with_options`."""
    return {"plain": [], "options": []}


def watching(train: Train, asked: list[Prompt], folder: Path, **settings: Any) -> Run:
    write = Sampler.generate

    def watched(self: Sampler, prompts: Sequence[Prompt]) -> list[list[Generation]]:
        asked.extend(prompts)
        return write(self, prompts)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Sampler, "generate", watched)
        return train(folder, **settings)


@pytest.fixture(scope="module")
def whole(train: Train, asked_for: dict[str, list[Prompt]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return watching(train, asked_for["plain"], tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def with_options(train: Train, asked_for: dict[str, list[Prompt]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("options")
    return watching(train, asked_for["options"], folder, options=OPTIONS, validate_every=4)


def measured_of(run: Run, group: str) -> list[dict[str, Any]]:
    """The lines of train or of val."""
    return [line for line in run[1] if any(name.startswith(f"{group}/") for name in line)]


def test_pairs_are_asked_from_low_to_high_entropy(
    whole: Run, asked_for: dict[str, list[Prompt]], pairs: list[PresentedPair]
) -> None:
    """Step by step the sequence is the stable sort; within a step the rows may stand otherwise."""
    steps = [[pairs[position].pair.id for position in LOW_TO_HIGH[start : start + 3]] for start in (0, 3, 6)]
    keys = [prompt.key.split("\0") for prompt in asked_for["plain"]]
    assert [sorted(name for step, name, _ in keys if step == str(number)) for number in range(3)] == [
        *map(sorted, steps)
    ]
    assert [step for step, _, _ in keys] == [*"0001112"]
    assert {order for _, _, order in keys} == {"swapped", "as it stands"}
    assert {prompt.n for prompt in asked_for["plain"]} == {2}
    assert [line["rollouts"] for line in whole[1]] == [3, 6, 7]
    assert all(abs(line["train/loss"]) < 1e-6 for line in whole[1]), "advantages have mean 0"
    assert len({line["train/reward"] for line in whole[1]}) > 1
    assert {line["train/advantage"] < 1 for line in whole[1]} == {True, False}, "some earn the same, and are skipped"


def test_how_a_step_is_cut_does_not_matter(train: Train, whole: Run, tmp_path: Path) -> None:
    """Forward passes of one pair or two instead of three."""
    assert_same(train(tmp_path, max_tokens=150), whole, 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_ranks_equal_one(train: Train, whole: Run, tmp_path: Path) -> None:
    """Also where no group of a rank has an advantage."""
    assert_same(train(tmp_path / "ranks", devices=2, strategy="ddp_cpu"), whole, 1e-5)


def test_what_the_options_do_shows(
    with_options: Run, asked_for: dict[str, list[Prompt]], pairs: list[PresentedPair]
) -> None:
    """Two updates on what was drawn before the first of them, the second with ratios to clip; a divergence from the
    start on; pairs in the place of others."""
    lines = measured_of(with_options, "train")
    keys = [key for prompt in asked_for["options"] if (key := prompt.key.split("\0"))[0] != "held out"]
    assert [line["rollouts"] for line in lines] == [3, 3, 6, 6, 7, 7]
    assert {step for step, _, _ in keys} == {*"024"}
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        assert first["train/clipped"] == 0
        for name in ("reward", "accuracy", "format", "entropy", "tokens", "advantage"):
            assert first[f"train/{name}"] == second[f"train/{name}"]
    assert any(line["train/clipped"] > 0.05 for line in lines[1::2])
    assert lines[0]["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert all(line["train/kl"] > 1e-5 for line in lines[1:])
    assert all(line["lr"] == 3e-4 for line in lines)
    by_step = [[name for step, name, _ in keys if step == str(2 * number)] for number in range(3)]
    columns = [[pairs[position].pair.id for position in LOW_TO_HIGH[place::3]] for place in range(3)]
    for number, names in enumerate(by_step):
        assert len(set(names)) == len(names) <= 7 - 3 * number
        assert all(column[number] in names for column in columns if number < len(column))
    assert len(by_step[0]) + len(by_step[1]) > 6, "some are replaced"


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_two_ranks_equal_one_with_options(train: Train, with_options: Run, tmp_path: Path) -> None:
    machine = {"devices": 2, "strategy": "ddp_cpu", "max_tokens": 150, "validate_every": 4}
    assert_same(train(tmp_path / "ranks", options=OPTIONS, **machine), with_options, 1e-5)


def test_pairs_held_out_are_asked_the_same_every_time_and_change_nothing(
    train: Train,
    whole: Run,
    pairs: list[PresentedPair],
    judge: JudgeSettings,
    loaded: Any,
    sampler: Any,
    tmp_path: Path,
) -> None:
    """Before the first step, every second one and after the last, in both orders, with the same random numbers."""
    asked: list[Prompt] = []
    found = watching(train, asked, tmp_path, options={"held_out": 3}, validate_every=2)
    curve = measured_of(found, "val")
    assert_same((found[0], measured_of(found, "train")), whole, 0)
    assert [line["step"] for line in curve] == [0, 2, 3]
    held = [present(one.pair, one.images, swapped) for one in pairs[7:10] for swapped in (False, True)]
    prompts = [replace(one.prompt(1), key=f"held out\0{one.key}") for one in held]
    assert [prompt for prompt in asked if prompt.key.startswith("held out")] == 3 * prompts
    said = [one for [one] in sampler(*loaded, seed=5).generate(prompts)]
    texts = [loaded[0].tokenizer.decode(one.ids) if one.finished else "" for one in said]
    verdicts = [judge.verdict_of(text) for text in texts]
    assert {*verdicts} == {"A", "B"}
    given = [verdict for verdict in verdicts if verdict]
    expected = {"accuracy": [verdict == one.better for verdict, one in zip(verdicts, held, strict=True)]}
    expected |= {"format": [bool(verdict) for verdict in verdicts], "first": [verdict == "A" for verdict in given]}
    expected |= {"entropy": [one.entropy for one in said]}
    assert curve[0] == {"step": 0, "rollouts": 0} | {
        f"val/{name}": pytest.approx(np.mean(values)) for name, values in expected.items()
    }
    assert len({line["val/entropy"] for line in curve}) == 3


def test_a_training_that_is_killed_between_two_updates_draws_again(
    train: Train, with_options: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The power is cut behind the first of two updates; later a signal comes there, and is heard behind the second."""

    def stop(line: dict[str, float]) -> None:
        if line["step"] == 3:
            raise RuntimeError("the power is cut")

    def tell(line: dict[str, float]) -> None:
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path, stop, OPTIONS)
    assert latest(tmp_path / "checkpoints")[1] == 2
    assert "parameters 12 MiB, gradients 5 MiB" in capsys.readouterr().out, "7 MiB, and a copy of what is trained"
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, tell, OPTIONS, checkpoint_every=100, validate_every=4)
    assert latest(tmp_path / "checkpoints")[1] == 4
    assert_same(train(tmp_path, options=OPTIONS, validate_every=4), with_options, 0)
    assert [line["step"] for line in measured_of(with_options, "val")] == [0, 4, 6]


def test_a_training_without_any_reward_ends(
    train: Train, judge: JudgeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also one that was resumed before it had the patience."""
    monkeypatch.setattr(reinforcement, "PATIENCE", 3)
    silent = replace(judge, verdict="Nobody says {}.")

    def stop(line: dict[str, float]) -> None:
        if line["step"] == 2:
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path, stop, {"held_out": 1}, judge=silent)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["val/accuracy"] == first["val/format"] == 0
    assert "val/first" not in first, "a share of no verdicts"
    line = (
        r"\Ano response of the last 3 steps earned a reward \(0% of the last step's had a verdict\), .*; raise "
        r"sft\.epochs, .* or raise judge\.max_new_tokens=8\Z"
    )
    with pytest.raises(ValueError, match=line):
        train(tmp_path, judge=silent)


def test_any_reward_restores_the_patience(pairs: list[PresentedPair], judge: JudgeSettings, loaded: Any) -> None:
    module = step_of(*loaded, judge, pairs, GRPO(), 0)
    logged = {"train/format": 0.0}
    for step in range(100):
        module.look(logged | {"train/reward": float(step % 20 == 0)})
    with pytest.raises(ValueError, match="no response of the last 20 steps"):
        module.look(logged | {"train/reward": 0.0})


def test_a_pair_without_an_advantage_makes_place_for_further_ones(
    pairs: list[PresentedPair], judge: JudgeSettings, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pair 0 of the second global batch: 3 is too long, 6 earns the same, 9 has an advantage, 12 is not asked."""
    module = step_of(*loaded, judge, pairs, GRPO(tries=3, group_size=2), step=1)
    tokens_N = np.array([9, 9, 9, 9, 9, 9, 12, 9, 9, 8, 9, 9, 9, 9, 9])
    lengths = Lengths(tokens_N, np.zeros(15, dtype=int), np.arange(15))
    module.plan = BatchPlan(np.arange(15), np.ones(15), lengths, 3, 100, 1)
    assert [module.further(position) for position in (3, 4, 5)] == [[9, 12], [7, 10, 13], [8, 11, 14]]
    rewarded = {3: [0.2, 0.2], 9: [0.2, 1.2], 4: [0.0, 1.2], 5: [0.0, 0.0], 8: [0.0, 0.0], 11: [0.0, 0.0]}
    of = {one.pair.id: position for position, one in enumerate(pairs)}
    asked: list[list[int]] = []

    def responses(asked_for: list[PresentedPair]) -> list[list[Generation]]:
        asked.append([of[one.pair.id] for one in asked_for])
        return [[Generation([5] * (1 + position), True, 1.0) for _ in range(2)] for position in asked[-1]]

    def rewards(one: PresentedPair, group: list[Generation], logged: Any) -> torch.Tensor:
        return torch.tensor(rewarded.get(of[one.pair.id], [0.0, 0.0]))

    monkeypatch.setattr(module, "responses", responses)
    monkeypatch.setattr(module, "rewards", rewards)
    drawn = module.draw([(3, 0.5), (4, 0.3), (5, 0.2)])
    assert asked == [[3, 4, 5], [9, 8], [11], [14]]
    assert drawn.logged["advantage"] == [0, 1, 0, 1, 0, 0, 0]
    assert drawn.learnt is not None
    batch, advantage_M = drawn.learnt
    assert batch.row.weight_M.tolist() == pytest.approx([0.5 / 2 / 10] * 20 + [0.3 / 2 / 5] * 10)
    assert advantage_M.sign().tolist() == [-1] * 10 + [1] * 10 + [-1] * 5 + [1] * 5


def test_long_pairs_are_left_out_and_what_can_not_be_trained_is_one_line(
    pairs: list[PresentedPair], taught: Any, judge: JudgeSettings, tmp_path: Path
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
