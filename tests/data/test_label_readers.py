"""Readers of labels that nothing counted, each on records in exactly the public layout."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mprm.data.lines import Unusable
from mprm.data.math_shepherd import MathShepherd
from mprm.data.prm800k import PRM800K
from mprm.data.rollouts import Dataset, Rollout, read_rollout
from mprm.data.visualprm400k import Fields, JsonLines
from mprm.data.vl_prm300k import VLPRM300K


def read(dataset: Dataset, record: Any) -> Rollout | str:
    """A rollout to train on, or the reason why it is none."""
    try:
        return read_rollout(dataset, json.dumps(record, ensure_ascii=False).encode(), "set").rollout
    except Unusable as unusable:
        return unusable.reason


def labelled(dataset: Dataset, record: Any) -> list[tuple[str, float | None]] | str:
    rollout = read(dataset, record)
    return rollout if isinstance(rollout, str) else list(zip(rollout.steps, rollout.scores, strict=True))


prm, math = partial(PRM800K, path="x.jsonl"), partial(MathShepherd, path="x.jsonl")


# ---- PRM800K


def completion(text: Any, rating: Any, flagged: Any = None) -> dict[str, Any]:
    return {"text": text, "rating": rating, "flagged": flagged}


def step(*completions: Any, chosen: Any = 0, human: Any = None) -> dict[str, Any]:
    return {"completions": list(completions), "human_completion": human, "chosen_completion": chosen}


HUMAN = {"text": "By hand.", "rating": None, "source": "human", "flagged": False, "corrected_rating": None}
GOOD, NEUTRAL, BAD = completion(" Good.", 1), completion("So.", 0), completion("Bad.", -1, False)


def prm800k(*steps: Any, finish: str = "found_error", **changes: Any) -> dict[str, Any]:
    question = {
        "problem": "How many?\n",
        "ground_truth_solution": "Count.",
        "ground_truth_answer": "2",
        "pre_generated_steps": ["Good.", "Bad."],
        "pre_generated_answer": "3",
        "pre_generated_verifier_score": 0.01,
    }
    return {
        "labeler": "340d89bc-f5b7-45e9-b272-909ba68ee363",
        "timestamp": "2023-01-22T04:34:27.052924",
        "generation": 9,
        "is_quality_control_question": False,
        "is_initial_screening_question": False,
        "question": question,
        "label": {"steps": list(steps), "total_time": 278270, "finish_reason": finish},
    } | changes


@pytest.mark.parametrize(
    ("steps", "read"),
    [
        ((step(GOOD), step(BAD, GOOD, chosen=1)), [("Good.", 1), ("Good.", 1)]),  # the alternative is not used
        ((step(GOOD), step(BAD, GOOD, chosen=None)), [("Good.", 1), ("Bad.", 0)]),  # phase 2 ends at the error
        ((step(GOOD), step(NEUTRAL, BAD, chosen=None)), [("Good.", 1), ("Bad.", 0)]),
        ((step(BAD, chosen=None, human=HUMAN), step(GOOD)), [("By hand.", 1), ("Good.", 1)]),  # phase 1
        ((step(GOOD), step(NEUTRAL, chosen=None)), [("Good.", 1)]),  # given up: nothing chosen, nothing wrong
        ((step(GOOD), {"completions": None, "human_completion": None, "chosen_completion": None}), [("Good.", 1)]),
        ((step(GOOD), step(completion("?", None, True))), [("Good.", 1), ("?", None)]),
        ((step(GOOD), step(completion("?", -1, True))), [("Good.", 1), ("?", None)]),
    ],
)
def test_prm800k(steps: Any, read: Any) -> None:
    assert labelled(prm(), prm800k(*steps)) == read


def test_prm800k_question_and_neutral_steps() -> None:
    record = prm800k(step(GOOD), step(NEUTRAL), finish="solution")
    found = read(prm(), record)
    assert found == Rollout((), "How many?", ["Good.", "So."], [1.0, 1.0])
    for neutral, score in (("right", 1.0), ("wrong", 0.0), ("ignore", None)):
        assert labelled(prm(neutral=neutral), record) == [("Good.", 1.0), ("So.", score)]
    assert labelled(prm(final_step="drop"), record) == [("Good.", 1.0)]
    assert labelled(prm(neutral="ignore"), prm800k(step(NEUTRAL))) == "no_usable_score"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (prm800k(step(GOOD), finish="bad_problem"), "bad_problem"),
        (prm800k(step(GOOD), question=None), "no_question"),
        (prm800k(step(GOOD), question={"problem": " "}), "no_question"),
        (prm800k(step(GOOD), question={"problem": 3}), "no_question"),
        (prm800k(step(GOOD), label=None), "no_steps"),
        (prm800k(), "no_steps"),
        (prm800k("Good."), "bad_step"),
        (prm800k(step("Good.")), "bad_step"),
        (prm800k(step(GOOD, chosen=1)), "bad_step"),
        (prm800k(step(GOOD, chosen=-1)), "bad_step"),
        (prm800k(step(GOOD, chosen=True)), "bad_step"),
        (prm800k(step(BAD, chosen=None, human="By hand.")), "bad_step"),
        (prm800k(step(completion(" ", 1))), "empty_step"),
        (prm800k(step(completion(7, 1))), "empty_step"),
        (prm800k(step(completion("a", 2))), "bad_label"),
        (prm800k(step(completion("a", True))), "bad_label"),
        (prm800k(step(completion("a", "1"))), "bad_label"),
    ],
)
def test_prm800k_reasons(record: Any, reason: str) -> None:
    assert read(prm(), record) == reason


# ---- Math-Shepherd

SOLVED = "Janet has 2 + 3 eggs. How many? Step 1: She has 2 + 3 = <<2+3=5>>5 eggs. ки\nStep 2: The answer is: 5 ки"


def shepherd(labels: str = "+-", marked: Any = SOLVED, **changes: Any) -> dict[str, Any]:
    label = marked
    for mark in labels:
        label = label.replace("ки", mark, 1)
    return {"input": marked, "label": label, "task": "GSM8K"} | changes


def test_math_shepherd() -> None:
    steps = ["Step 1: She has 2 + 3 = <<2+3=5>>5 eggs.", "Step 2: The answer is: 5"]
    for labels, scores in (("++", [1.0, 1.0]), ("+-", [1.0, 0.0]), ("--", [0.0, 0.0])):
        assert read(math(), shepherd(labels)) == Rollout((), "Janet has 2 + 3 eggs. How many?", steps, scores)
    assert labelled(math(final_step="drop"), shepherd()) == [(steps[0], 1.0)]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (shepherd(input=None), "no_steps"),
        (shepherd(input="Janet has 2 + 3 eggs."), "no_steps"),
        (shepherd(label=None), "bad_label"),
        (shepherd("+"), "bad_label"),
        (shepherd("+*"), "bad_label"),
        (shepherd(label="Janet"), "length_mismatch"),
        (shepherd(label="other" + SOLVED), "length_mismatch"),
        (shepherd("+-", SOLVED + " and more"), "length_mismatch"),
        (shepherd(label=shepherd()["label"] + "\nStep 3: more +"), "length_mismatch"),
        (shepherd("+", "Step 1: the question is missing. ки"), "no_question"),
        (shepherd("+-", "Round to the nearest ки tenth. Step 1: 2. ки"), "no_question"),  # a mark in the question
        (shepherd("++", "How many? Step 1: ки\nStep 2: ки ки"), "bad_label"),
        (shepherd("+++", "How many? Step 1: a ки\n ки\nStep 3: b ки"), "empty_step"),
    ],
)
def test_math_shepherd_reasons(record: Any, reason: str) -> None:
    assert read(math(), record) == reason


# ---- VL-PRM300K


def turn(role: str, text: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


COUNTED = [
    {"step": "Two bars.", "score": 0.5, "num_mc_correct": 8, "num_mc_total": 16},
    {"step": "One is 3.", "score": 0.0625, "num_mc_correct": 1, "num_mc_total": 16},
    {"step": "So 4.", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 16},
]


def vl_prm(*verdicts: str, **changes: Any) -> dict[str, Any]:
    said = [one for verdict in verdicts for one in (turn("user", "<step_1>...</step_1>"), turn("assistant", verdict))]
    return {
        "id": "698d978c-5835-4e74-b17d-331d45903bd9",
        "conversations": [turn("system", "You are an advanced AI assistant."), *said],
        "first_incorrect_step": "['Visual Elements', 1]",
        "steps_with_score": COUNTED,
        "rollout_ground_truth_answer": "6",
        "image": "images/RAVEN/8135.png",
        "image_qwen_smart_resize": "images/RAVEN/8135_qwen_smart_resize.png",
        "source": "RAVEN",
        "question_type": "abstract_visual_reasoning",
        "question": "How many?",
    } | changes


def test_vl_prm300k(tmp_path: Path) -> None:
    (tmp_path / "images" / "RAVEN").mkdir(parents=True)
    (tmp_path / "images" / "RAVEN" / "8135.png").touch()
    judged, counted = (VLPRM300K(path=f"{tmp_path}/x.jsonl", labels=labels) for labels in ("judge", "monte_carlo"))
    assert labelled(judged, vl_prm("+", "-")) == [("Two bars.", 1.0), ("One is 3.", 0.0)]
    assert labelled(judged, vl_prm("+", "+", "+"))[-1] == ("So 4.", 1.0)
    found = read(counted, vl_prm("+", "-"))
    assert not isinstance(found, str)
    assert (found.images, found.question) == (("images/RAVEN/8135.png",), "How many?")
    assert list(found.scores) == [0.5, 0.0625, 0.0]
    assert list(found.n_correct) == [8, 1, 0]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (vl_prm("+", "?"), "bad_label"),
        (vl_prm("+", "+", "+", "-"), "length_mismatch"),
        (vl_prm(), "no_steps"),
        (vl_prm("+", steps_with_score=None), "no_steps"),
        (vl_prm("+", steps_with_score=["Two bars."]), "bad_step"),
        (vl_prm("+", conversations=None), "bad_conversation"),
        (vl_prm("+", conversations=["+"]), "bad_conversation"),
        (vl_prm("+", conversations=[{"role": "assistant", "content": None}]), "bad_label"),
        (vl_prm("+", image=3), "no_image"),
        (vl_prm("+"), "missing_image_file"),
    ],
)
def test_vl_prm300k_reasons(record: Any, reason: str, tmp_path: Path) -> None:
    assert read(VLPRM300K(path=f"{tmp_path}/x.jsonl"), record) == reason


# ---- TRL's stepwise supervision, and settings


def test_stepwise_supervision(tmp_path: Path) -> None:
    dataset = JsonLines(
        path=f"{tmp_path}/x.jsonl", fields=Fields(question="prompt", steps="completions", score="labels")
    )
    record = {"prompt": "How many?", "completions": ["One.", "Two."], "labels": [True, False]}
    assert labelled(dataset, record) == [("One.", 1.0), ("Two.", 0.0)]
    assert labelled(dataset, record | {"labels": [True]}) == "length_mismatch"


@pytest.mark.parametrize(
    ("reader", "settings", "message"),
    [
        (PRM800K, {"neutral": "half"}, "dataset.neutral=half is unknown; choose right, wrong, ignore"),
        (PRM800K, {"final_step": "cut"}, "dataset.final_step=cut is unknown"),
        (VLPRM300K, {"labels": "both"}, "dataset.labels=both is unknown; choose judge or monte_carlo"),
    ],
)
def test_settings_are_checked(reader: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reader(**settings)


def test_a_reader_without_a_file_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match=r"dataset.path is not set; give JSON lines with input and label"):
        MathShepherd().files()
