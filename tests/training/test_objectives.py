import math

import pytest
import torch

from mprm.training.objectives import Hard, Soft, step_losses


def test_two_way_cross_entropy() -> None:
    logits_M2 = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [0.0, math.log(3)]])
    loss_M = step_losses(logits_M2, torch.tensor([1.0, 0.0, 0.5]))
    expected = [math.log(4 / 3), math.log(4), 0.5 * math.log(4 / 3) + 0.5 * math.log(4)]
    torch.testing.assert_close(loss_M, torch.tensor(expected))


def test_hard_label_is_one_above_tau() -> None:
    mc_M = torch.tensor([0.0, 1 / 16, 2 / 16, 1.0])
    assert Hard().target(mc_M).tolist() == [0, 1, 1, 1]
    assert Hard(tau=1 / 16).target(mc_M).tolist() == [0, 0, 1, 1]
    assert Hard().target(0.5) == 1.0, "a plain number, as the export gives it"


def test_soft_label_is_the_score() -> None:
    assert Soft().target(torch.tensor([0.25])).tolist() == [0.25]


def test_values_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"objective\.tau=1\.0"):
        Hard(tau=1.0)
    with pytest.raises(ValueError, match=r"objective\.normalise=sum .* choose global_batch or micro_batch"):
        Soft(normalise="sum")
    with pytest.raises(ValueError, match=r"objective\.micro_batch_size=0 is not positive"):
        Hard(micro_batch_size=0)
