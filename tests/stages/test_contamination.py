"""task=contamination on planted copies: the list, what is said, and what select makes of the list."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mprm.config import Config
from mprm.runs.artifacts import read_json
from mprm.stages import contamination as stage
from mprm.stages import step_scorer

Given = Callable[..., Config]
TALL, WIDE = "How tall is bar A, in 2 words?", "How wide is it?"
# question and picture of every line of the training data
ROLLOUTS = [(TALL.upper(), "copy.jpg"), (f"<image>\n{TALL}", "copy.jpg"), (WIDE, "copy.jpg"), (TALL, "other.png")]
ROLLOUTS += [(TALL.replace("2", "7"), "other.png"), (WIDE, "other.png"), (TALL, "broken.png")]


@pytest.fixture
def given(load: Callable[..., Config], tmp_path: Path) -> Given:
    """given("task=..."): rollouts of which some have the question, a recompressed picture or both of a benchmark."""
    rng = np.random.default_rng(0)
    ours, theirs = (
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((160, 120), Image.Resampling.NEAREST)
        for _ in range(2)
    )
    for folder in ("data", "benchmark"):
        (tmp_path / folder).mkdir()
    ours.save(tmp_path / "data" / "other.png")
    theirs.save(tmp_path / "benchmark" / "a.png")
    theirs.resize((120, 90)).save(tmp_path / "data" / "copy.jpg", quality=70)
    (tmp_path / "data" / "broken.png").write_bytes(b"no picture")
    rollouts = [{"image": i, "question": q, "steps": [{"step": "One.", "score": 1.0}]} for q, i in ROLLOUTS]
    (tmp_path / "data" / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rollouts))
    answer = {"steps": ["One."], "process_correctness": [1]}
    solution = {"image": "a.png", "question": TALL, "data_source": "charts", "response": answer}
    (tmp_path / "benchmark" / "test.jsonl").write_text(f"{json.dumps(solution)}\n" * 2)
    data = ("dataset=jsonl", f"dataset.path={tmp_path / 'data' / 'mine.jsonl'}")
    benchmark = ("benchmark=visualprocessbench", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}")
    return lambda *overrides: load(*data, *benchmark, *overrides)


def shared(given: Given, folder: Path, *overrides: str) -> None:
    stage.contamination(given("task=contamination", f"output={folder / 'shared'}", *overrides))


def listed(path: Path) -> list[tuple[int, str]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(record["source"] == "mine" for record in records)
    return [(record["line"], record["reason"]) for record in records]


def test_planted_copies_are_found_and_never_selected(
    given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared(given, tmp_path)
    said = capsys.readouterr().out
    assert listed(tmp_path / "shared" / "exclude.jsonl") == [(0, "copy"), (1, "copy")]
    with open(tmp_path / "shared" / "matches.csv", encoding="utf-8", newline="") as file:
        found = {int(row["line"]): row for row in csv.DictReader(file)}
    findings = {line: (row["finding"], row["questions are"], row["pictures are"]) for line, row in found.items()}
    assert findings == {
        **{0: ("copy", "same", "near"), 1: ("copy", "same", "near"), 2: ("picture", "other", "near")},
        **{3: ("question", "same", "other"), 4: ("numbers", "numbers", "other"), 6: ("question", "same", "other")},
    }
    assert 0 < int(found[2]["distance"]) <= 16
    assert (found[0]["benchmark id"], found[0]["solutions"], found[0]["benchmark images"]) == ("test:0", "2", "a.png")
    assert (tmp_path / "shared" / "questions_of_the_training_data.csv").read_text().splitlines() == [
        "source,in all,copy,numbers,picture,question",
        "mine,7,2,1,1,2",
    ]
    assert "charts,2,2,0,0,0" in (tmp_path / "shared" / "solutions_of_the_benchmark.csv").read_text()
    assert "6 of 7 questions" in (tmp_path / "shared" / "report.html").read_text()
    assert "2 rollouts are on the exclude list; not compared: 1 unreadable_image" in " ".join(said.split())
    assert said.splitlines()[-1].endswith(f"dataset.exclude={tmp_path / 'shared' / 'exclude.jsonl'}")

    exclude = f"dataset.exclude={tmp_path / 'shared' / 'exclude.jsonl'}"
    selected = given("task=select", "selector=full", "held_out=0", exclude)
    step_scorer.select(selected)
    subset = Path(selected.runs) / str(selected.name) / "subset"
    assert read_json(subset / "manifest.json")["dropped"] == {"excluded": 2}
    assert pq.read_table(subset / "kept.parquet")["line"].to_pylist() == [2, 3, 4, 5, 6]
    # the new list holds what the one before excluded
    stage.contamination(given("task=contamination", f"output={tmp_path / 'more'}", exclude, "excluded=[picture]"))
    assert listed(tmp_path / "more" / "exclude.jsonl") == [(0, "excluded"), (1, "excluded"), (2, "picture")]


def test_a_killed_command_goes_on_and_a_finished_one_is_done(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[str] = []
    look = stage._fingerprints

    def killed(pictures: Any) -> dict[str, str]:
        read.extend(path.name for _, path in pictures)
        if len(read) == 3:
            raise KeyboardInterrupt
        return look(pictures)

    monkeypatch.setattr(stage, "CHUNK", 1)
    monkeypatch.setattr(stage, "_fingerprints", killed)
    with pytest.raises(KeyboardInterrupt):
        shared(given, tmp_path)
    assert not (tmp_path / "shared").exists()
    assert read == ["copy.jpg", "other.png", "broken.png"]
    shared(given, tmp_path)
    assert read[3:] == ["broken.png", "a.png"]
    shared(given, tmp_path)
    assert len(read) == 5
    assert "was written by this very command: nothing to do" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"shared is there already; give another folder, or overwrite=true"):
        shared(given, tmp_path, "distance=0")
    shared(given, tmp_path, "distance=0", "overwrite=true")
    assert read[5:] == ["broken.png"]
    assert listed(tmp_path / "shared" / "exclude.jsonl") == []
    # an empty list excludes nothing
    exclude = f"dataset.exclude={tmp_path / 'shared' / 'exclude.jsonl'}"
    selected = given("task=select", "selector=full", "held_out=0", exclude)
    step_scorer.select(selected)
    manifest = read_json(Path(selected.runs) / str(selected.name) / "subset" / "manifest.json")
    assert (manifest["dropped"], manifest["totals"]["kept"]["rollouts"]) == ({}, 7)


def test_an_input_is_not_replaced(given: Given, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output=.* is an input of this command, or holds one"):
        stage.contamination(given("task=contamination", f"output={tmp_path / 'benchmark'}", "overwrite=true"))


def test_a_question_without_a_picture_is_compared_by_its_text(given: Given, tmp_path: Path) -> None:
    for path in (tmp_path / "data" / "mine.jsonl", tmp_path / "benchmark" / "test.jsonl"):
        records = [{key: value for key, value in json.loads(line).items() if key != "image"} for line in path.open()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    shared(given, tmp_path)
    copies = [(line, "copy") for line, (question, _) in enumerate(ROLLOUTS) if "2" in question]
    assert listed(tmp_path / "shared" / "exclude.jsonl") == copies
