"""What DeepSpeed asks of us, as far as it can be asked without CUDA."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins.precision import DeepSpeedPrecision

from mprm.data.collate import Example, collate
from mprm.training.batches import BatchPlan, RankBatches
from mprm.training.fit import KeepTargets


def test_targets_are_not_rounded_to_bfloat16() -> None:
    example = Example(torch.arange(3), torch.tensor([2]), torch.arange(3), {}, torch.tensor([1 / 3]), 0.1)
    batch = collate([example], pad_id=0)
    assert KeepTargets("bf16-true").convert_input(batch) is batch


def test_the_sampler_tells_its_batch_size() -> None:
    plan = BatchPlan(np.arange(8), np.ones(8, dtype=int), 8, 4, 1)
    assert RankBatches(plan, 0, 0).batch_size == 4


def test_a_gradient_is_divided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(DeepSpeedPrecision, "backward", lambda self, *args, **kwargs: seen.update(kwargs))
    KeepTargets("32-true").backward(torch.tensor(1.0), None, None)
    assert seen == {"scale_wrt_gas": False}
