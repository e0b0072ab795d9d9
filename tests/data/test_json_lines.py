"""Own rollouts under own keys."""

import json
from pathlib import Path
from typing import Any

import pytest

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Unusable
from mprm.data.rollouts import Rollout, read_rollout
from mprm.data.visualprm400k import Fields, JsonLines
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import write_subset

from .conftest import Read, Step, read_line

PLAIN = {"image": "0.png", "question": "<image>\nHow many?", "steps": [{"step": "One.", "score": 0.5}]}
STEPS = [
    {"step": "One.", "score": 0.25, "n_correct": 4, "n_total": 16},
    {"step": "Two.", "n_correct": 0, "n_total": 16},
]
READ = (Step("One.", 0.25, 4, 16), Step("Two.", 0.0, 0, 16))
BARE = (Step("One.", 0.25, None, None), Step("Two.", 0.0, None, None))


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    """reader(**fields): of a file beside which 0.png lies."""
    (tmp_path / "0.png").touch()
    (tmp_path / "mine.jsonl").write_text(json.dumps(PLAIN) + "\n")
    return lambda **fields: JsonLines(path=str(tmp_path / "mine.jsonl"), fields=Fields(**fields))


@pytest.mark.parametrize(
    ("fields", "changes", "steps"),
    [
        ({}, {"steps": STEPS}, READ),
        ({"steps": "r.s"}, {"r": {"s": STEPS}}, READ),
        ({"steps": "r.s"}, {"r.s": STEPS}, READ),
        (
            {"step": "t.en", "score": "mc.p", "n_correct": "mc.k", "n_total": "mc.n"},
            {
                "steps": [
                    {"t": {"en": "One."}, "mc": {"p": 0.25, "k": 4, "n": 16}},
                    {"t": {"en": "Two."}, "mc": {"p": 0}},
                ]
            },
            (READ[0], BARE[1]),
        ),
        ({}, {"steps": ["One.", "Two."], "score": [0.25, 0]}, BARE),
        ({"score": "scores"}, {"steps": ["One.", "Two."], "scores": [0.25, False]}, BARE),
        ({}, {"steps": ["One.", "Two."], "n_correct": [4, 0], "n_total": [16, 16]}, READ),
        ({"score": "label"}, {"steps": [{"step": "One.", "label": True}]}, (Step("One.", 1.0, None, None),)),
    ],
)
def test_keys_are_mapped(reader: Any, fields: dict[str, str], changes: dict[str, Any], steps: tuple[Step, ...]) -> None:
    line = json.dumps(PLAIN | changes)
    assert read_line(reader(**fields), line) == Read(("0.png",), "How many?", steps)


def test_question_and_image_are_mapped(reader: Any) -> None:
    line = json.dumps({"data": {"prompt": "Why?", "pic": ["0.png"]}, "steps": [{"step": "a", "score": 1}]})
    rollout = read_line(reader(question="data.prompt", image="data.pic"), line)
    assert rollout == Read(("0.png",), "Why?", (Step("a", 1.0, None, None),))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": None}, "no_steps"),
        ({"steps": "One."}, "no_steps"),
        ({"steps": [3]}, "bad_step"),
        ({"steps": ["One.", "Two."], "score": [1]}, "length_mismatch"),
        ({"steps": ["One."], "score": 1}, "length_mismatch"),
        ({"steps": ["One."]}, "no_usable_score"),
        ({"steps": ["One.", {"step": "Two."}], "score": [1, 1]}, "empty_step"),
        ({"steps": ["One."], "score": [-1]}, "bad_score"),
        ({"image": "/etc/passwd"}, "image_outside"),
        ({"question": {"en": "Why?"}}, "no_question"),
    ],
)
def test_reasons(reader: Any, changes: dict[str, Any], reason: str) -> None:
    assert read_line(reader(), json.dumps(PLAIN | changes)) == reason


def test_nothing_left_shows_the_keys_that_are_there_and_those_wanted(reader: Any, tmp_path: Path) -> None:
    dataset = reader(question="prompt")
    signals = build_signals(dataset, tmp_path / "cache")
    with pytest.raises(
        ValueError,
        match=r"\(dropped: no_question 1\): line 1 of .*mine\.jsonl has the keys image, question, steps; wanted are "
        r"image, prompt \(question\), steps, with step, score, n_correct, n_total of every step \(dataset\.fields\)$",
    ):
        write_subset(tmp_path / "subset", dataset, signals, Full(), seed=0)
    assert build_signals(reader(), tmp_path / "cache")["ranked"].to_pylist() == [True]  # the mapping is in the key


def test_files(reader: Any, tmp_path: Path) -> None:
    assert list(reader().files()) == ["mine"]
    folder = JsonLines(path=str(tmp_path), exclude_sources=["other"])
    (tmp_path / "other.jsonl").touch()
    assert list(folder.files()) == ["mine"]
    assert folder.image_folder.path("0.png") == tmp_path / "0.png"
    path = str(tmp_path / "mine.jsonl")
    for settings, message in (
        ({}, r"dataset\.path is not set; give JSON lines with image, question, steps, with"),
        ({"path": "nowhere"}, r"dataset\.path=nowhere is not there"),
        ({"path": path, "images": "nowhere"}, r"dataset\.images=nowhere is not a folder"),
        ({"path": path, "sources": ["a"]}, r"is one source; leave dataset\.sources"),
    ):
        with pytest.raises(ValueError, match=message):
            JsonLines(**settings).files()


def test_what_a_reader_from_elsewhere_may_give(tmp_path: Path) -> None:
    """The five members of the Protocol are all that is asked of it; what it gives is looked at all the same."""

    class Lines:
        exclude, wanted, image_folder = None, "scores", ImageFolder(None)

        def files(self) -> dict[str, Path]:
            return []

        def read(self, line: bytes, source: str) -> Rollout:
            scores = [None if score == b"-" else float(score) for score in line.split()]
            return Rollout(["a.png"], "Why?", ["One.", "Two."], scores)

    given = {
        b"0.5 1": None,
        b"0.5 -": None,
        b"- -": "no_usable_score",
        b"0.5": "length_mismatch",
        b"0.5 7": "bad_score",
    }
    for line, reason in given.items():
        try:
            found = read_rollout(Lines(), line, "s").fault
        except Unusable as unusable:
            found = unusable.reason
        assert found == reason
