"""Settings of policies, and what a scripted and a tiny policy make of questions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mprm.data.questions import Question
from mprm.inference.policy import Completion, Sampling, SamplingSettings, key_hash, solve, split_steps
from mprm.runs.journal import journal

CONF = Path(__file__).parents[2] / "conf" / "policy"
GIVEN = {"server": ["policy.model=m"], "transformers": ["policy.path=mprm/chartworld/weights/internvl"]}


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
        ({"temperature": float("nan")}, "policy.temperature=nan is not 0 or more"),
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


QUESTIONS = [Question(f"q{n}", "charts", (f"{n}.png",), f"What is red plus {n}?", "11") for n in range(5)]
SCRIPT = {
    (): [
        Completion("red is 4.\nThe answer is 11.\n", 9, True),
        Completion("The answer is 12.\n", 5, True),
        Completion("red is 4.\nThe answer is 11", 8, False),
        Completion("I look at the chart.\n", 6, True),
        Completion("", 0, True),
    ]
}


def here(name: str) -> Path:
    if name == "3.png":
        raise ValueError(f"image {name} is not there")
    return Path("/pictures") / name


def solved(policy: Any, target: Path, batch: int = 2, told: Callable[[int], None] = lambda n: None) -> dict[str, Any]:
    with journal(target, policy.identity()) as kept:
        solve(policy, QUESTIONS, here, Sampling(5, batch), kept, told)
        return json.loads(json.dumps(kept.done))


def test_a_record_holds_the_candidates_and_whether_they_are_right(scripted: Any, tmp_path: Path) -> None:
    told: list[int] = []
    policy = scripted(SCRIPT, refused=("1.png",))
    done = solved(policy, tmp_path / "out", 2, told.append)
    assert done["q0"] == {
        "id": "q0",
        "source": "charts",
        "image": ["0.png"],
        "question": "What is red plus 0?",
        "answer": "11",
        "candidates": [
            {"steps": ["red is 4.", "The answer is 11."], "final_answer": "11", "correct": True, "n_tokens": 9},
            {"steps": ["The answer is 12."], "final_answer": "12", "correct": False, "n_tokens": 5},
            # Cut off: more may have come, and 11 may be the beginning of 110.
            {"steps": ["red is 4.", "The answer is 11"], "final_answer": None, "correct": False, "n_tokens": 8},
            {"steps": ["I look at the chart."], "final_answer": None, "correct": False, "n_tokens": 6},
            {"steps": [], "final_answer": None, "correct": False, "n_tokens": 0},
        ],
    }
    assert done["q1"] == {"unusable": "unreadable_image"}
    assert done["q3"] == {"unusable": "missing_image_file"}
    assert done.keys() == {question.id for question in QUESTIONS}
    assert told == [2, 2, 1]
    prompt = policy.calls[0][0]
    assert (prompt.key, prompt.images, prompt.steps, prompt.n) == ("q0", (Path("/pictures/0.png"),), (), 5)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_size_of_a_batch_does_not_matter(scripted: Any, tmp_path: Path, batch: int) -> None:
    expected = solved(scripted(SCRIPT), tmp_path / "two", 2)
    assert solved(scripted(SCRIPT), tmp_path / "other", batch) == expected


def test_what_was_solved_before_a_kill_is_not_solved_again(scripted: Any, tmp_path: Path) -> None:
    uninterrupted = solved(scripted(SCRIPT), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        solved(scripted(SCRIPT, fails_at=1), tmp_path / "out")
    told: list[int] = []
    policy = scripted(SCRIPT)
    assert solved(policy, tmp_path / "out", 2, told.append) == uninterrupted
    # q0 and q1 were kept, and so was that q3 has no image.
    assert [prompt.key for call in policy.calls for prompt in call] == ["q2", "q4"]
    assert told == [2]


def test_a_question_too_long_for_the_policy_is_counted(scripted: Any, tmp_path: Path) -> None:
    done = solved(scripted(SCRIPT, long=((),)), tmp_path / "out")
    assert [done[f"q{n}"]["unusable"] for n in range(5)] == ["too_long"] * 3 + ["missing_image_file", "too_long"]


def test_the_tiny_policy_is_mostly_right(tiny_policy: Any, charts: list[Question], tmp_path: Path) -> None:
    policy = tiny_policy("internvl")
    with journal(tmp_path / "out", policy.identity()) as kept:
        solve(policy, charts[:16], Path, Sampling(4), kept, lambda n: None)
    candidates = [candidate for record in kept.done.values() for candidate in record["candidates"]]
    assert len(candidates) == 64
    assert sum(candidate["correct"] for candidate in candidates) > 57
    assert all(candidate["final_answer"] is not None for candidate in candidates)
    assert all(candidate["steps"][-1].startswith("The answer is") for candidate in candidates)
