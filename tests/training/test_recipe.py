import pytest

from mprm.training.recipe import Machine, Recipe


def test_warm_up_and_cosine() -> None:
    recipe = Recipe(warmup=0.05)
    factors = [recipe.factor(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]), "5 of 100 steps warm up"
    assert factors[5] == 1.0
    assert factors[52] == pytest.approx(0.5, abs=0.02)
    assert factors == sorted(factors[:5]) + sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 0.001


def test_global_batch_is_cut_for_the_machine() -> None:
    assert Machine(devices=4, micro_batch_size=4).accumulate(512) == 32
    with pytest.raises(ValueError, match=r"recipe\.global_batch_size=512 .* = 3 x 1 x 4; change one of them"):
        Machine(devices=3, micro_batch_size=4).accumulate(512)


@pytest.mark.parametrize("bad", [{"learning_rate": 0.0}, {"warmup": 1.0}, {"epochs": -1}, {"global_batch_size": 0}])
def test_values_that_make_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"recipe.{next(iter(bad))}="):
        Recipe(**bad)  # type: ignore[arg-type]
