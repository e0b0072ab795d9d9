from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mprm.training.fit import History


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
    plan: Any = SimpleNamespace(global_batch_size=8, order=range(80), optimizer_steps=10)
    assert History(Path("metrics.jsonl"), plan, epochs=2).words(step) == words
