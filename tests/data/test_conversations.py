"""Rollouts as conversations."""

import json
from typing import Any

import pytest

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.examples import export_published

from .conftest import Read, Step, read_line


def read(conversations: Any, **fields: Any) -> Read | str:
    record = {"image": "0.png", "conversations": conversations} | fields
    return read_line(VisualPRM400K(annotations="unused"), json.dumps(record))


def turns(*values: Any) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


FIRST = "<image>\n### Question:\nWhat is it?\n\n### Solution Process:\nFirst."
MARKED = "Question: What is it?\nProcess: First.<prm>\n\nSecond.<prm>"


@pytest.mark.parametrize("before", [[], [{"from": "system", "value": "You judge."}]])
def test_a_turn_per_step(before: list[Any]) -> None:
    rollout = read([*before, *turns(FIRST, "+", "Second.", "-")])
    assert rollout == Read(
        ("0.png",), "What is it?", (Step("First.", 1.0, None, None), Step("Second.", 0.0, None, None))
    )


@pytest.mark.parametrize(
    ("labels", "counts", "steps"),
    [
        ([1.0, 0.25], None, [(1.0, None, None), (0.25, None, None)]),
        ([1.0, 0.25], {"k": [16, 4], "n": [16, 16]}, [(1.0, 16, 16), (0.25, 4, 16)]),
        ([1.0, 1.0], {"k": [15, 4], "n": [16, 16]}, [(0.9375, 15, 16), (0.25, 4, 16)]),  # hard labels
        ([1.0, 0.0], {"k": [4, 1], "n": [16, 16]}, [(0.25, 4, 16), (0.0625, 1, 16)]),  # s > 1/16
        ([0.0, 0.0], {"k": [0, 0], "n": [16, 0]}, [(0.0, 0, 16), (0.0, 0, 0)]),  # early stop
    ],
)
def test_the_training_format(labels: list[float], counts: Any, steps: list[tuple[Any, ...]]) -> None:
    rollout = read(turns(MARKED, labels), **({} if counts is None else {"prm_counts": counts}))
    assert isinstance(rollout, Read)
    assert rollout.question == "What is it?"
    assert [(s.text, s.score, s.n_correct, s.n_total) for s in rollout.steps] == [
        (text, *step) for text, step in zip(("First.", "Second."), steps, strict=True)
    ]


@pytest.mark.parametrize(
    ("conversations", "fields", "reason"),
    [
        (None, {}, "bad_conversation"),
        ([], {}, "bad_conversation"),
        (["+"], {}, "bad_conversation"),
        (turns(FIRST, "+", "Second."), {}, "bad_conversation"),
        (turns("First.", "+"), {}, "bad_conversation"),
        (turns(None, "+"), {}, "bad_conversation"),
        (turns(FIRST, "+")[::-1], {}, "bad_conversation"),
        (turns("Question: Q\nProcess: First.", [1.0]), {}, "bad_conversation"),
        (turns(MARKED + " and more", [1.0, 1.0]), {}, "bad_conversation"),
        (turns(FIRST, "yes"), {}, "bad_label"),
        (turns(FIRST, ["+"], "Second.", "+"), {}, "bad_label"),
        (turns(FIRST, "+", 3, "+"), {}, "empty_step"),
        (turns(MARKED, [1.0]), {}, "length_mismatch"),
        (turns(MARKED, [1.0, 1.0]), {"prm_counts": {"k": [1], "n": [16, 16]}}, "length_mismatch"),
        (turns(MARKED, [1.0, 1.0]), {"prm_counts": {"k": [16, 0], "n": [16, 16]}}, "score_contradicts_counts"),
        (turns(MARKED, [1.0, 0.0]), {"prm_counts": {"k": [16, 16], "n": [16, 16]}}, "score_contradicts_counts"),
        (turns(MARKED, [1.0, 1.5]), {}, "bad_score"),
        (turns(MARKED, [1.0, 1.0]), {"image": 7}, "no_image"),
    ],
)
def test_reasons(conversations: Any, fields: dict[str, Any], reason: str) -> None:
    assert read(conversations, **fields) == reason


def test_what_is_exported_is_read_again(tmp_path: Any) -> None:
    example = {"question": "Is\nit?", "image_names": ["a.png", "b.png"], "steps": ["s\n\nt", "u"], "scores": [0.5, 0.0]}
    export_published(tmp_path / "x.jsonl", [example], lambda score: score)
    rollout = read_line(VisualPRM400K(annotations="unused"), (tmp_path / "x.jsonl").read_bytes())
    assert isinstance(rollout, Read)
    assert (rollout.question, rollout.images) == ("Is\nit?", ("a.png", "b.png"))
    assert [(step.text, step.score) for step in rollout.steps] == [("s\n\nt", 0.5), ("u", 0.0)]
