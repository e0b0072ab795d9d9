"""objective.balance and objective.ignore in a training: 20 rollouts, two epochs, five steps of 8, on an untrained tiny
InternVL, with scores of every kind."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mprm.batching.collate import collate
from mprm.batching.order import Shuffled, ShuffledQuestions
from mprm.training.lengths import measure_again
from mprm.training.module import StepScoring, learnt
from mprm.training.objectives import BetaBinomial, Hard, Objective, Soft
from mprm.training.recipe import Machine, Recipe, Schedule

Lines = list[dict[str, Any]]
OBJECTIVES = {
    "hard": Hard(balance="classes"),
    "soft": Soft(balance="classes"),
    "beta_binomial": BetaBinomial(balance="classes"),
    "band": Hard(balance="classes", tau=0.125, ignore=[0.125, 0.75]),
    "published": Hard(balance="classes", normalise="micro_batch", micro_batch_size=2),
}


def relabel(row: dict[str, Any], number: int) -> dict[str, Any]:
    """K of 16 for every step; of every fifth rollout all are 8."""
    correct = [8 if number % 5 == 4 else (5 * number + 3 * step) % 17 for step in range(len(row["steps"]))]
    return {"scores": [k / 16 for k in correct], "n_correct": correct, "n_total": [16] * len(correct)}


def losses(lines: Lines) -> list[float]:
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.fixture(scope="module")
def whole(train: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Lines]]:
    """The folder and the lines of the training with each objective."""
    folders = {name: tmp_path_factory.mktemp(name) for name in OBJECTIVES}
    return {name: (folders[name], train(folders[name], OBJECTIVES[name], relabel=relabel)) for name in OBJECTIVES}


@pytest.fixture
def examples(backbone: Any, part: Any) -> Any:
    """The rollouts with other scores."""
    found = part(backbone.load()[0], range(20))
    found.records = found.records.map(relabel, with_indices=True, load_from_cache_file=False)
    return found


def by_hand(objective: Objective, mc_M: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and weight (M,) of every step; a step that is ignored weighs nothing."""
    positive_M = mc_M if not isinstance(objective, Hard) else (mc_M > objective.tau).float()
    weight_M = positive_M * 0.5 / share + (1 - positive_M) * 0.5 / (1 - share)
    if isinstance(objective, Hard) and objective.ignore:
        weight_M = weight_M * ((mc_M <= 0.125) | (mc_M >= 0.75))
    return positive_M, weight_M


@pytest.mark.parametrize("name", ["hard", "soft", "beta_binomial", "band"])
def test_a_step_minimises_the_weighted_mean_over_its_global_batch(
    whole: Any, backbone: Any, examples: Any, name: str
) -> None:
    """The first loss, and the norm of its gradient."""
    objective = OBJECTIVES[name]
    mc = torch.tensor([score for scores in examples.records["scores"] for score in scores])
    if name == "band":
        mc = mc[(mc <= 0.125) | (mc >= 0.75)]
    share = by_hand(objective, mc, 0.5)[0].mean().item()
    measured, found = learnt(objective, measure_again(examples, {}, 0))
    assert found == pytest.approx(share)
    torch.manual_seed(0)
    _, model = backbone.load()
    torch.manual_seed(0)
    model.set_kappa(objective.kappa)
    usable = measured.usable
    first = usable[Shuffled().epoch(usable, usable, 0, 0)[:8]]
    total, weights = torch.zeros(()), 0.0
    for position in first.tolist():
        batch = collate(examples.__getitems__([(position, 1.0)]))
        output = model(batch)
        target_M, weight_M = by_hand(objective, batch.mc_M, share)
        logp_M2 = output.logits_M2.log_softmax(-1)
        loss_M = -(target_M * logp_M2[:, 1] + (1 - target_M) * logp_M2[:, 0])
        if name == "beta_binomial":
            loss_M = BetaBinomial().losses(output, batch.mc_M, batch.n_M)
        total = total + (loss_M * weight_M).sum()
        weights += weight_M.sum().item()
    loss = total / weights
    loss.backward()
    squares = [parameter.grad.square().sum() for parameter in model.parameters() if parameter.grad is not None]
    line = whole[name][1][0]
    assert line["train/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert line["train/gradient_norm"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_how_a_step_is_cut_does_not_matter(train: Any, whole: Any, tmp_path: Path, name: str) -> None:
    """109 tokens hold one rollout, or a few of one question."""
    folder, lines = whole[name]
    cut = train(tmp_path / "cut", OBJECTIVES[name], relabel=relabel, max_tokens=109)
    assert losses(cut) == pytest.approx(losses(lines), abs=1e-5)
    one, two = (load_file(path / "weights.safetensors") for path in (folder, tmp_path / "cut"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=0)


def test_packed_equals_unpacked(train: Any, tmp_path: Path) -> None:
    order = ShuffledQuestions()
    at_once, alone = (
        train(tmp_path / str(tokens), OBJECTIVES["soft"], order, relabel=relabel, max_tokens=tokens)
        for tokens in (4096, 109)
    )
    assert losses(at_once) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.slow
def test_two_ranks_equal_one(train: Any, whole: Any, tmp_path: Path) -> None:
    ranks = train(tmp_path, OBJECTIVES["band"], relabel=relabel, devices=2, strategy="ddp_cpu", max_tokens=400)
    assert losses(ranks) == pytest.approx(losses(whole["band"][1]), abs=1e-5)
    one, two = (load_file(path / "weights.safetensors") for path in (whole["band"][0], tmp_path))
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-4, rtol=0)


def test_resumed_equals_uninterrupted_bit_for_bit(train: Any, whole: Any, tmp_path: Path) -> None:
    def stop(line: dict[str, float]) -> None:
        if line["step"] == 3:
            raise RuntimeError("the power is cut")

    with pytest.raises(RuntimeError, match="the power is cut"):
        train(tmp_path, OBJECTIVES["band"], relabel=relabel, mirror=stop)
    assert losses(train(tmp_path, OBJECTIVES["band"], relabel=relabel)) == losses(whole["band"][1])
    one, two = (load_file(path / "weights.safetensors") for path in (whole["band"][0], tmp_path))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_is_ignored_teaches_nothing(train: Any, whole: Any, tmp_path: Path) -> None:
    """Another score within the band, or none at all, is the same training: the same rollouts, weights and losses."""

    def other(row: dict[str, Any], number: int) -> dict[str, Any]:
        found = relabel(row, number)
        within = [0.125 < score < 0.75 for score in found["scores"]]
        return found | {"scores": [None if inside else s for s, inside in zip(found["scores"], within, strict=True)]}

    assert losses(train(tmp_path, OBJECTIVES["band"], relabel=other)) == losses(whole["band"][1])


def test_rollouts_without_evidence_are_left_out_and_counted(examples: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """All steps of rollouts 4, 9, 14 and 19 have 8 of 16; others may have none outside the band by chance."""
    before = measure_again(examples, {3: "too_long"}, 0)
    scores = list(examples.records["scores"])
    nothing = [n for n in before.usable.tolist() if all(0.125 < score < 0.75 for score in scores[n])]
    assert {4, 9, 14, 19} <= {*nothing}
    after, share = learnt(OBJECTIVES["band"], before)
    assert after.left_out == {"too_long": 1, "no_evidence": len(nothing)}
    assert after.usable.tolist() == [n for n in before.usable.tolist() if n not in nothing]
    kept = [s for n in after.usable.tolist() for s in scores[n] if s <= 0.125 or s >= 0.75]
    assert share == pytest.approx(np.mean([s >= 0.75 for s in kept]))
    said = capsys.readouterr().out
    assert f"objective.balance=classes: {share:.2%} of the label mass is positive, so a positive step weighs" in said
    assert learnt(Hard(tau=0.125, ignore=[0.125, 0.75]), before)[1] is None
    assert not capsys.readouterr().out
    assert learnt(Soft(), before)[0] is before, "every rollout has evidence without a band"


@pytest.mark.parametrize(("score", "kind"), [(1.0, "positive"), (0.0, "negative")])
def test_one_class_alone_is_not_balanced(examples: Any, score: float, kind: str) -> None:
    examples.records = examples.records.map(
        lambda row: {"scores": [score] * len(row["steps"]), "n_correct": [int(16 * score)] * len(row["steps"])}
    )
    for objective in (OBJECTIVES["hard"], OBJECTIVES["soft"], OBJECTIVES["beta_binomial"]):
        line = (
            rf"^objective\.balance=classes has nothing to balance: all steps of the 20 rollouts to train on are {kind};"
        )
        with pytest.raises(ValueError, match=line):
            learnt(objective, measure_again(examples, {}, 0))
    examples.records = examples.records.map(lambda row: {"scores": [0.5] * len(row["steps"])})
    with pytest.raises(
        ValueError, match=r"^none of 20 rollouts has a step that the objective learns; give objective\."
    ):
        learnt(Soft(ignore=[0.125, 0.75]), measure_again(examples, {}, 0))


def test_terms_are_the_weights_of_the_steps(examples: Any) -> None:
    """The plan's number of terms of a rollout is what its steps weigh together, and unbalanced their number."""
    measured = measure_again(examples, {}, 0)
    schedule = Schedule(Recipe(), Machine(), Shuffled(), seed=0)
    plain = StepScoring(torch.nn.Linear(1, 1), Soft(), schedule)  # type: ignore[arg-type]
    assert plain.terms(measured).tolist() == [len(steps) for steps in examples.records["steps"]]
    balanced = StepScoring(torch.nn.Linear(1, 1), Soft(), schedule, positive_share=0.8)  # type: ignore[arg-type]
    expected = [sum(s * 0.625 + (1 - s) * 2.5 for s in scores) for scores in examples.records["scores"]]
    assert balanced.terms(measured).tolist() == pytest.approx(expected)
