"""K of N by hand, after a kill, and against success rates."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mprm.data.questions import Question
from mprm.data.rollouts import read_rollout
from mprm.data.visualprm400k import VisualPRM400K
from mprm.inference.policy import Annotation, Completion, Policy, Prompt, answer_of, solve, split_steps
from mprm.runs.journal import journal

QUESTIONS = [
    Question("q0", "charts", ("0.png",), "What is red plus blue?", "11"),
    Question("q1", "charts", ("1.png", "0.png"), "Which?", "11"),
    Question("q2", "charts", ("2.png",), "How?", "12"),
]
RED, BLUE, RIGHT, WRONG = "red is 4.", "blue is 7.", "The answer is 11.", "The answer is 12."
SOLVED = Completion(f"{RED}\n{BLUE}\n{RIGHT}\n", 20, True)


def ends(*steps: str, finished: bool = True) -> Completion:
    return Completion("\n".join(steps) + "\n", 9, finished)


SCRIPT = {
    (): [
        SOLVED,
        ends("red is 5.", WRONG),
        ends(RED, RIGHT, finished=False),
        Completion("\n", 1, True),
        SOLVED,
    ],
    # Right, wrong, cut off behind the right answer, no answer: one of four.
    (RED,): [ends(BLUE, RIGHT), ends(BLUE, WRONG), ends(BLUE, RIGHT, finished=False), Completion("", 0, True)],
    (RED, BLUE): [ends(RIGHT), ends(RIGHT), ends(WRONG), ends("Again: red is 4.", RIGHT)],
    ("red is 5.",): [ends(WRONG), ends("Again: red is 4.", RIGHT), ends(WRONG), ends(WRONG)],
}


def annotated(policy: Policy, target: Path, batch: int = 1, told: Callable[[int], None] = lambda n: None) -> Any:
    with journal(target, policy.identity()) as kept:
        solve(policy, QUESTIONS, Path, Annotation(5, 4, batch), kept, told)
        return json.loads(json.dumps(kept.done))


def counts(record: dict[str, Any]) -> list[int]:
    return [step["num_mc_correct"] for step in record["steps_with_score"]]


def test_scores_are_shares_of_right_continuations(scripted: Any, tmp_path: Path) -> None:
    told: list[int] = []
    policy = scripted(SCRIPT, refused=("2.png",))
    done = annotated(policy, tmp_path / "out", 1, told.append)
    first, second, third = done["q0"]["records"]
    assert first == {
        "image": "0.png",
        "question": "<image>\nWhat is red plus blue?",
        "question_orig": "What is red plus blue?",
        "answer": "11",
        "response": f"{RED}\n{BLUE}\n{RIGHT}\n",
        "steps_with_score": [
            {"step": RED, "score": 0.25, "num_mc_correct": 1, "num_mc_total": 4},
            {"step": BLUE, "score": 0.75, "num_mc_correct": 3, "num_mc_total": 4},
            # Nothing can follow: 4 of 4 because the answer is right.
            {"step": RIGHT, "score": 1.0, "num_mc_correct": 4, "num_mc_total": 4},
        ],
    }
    assert counts(second) == [1, 0]
    assert third == first
    assert done["q0"]["dropped"] == {"unfinished": 1, "no_steps": 1}
    assert done["q1"]["records"][0]["image"] == ["1.png", "0.png"]
    assert done["q1"]["records"][0]["question"] == "<image>\n<image>\nWhich?"
    assert done["q2"] == {"unusable": "unreadable_image"}
    assert told == [1, 1, 1]


def test_every_continuation_has_randomness_of_its_own(scripted: Any, tmp_path: Path) -> None:
    """Solutions of the same text, too."""
    policy = scripted(SCRIPT)
    annotated(policy, tmp_path / "out", 3)
    solutions, prefixes = policy.calls
    assert [(prompt.key, prompt.steps, prompt.n) for prompt in solutions] == [(q.id, (), 5) for q in QUESTIONS]
    keys = [prompt.key for call in policy.calls for prompt in call]
    assert len(set(keys)) == len(keys)
    of_q0 = [prompt.steps for prompt in prefixes if prompt.images == (Path("0.png"),)]
    assert of_q0 == [(RED,), (RED, BLUE), ("red is 5.",), (RED,), (RED, BLUE)]
    assert {prompt.n for prompt in prefixes} == {4}


def test_the_size_of_a_batch_does_not_matter(scripted: Any, tmp_path: Path) -> None:
    expected = annotated(scripted(SCRIPT), tmp_path / "1", 1)
    for batch in (2, 100):
        assert annotated(scripted(SCRIPT), tmp_path / str(batch), batch) == expected


@pytest.mark.parametrize("call", range(6))
def test_a_killed_annotation_goes_on(scripted: Any, tmp_path: Path, call: int) -> None:
    """Two calls of the policy per question, killed in each of them."""
    uninterrupted = annotated(scripted(SCRIPT), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        annotated(scripted(SCRIPT, fails_at=call), tmp_path / "out")
    policy = scripted(SCRIPT)
    assert annotated(policy, tmp_path / "out") == uninterrupted
    asked = [prompt.key for prompts in policy.calls[::2] for prompt in prompts]
    assert asked == [question.id for question in QUESTIONS[call // 2 :]]


@pytest.mark.parametrize("prompt", range(18))
def test_what_was_paid_for_is_not_asked_again(scripted: Any, tmp_path: Path, prompt: int) -> None:
    """Killed before each prompt of a policy that hands over its completions one by one."""
    uninterrupted = annotated(scripted(SCRIPT), tmp_path / "whole", 2)
    first, second = scripted(SCRIPT, paid=prompt), scripted(SCRIPT, paid=99)
    with pytest.raises(KeyboardInterrupt):
        annotated(first, tmp_path / "out", 2)
    done = annotated(second, tmp_path / "out", 2)
    assert {q.id: done[q.id] for q in QUESTIONS} == uninterrupted
    asked = [p.key for policy in (first, second) for call in policy.calls for p in call]
    assert len(asked) == len(set(asked)) == 18


def test_what_is_too_long_for_the_policy_is_dropped_and_counted(scripted: Any, tmp_path: Path) -> None:
    done = annotated(scripted(SCRIPT, long=((RED, BLUE),)), tmp_path / "prefix")
    assert [record["response"] for record in done["q0"]["records"]] == [f"red is 5.\n{WRONG}\n"]
    assert done["q0"]["dropped"] == {"unfinished": 1, "no_steps": 1, "too_long": 2}
    assert counts(done["q0"]["records"][0]) == [1, 0]
    done = annotated(scripted(SCRIPT, long=((),)), tmp_path / "question")
    assert done["q0"] == {"unusable": "too_long"}


def test_the_reader_of_the_published_data_reads_the_records(scripted: Any, tmp_path: Path) -> None:
    done = annotated(scripted(SCRIPT), tmp_path / "out")
    (tmp_path / "annotations").mkdir()
    records = [record for result in done.values() for record in result["records"]]
    (tmp_path / "annotations" / "ours.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / name).touch()
    dataset = VisualPRM400K(root=str(tmp_path))
    [path] = dataset.files().values()
    rollouts = [read_rollout(dataset, line, "ours").rollout for line in path.read_bytes().splitlines()]
    assert len(rollouts) == 9
    first, two_images = rollouts[0], rollouts[3]
    assert (first.images, first.question) == (("0.png",), "What is red plus blue?")
    assert list(zip(first.steps, first.n_correct, first.n_total, strict=True)) == [
        (RED, 1, 4),
        (BLUE, 3, 4),
        (RIGHT, 4, 4),
    ]
    assert two_images.images == ("1.png", "0.png")


@pytest.mark.slow
def test_counts_agree_with_success_rates(tiny_policy: Any, charts: list[Question], tmp_path: Path) -> None:
    """K of 16 against 64 continuations by another seed, behind one and two steps: chi-square, 99.9 %. Were the rates
    known exactly, a difference that is found could be 1 / sqrt(1 + 16 / 64) = .89 of what it must be here."""
    n_fresh = 64
    policy = tiny_policy("internvl", temperature=1.5)
    chosen = charts[:5]
    with journal(tmp_path / "out", policy.identity()) as kept:
        solve(policy, chosen, Path, Annotation(1, 16), kept, lambda n: None)
    known, prompts, counted = [], [], []
    for question in chosen:
        for record in kept.done[question.id]["records"]:
            steps = split_steps(record["response"], "\n")
            for length, count in enumerate(counts(record)[:-1][:2], start=1):
                images = (Path(question.images[0]),)
                prompts.append(Prompt(f"{len(prompts)}", images, question.question, steps[:length], n_fresh))
                known.append(question)
                counted.append(count)
    fresh = replace(policy, seed=1).complete(prompts)
    rates = [
        sum(answer_of(q, [*p.steps, *split_steps(c.text, "\n")], c)[1] for c in group) / n_fresh
        for q, p, group in zip(known, prompts, fresh, strict=True)
    ]
    uncertain = [(k, r) for k, r in zip(counted, rates, strict=True) if 0.05 < r < 0.95]
    assert len(uncertain) >= 8
    pooled = [(k + n_fresh * r) / (16 + n_fresh) for k, r in uncertain]
    spread = 1 / 16 + 1 / n_fresh
    square = sum((k / 16 - r) ** 2 / (p * (1 - p) * spread) for (k, r), p in zip(uncertain, pooled, strict=True))
    beyond = torch.special.gammaincc(torch.tensor(len(uncertain) / 2), torch.tensor(square / 2))
    assert beyond > 0.001
    assert all(abs(k / 16 - r) < 0.2 for k, r in zip(counted, rates, strict=True) if not 0.05 < r < 0.95)
