"""Steps of a text, and the settings that no policy can have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mprm.inference.policy import SamplingSettings, key_hash, split_steps

CONF = Path(__file__).parents[2] / "conf" / "policy"
GIVEN = {"server": ["policy.model=m"], "transformers": ["policy.path=mprm/chartworld/weights/internvl_reader"]}


def test_steps_are_what_stands_between_separators() -> None:
    assert split_steps("red is 4.\n blue is 7. \n\nThe answer is 11.\n", "\n") == (
        "red is 4.",
        "blue is 7.",
        "The answer is 11.",
    )
    assert split_steps("one\nand its second line\n\n\n\ntwo", "\n\n") == ("one\nand its second line", "two")
    assert split_steps(" \n", "\n") == ()


def test_a_key_has_one_hash_on_every_machine() -> None:
    assert key_hash("q0") == 0xDB211D0252E771E


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"separator": ""}, "policy.separator is empty"),
        ({"separator": "\\n"}, r"policy.separator=\\n has a backslash"),
        ({"temperature": -0.1}, "policy.temperature=-0.1 "),
        ({"temperature": float("nan")}, "policy.temperature=nan "),
        ({"top_p": 0.0}, "policy.top_p=0.0 "),
        ({"top_p": 1.1}, "policy.top_p=1.1 "),
        ({"max_new_tokens": 0}, "policy.max_new_tokens=0 "),
    ],
)
def test_impossible_settings_are_refused(settings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SamplingSettings(**settings)


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONF.glob("*.yaml"))])
def test_every_choice_composes(name: str, load: Callable[..., Any]) -> None:
    policy = load("task=sample", "output=o.jsonl", "seed=3", f"policy={name}", *GIVEN.get(name, [])).policy
    assert policy.seed == 3
    assert policy.separator in ("\n", "\n\n")
    assert policy.identity()["temperature"] == policy.temperature > 0


def test_a_device_that_is_not_there_is_one_line(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    policy = load("task=sample", "output=o.jsonl", "policy.device=cuda").policy
    with pytest.raises(
        ValueError, match=r"^policy.device=cuda, but this machine has no CUDA device; try policy.device="
    ):
        policy.sampler  # noqa: B018 - a property
    with pytest.raises(ValueError, match=r"^policy.device=gpu is unknown; choose cpu, cuda or cuda:N"):
        load("task=sample", "output=o.jsonl", "policy.device=gpu")
