"""Benchmarks under keys of their own: ProcessBench and PRMBench in their public layouts, and labels of three kinds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.read_layouts import write_corpus

from mprm.config import Config
from mprm.data.benchmarks import JsonSolutions, SolutionFields
from mprm.data.lines import Dropped
from mprm.data.records import Solution, usable_records

PROCESS = {
    "id": "gsm8k-0",
    "generator": "Qwen2-7B-Instruct",
    "problem": "Sue has 18 flamingos. How many?",
    "steps": ["First.", "Second.", "Third."],
    "final_answer_correct": False,
    "label": 1,
}
PRM = {
    "original_question": "Three pencils cost $1.24?",
    "modified_question": "Three pencils cost $1.25?",
    "original_process": ["1. One.", "2. Two."],
    "modified_process": ["1. One.", "2. Five.", "3. So."],
    "modified_steps": [2],
    "error_steps": [2, 3],
    "reason": "It is not.",
    "idx": "circular_prm_test_p1_0",
    "question": "Three pencils cost $1.24?",
    "classification": "circular",
}

Load = Callable[..., Config]


def solutions(load: Load, *given: str) -> list[Any]:
    return list(load(*given).benchmark.records())


@pytest.mark.parametrize("as_list", [True, False])
def test_processbench_is_a_folder_of_its_subsets(load: Load, tmp_path: Path, as_list: bool) -> None:
    for name in ("math", "gsm8k"):
        records = [PROCESS | {"id": f"{name}-{k}", "label": label} for k, label in enumerate((-1, 0, 1, 2))]
        text = json.dumps(records, indent=2) if as_list else "".join(json.dumps(one) + "\n" for one in records)
        (tmp_path / f"{name}.{'json' if as_list else 'jsonl'}").write_text(text)
    (tmp_path / "README.md").write_text("no subset")
    found = solutions(load, "benchmark=processbench", f"benchmark.path={tmp_path}")
    assert [(one.id, one.source) for one in found[::4]] == [("gsm8k-0", "gsm8k"), ("math-0", "math")]
    assert [one.labels for one in found[:4]] == [(1, 1, 1), (-1, 0, 0), (1, -1, 0), (1, 1, -1)]
    assert found[0].question == PROCESS["problem"]
    assert (found[0].images, found[0].steps) == ((), ("First.", "Second.", "Third."))


def test_prmbench(load: Load, tmp_path: Path) -> None:
    records = [PRM, PRM | {"classification": "redundency", "idx": "redundency_prm_test_p2", "error_steps": []}, PRM]
    (tmp_path / "prmbench_preview.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    path = tmp_path / "prmbench_preview.jsonl"
    first, second, third = solutions(load, "benchmark=prmbench", f"benchmark.path={path}")
    assert first == Solution(
        "circular_prm_test_p1_0", "circular", (), PRM["modified_question"], tuple(PRM["modified_process"]), (1, -1, -1)
    )
    assert (second.source, second.labels) == ("redundency", (1, 1, 1))
    assert isinstance(third, Dropped)
    assert third.reason == "duplicate_id"


OWN = {"question": "How many?", "steps": [{"step": "One.", "label": 1}, {"step": "Two.", "label": False}]}


def read(path: Path, record: Any, **fields: Any) -> Any:
    (path / "0.png").touch()
    (path / "mine.jsonl").write_text(json.dumps(record))
    (found,) = JsonSolutions(path=str(path / "mine.jsonl"), fields=SolutionFields(**fields)).records()
    return found.reason if isinstance(found, Dropped) else found


def test_keys_of_ones_own(tmp_path: Path) -> None:
    assert read(tmp_path, OWN) == Solution("mine:0", "mine", (), "How many?", ("One.", "Two."), (1, -1))
    other = {"q": {"en": "How many?"}, "picture": "0.png", "chain": ["One.", "Two."], "grade": ["1", 0], "set": "a"}
    fields = {"question": "q.en", "image": "picture", "steps": "chain", "label": "grade", "source": "set"}
    assert read(tmp_path, other, **fields) == Solution("mine:0", "a", ("0.png",), "How many?", ("One.", "Two."), (1, 0))


FIRST, WRONG = {"label": None, "first_wrong": "first"}, {"label": None, "wrong": "wrong"}


@pytest.mark.parametrize(
    ("changes", "fields", "reason"),
    [
        ({"question": None}, {}, "no_question"),
        ({"image": "no.png"}, {}, "missing_image_file"),
        ({"source": 3}, {}, "no_source"),
        ({"id": 1.5}, {}, "bad_id"),
        ({"steps": []}, {}, "no_steps"),
        ({"steps": None}, {}, "no_steps"),
        ({"steps": [{"label": 1}]}, {}, "bad_step"),
        ({"steps": [3]}, {}, "bad_step"),
        ({"steps": [{"step": "a"}]}, {}, "bad_label"),
        ({"steps": ["a", "b"], "label": [1]}, {}, "length_mismatch"),
        ({"steps": ["a"], "label": 1}, {}, "length_mismatch"),
        ({"steps": ["a"], "label": [2]}, {}, "bad_label"),
        ({"first": 2}, FIRST, "bad_label"),
        ({"first": -2}, FIRST, "bad_label"),
        ({"first": True}, FIRST, "bad_label"),
        ({"first": 1.0}, FIRST, "bad_label"),
        ({}, FIRST, "bad_label"),
        ({"wrong": [0]}, WRONG, "bad_label"),
        ({"wrong": [3]}, WRONG, "bad_label"),
        ({"wrong": 1}, WRONG, "bad_label"),
    ],
)
def test_reasons(changes: Any, fields: Any, reason: str, tmp_path: Path) -> None:
    assert read(tmp_path, OWN | changes, **fields) == reason


def test_a_corpus_with_malformed_records(load: Load, tmp_path: Path) -> None:
    write_corpus(tmp_path / "gsm8k.jsonl", "processbench", 400)
    benchmark = load("benchmark=processbench", f"benchmark.path={tmp_path}").benchmark
    found, dropped = usable_records(benchmark, "benchmark")
    assert (len(found), sum(dropped.values())) == (392, 8)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for fields, message in (
        ({"label": None}, "names no labels; give one of label, first_wrong and wrong"),
        ({"wrong": "w"}, "names label and wrong"),
    ):
        with pytest.raises(ValueError, match=message):
            JsonSolutions(fields=SolutionFields(**fields))
    with pytest.raises(ValueError, match=r"benchmark.path=.* holds no \*\.jsonl or \*\.json file; give JSON with id"):
        list(JsonSolutions(path=str(tmp_path)).records())
    with pytest.raises(ValueError, match=r"benchmark\.path is not set; give JSON with"):
        list(JsonSolutions().records())
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(ValueError, match=r"cut.json is no JSON list \(.*\); download it again"):
        list(JsonSolutions(path=str(tmp_path)).records())
    (tmp_path / "cut.json").write_text("[3]")
    with pytest.raises(ValueError, match=r"holds no usable record \(not_an_object 1\): give JSON with"):
        usable_records(JsonSolutions(path=str(tmp_path)), "benchmark")
