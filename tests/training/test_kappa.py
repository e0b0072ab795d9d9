"""A training with a kappa head: 20 rollouts, two epochs, five steps of 8, on an untrained tiny InternVL."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mprm.batching.order import Shuffled
from mprm.training.checkpoint import load_weights, save_weights
from mprm.training.fit import fit
from mprm.training.lengths import measure_again
from mprm.training.module import StepScoring
from mprm.training.objectives import BetaBinomial, Hard
from mprm.training.recipe import Machine, Recipe, Schedule

KAPPA = {"kappa.scale", "kappa.shift", "kappa.weight", "kappa.bias"}
Lines = list[dict[str, Any]]


def losses(lines: Lines) -> list[float]:
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole training is written; tests only read it."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(train: Any, whole_folder: Path) -> Lines:
    lines: Lines = train(whole_folder, BetaBinomial())
    return lines


def test_a_kappa_head_is_drawn_from_the_seed_trained_and_written(
    train: Any, whole: Lines, whole_folder: Path, backbone: Any, tmp_path: Path
) -> None:
    assert losses(whole)[-1] < losses(whole)[0]
    assert losses(train(tmp_path / "again", BetaBinomial())) == losses(whole)
    written = load_file(whole_folder / "weights.safetensors")
    assert {name for name in written if "kappa" in name} == KAPPA
    _, model = backbone.load()
    torch.manual_seed(0)
    model.set_kappa(True)
    for name in KAPPA:
        assert not written[name].equal(model.get_parameter(name)), name
        torch.testing.assert_close(written[name], model.get_parameter(name).detach(), atol=1e-2, rtol=0)
    load_weights(model, whole_folder / "weights.safetensors")
    assert all(model.get_parameter(name).equal(tensor) for name, tensor in written.items())


def test_the_forward_passes_do_not_matter(train: Any, whole: Lines, tmp_path: Path) -> None:
    assert losses(train(tmp_path / "cut", BetaBinomial(), max_tokens=109)) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.slow
def test_two_ranks_equal_one(train: Any, whole: Lines, whole_folder: Path, tmp_path: Path) -> None:
    ranks = train(tmp_path / "ranks", BetaBinomial(), devices=2, strategy="ddp_cpu")
    assert losses(ranks) == pytest.approx(losses(whole), abs=1e-5)
    one, two = (load_file(folder / "weights.safetensors") for folder in (whole_folder, tmp_path / "ranks"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=0)


def test_resumed_equals_uninterrupted_bit_for_bit(train: Any, whole: Lines, whole_folder: Path, tmp_path: Path) -> None:
    def stop(line: dict[str, float]) -> None:
        if line["step"] == 3:
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path / "resumed", BetaBinomial(), mirror=stop)
    assert losses(train(tmp_path / "resumed", BetaBinomial())) == losses(whole)
    one, two = (load_file(folder / "weights.safetensors") for folder in (whole_folder, tmp_path / "resumed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_objective_drops_a_kappa_head(train: Any, tmp_path: Path) -> None:
    """The curve is that of a model which never had one."""
    never = train(tmp_path / "never", Hard())
    dropped = train(tmp_path / "dropped", Hard(), watch=lambda model: model.set_kappa(True))
    assert losses(dropped) == losses(never)
    assert not KAPPA & load_file(tmp_path / "dropped" / "weights.safetensors").keys()


def test_weights_say_whether_there_is_a_kappa_head(backbone: Any, tmp_path: Path) -> None:
    _, model = backbone.load()
    for wanted in (False, True):
        model.set_kappa(wanted)
        save_weights(model, tmp_path / str(wanted))
    load_weights(model, tmp_path / "False")
    assert model.kappa is None
    load_weights(model, tmp_path / "True")
    assert model.kappa is not None


def test_a_kappa_head_beside_adapters_on_a_half_precision_backbone(train: Any, tmp_path: Path) -> None:
    options = {"language_model": "lora", "dtype": "bfloat16"}
    lines = train(tmp_path / "lora", BetaBinomial(), options=options, precision="bf16-mixed")
    assert losses(lines)[-1] < losses(lines)[0]
    written = load_file(tmp_path / "lora" / "weights.safetensors")
    assert written.keys() > KAPPA
    assert {written[name].dtype for name in KAPPA} == {torch.float32}


def test_every_scored_step_needs_the_counts_that_make_its_score() -> None:
    def check(scores: list[float | None], correct: list[int | None], total: list[int | None]) -> list[int]:
        columns = {"id": ["a:0", "a:7"], "scores": [[1.0], scores], "n_correct": [[16], correct]}
        part: Any = SimpleNamespace(examples=SimpleNamespace(records=columns | {"n_total": [[16], total]}))
        schedule = Schedule(Recipe(), Machine(), Shuffled(), seed=0)
        terms: list[int] = StepScoring(torch.nn.Linear(1, 1), BetaBinomial(), schedule).terms(part).tolist()  # type: ignore[arg-type]
        return terms

    # A rounded score, and a step that was never sampled.
    assert check([0.5, 0.33, None], [8, 1, 0], [16, 3, 0]) == [1, 2]
    line = r"^rollout a:7 has score 0\.5 at step 1 \(from 0\), but None of None continuations; .* use objective=soft$"
    with pytest.raises(ValueError, match=line):
        check([1.0, 0.5], [4, None], [4, None])
    # Behind a dead end no continuation is drawn.
    assert check([0.5, 0.0, 0.0], [8, 0, 0], [16, 16, 0]) == [1, 2]
    with pytest.raises(ValueError, match=r"^rollout a:7 has score 0\.5 at step 0 \(from 0\), but 0 of 0 continuations"):
        check([0.5], [0], [0])
    with pytest.raises(ValueError, match=r"^rollout a:7 has score 0\.5 at step 0 \(from 0\), but 3 of 4 continuations"):
        check([0.5], [3], [4])


def test_implied_negatives_are_no_evidence_for_counts(backbone: Any, part: Any, tmp_path: Path) -> None:
    """The last step of every rollout was never continued: it trains BetaBinomial like a step of no score, Hard not."""

    def losses_of(objective: Any, last: float | None) -> list[float]:
        processor, model = backbone.load()
        examples = part(processor, range(8))

        def stopped(row: dict[str, Any]) -> dict[str, Any]:
            return {"scores": [*row["scores"][:-1], last], "n_total": [*row["n_total"][:-1], 0]}

        examples.records = examples.records.map(stopped, load_from_cache_file=False)
        folder = tmp_path / f"{objective}{last}"
        folder.mkdir()
        recipe, machine = Recipe(global_batch_size=4), Machine(validate_every=1)
        measured = measure_again(examples, {}, 0)
        fit(StepScoring(model, objective, Schedule(recipe, machine, Shuffled(), 0)), measured, measured, folder)
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line[name] for line in lines for name in ("train/loss", "val/loss") if name in line]

    assert losses_of(BetaBinomial(), 0.0) == losses_of(BetaBinomial(), None)
    assert losses_of(Hard(), 0.0) != losses_of(Hard(), None)


def test_missing_counts_stop_a_training_before_it_starts(backbone: Any, part: Any, tmp_path: Path) -> None:
    processor, model = backbone.load()
    examples = part(processor, range(8))
    examples.records = examples.records.map(lambda row: {"n_total": [None] * len(row["steps"])})

    def train_with(objective: Any) -> dict[str, int]:
        recipe = Recipe(global_batch_size=4)
        measured = measure_again(examples, {}, 0)
        schedule = Schedule(recipe, Machine(), Shuffled(), seed=0)
        return fit(StepScoring(model, objective, schedule), measured, measured, tmp_path)

    with pytest.raises(ValueError, match=r"^rollout .* of None continuations; this objective trains on these counts"):
        train_with(BetaBinomial())
    assert not list(tmp_path.iterdir())
    assert train_with(Hard())["optimizer_steps"] == 2
