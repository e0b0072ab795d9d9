"""The signals table and its cache."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mprm.selection.scan
from mprm.data.rollouts import question_hash
from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.selectors import Full
from mprm.selection.signals import balanced, build_signals, inputs_of, one_of_each, shuffled
from mprm.selection.subset import remarks

ORACLE = Path(__file__).parents[1] / "oracle_data" / "selection"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every line that was parsed."""
    seen: list[Any] = []
    read = VisualPRM400K.read
    monkeypatch.setattr(
        VisualPRM400K, "read", lambda self, line, *source: seen.append(line) or read(self, line, *source)
    )
    return seen


def test_columns(signals_of: Callable[..., pa.Table]) -> None:
    rows = signals_of({"b": [[1.0, 0.5, 0.0, None]], "a": [[0.0, 0.0], []]}).to_pylist()
    assert [(row["source"], row["line"], row["drop_reason"]) for row in rows] == [
        ("a", 0, None),
        ("a", 1, "no_steps"),
        ("b", 0, None),
    ]
    assert rows[2] == {
        "source": "b",
        "line": 0,
        "offset": 0,
        "length": rows[2]["length"],
        "record_hash": rows[2]["record_hash"],
        "question_hash": question_hash("Question 0?", ("0.png",)),
        "image_hashes": [question_hash("", ("0.png",))],
        "n_question_words": 2,
        "n_steps": 4,
        "n_words": 8,
        "n_unsampled": 0,
        "n_unsampled_negative": 0,
        "n": 3,
        "n_pos": 2,
        "p_pos": 2 / 3,
        "reliability": 0.75,
        "mean_mc": 0.5,
        "min_mc": 0.0,
        "p_right": 2 / 3,
        "p_right_positive": 1.0,
        "ranked": True,
        "drop_reason": None,
    }
    assert rows[0]["reliability"] == 1.0
    assert rows[1]["n"] is rows[1]["mean_mc"] is None


def test_offsets_find_the_lines(tmp_path: Path) -> None:
    dataset = VisualPRM400K(annotations=str(ORACLE / "annotations"))
    table = build_signals(dataset, tmp_path)
    for row in table.select(["source", "line", "offset", "length"]).to_pylist():
        content = (ORACLE / "annotations" / f"{row['source']}.jsonl").read_bytes()
        line = content[row["offset"] : row["offset"] + row["length"]]
        assert line.rstrip(b"\n") == content.split(b"\n")[row["line"]]


def test_unchanged_annotations_are_not_read_again(
    parsed: list[Any], dataset: Callable[..., VisualPRM400K], tmp_path: Path
) -> None:
    corpus = dataset({"a": [[0.5], [1.0]], "b": [[0.0]]})
    first = build_signals(corpus, tmp_path / "cache")
    assert len(parsed) == 3
    assert build_signals(corpus, tmp_path / "cache").equals(first)
    os.utime(tmp_path / "annotations" / "a.jsonl")  # touched
    copy = shutil.copytree(tmp_path / "annotations", tmp_path / "copy")
    assert build_signals(corpus, tmp_path / "cache").equals(first)
    assert build_signals(VisualPRM400K(annotations=str(copy)), tmp_path / "cache").equals(first)
    assert len(parsed) == 3


def test_what_changes_the_table_is_in_its_key(
    parsed: list[Any], dataset: Callable[..., VisualPRM400K], tmp_path: Path
) -> None:
    tables = [build_signals(dataset({"a": [[0.5]]}), tmp_path / "cache")]
    tables += [build_signals(dataset({"a": [[0.5]]}, cleaning="published"), tmp_path / "cache")]
    tables += [build_signals(dataset({"a": [[0.5]]}, unsampled="negative"), tmp_path / "cache")]
    tables += [build_signals(dataset({"a": [[0.5]]}, images=str(tmp_path)), tmp_path / "cache")]
    tables += [build_signals(dataset({"a": [[0.25]]}), tmp_path / "cache")]
    tables += [build_signals(dataset({"a": [[0.25]], "b": [[0.25]]}), tmp_path / "cache")]
    assert len(parsed) == 7
    assert len({table.schema.metadata[b"path"] for table in tables}) == 6
    assert len({table.schema.metadata[b"data_hash"] for table in tables}) == 3


def test_listed_records_are_excluded(
    dataset: Callable[..., VisualPRM400K], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever chunk they stand in and whatever else is wrong with them; lines that match no record are told."""
    sources: dict[str, Any] = {"a": [[0.5], [1.0], [], [0.0, 0.25]], "b": [[0.0]]}
    whole = build_signals(dataset(sources), tmp_path / "cache")
    listed = [{"source": "a", "line": line, "reason": "too_long"} for line in (1, 2, 3, 3, 4, 10**30, -1)]
    file = tmp_path / "left_out.jsonl"
    file.write_text("".join(json.dumps(line) + "\n\n" for line in [*listed, {"source": "c", "line": 0}]))
    monkeypatch.setattr(mprm.selection.scan, "CHUNK_BYTES", 100)
    corpus = dataset(sources, exclude=str(file))
    table = build_signals(corpus, tmp_path / "cache")
    assert table["drop_reason"].to_pylist() == [None, "excluded", "excluded", "excluded", None]
    places = ["source", "line", "offset", "length", "record_hash"]
    assert table.select(places).to_pylist() == whole.select(places).to_pylist()
    rows = table.to_pylist()
    assert [rows[0], rows[4]] == [whole.to_pylist()[0], whole.to_pylist()[4]]
    for row in rows[1:4]:
        assert {name: row[name] for name in row if name not in places} == dict.fromkeys(set(row) - set(places)) | {
            "ranked": False,
            "drop_reason": "excluded",
        }
    assert remarks(corpus, table) == [f"dataset.exclude={file}: 4 of 7 lines match no record"]
    changed = set(inputs_of(table, Full()).items()) ^ set(inputs_of(whole, Full()).items())
    assert "dataset.exclude" in dict(changed)
    reasons = json.dumps(table["drop_reason"].to_pylist()).encode()
    assert inputs_of(table, Full())["the images (what is dropped for them)"] == hashlib.sha256(reasons).hexdigest()
    file.write_text('{"source": "b", "line": 0}')
    again = build_signals(corpus, tmp_path / "cache")
    assert again["drop_reason"].to_pylist() == [None, None, "no_steps", None, "excluded"]
    assert inputs_of(again, Full())["dataset.exclude"] != inputs_of(table, Full())["dataset.exclude"]


@pytest.mark.parametrize("line", [b"nothing", b"[]", b'{"source": "a"}', b'{"source": "a", "line": "3"}', b"\xff"])
def test_a_list_that_names_no_record_is_one_line(
    dataset: Callable[..., VisualPRM400K], tmp_path: Path, line: bytes
) -> None:
    file = tmp_path / "list.jsonl"
    corpus = dataset({"a": [[0.5]]}, exclude=str(file))
    with pytest.raises(ValueError, match=rf"^dataset\.exclude: {file} is no file that can be read[^\n]*$"):
        build_signals(corpus, tmp_path / "cache")
    file.write_bytes(b'{"source": "a", "line": 3}\n' + line)
    with pytest.raises(ValueError, match=rf"^dataset\.exclude: line 1 \(from 0\) of {file} names no record; [^\n]*$"):
        build_signals(corpus, tmp_path / "cache")


def test_images_that_arrive_later_are_seen(dataset: Callable[..., VisualPRM400K], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for missing in (True, False):
        corpus = dataset({"a": [[0.5]]}, images=str(tmp_path / "images"))
        reasons = build_signals(corpus, tmp_path / "cache")["drop_reason"].to_pylist()
        assert reasons == (["missing_image_file"] if missing else [None])
        (tmp_path / "images" / "0.png").touch()


def test_annotations_that_change_while_they_are_read(
    dataset: Callable[..., VisualPRM400K], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = dataset({"a": [[0.5]]})
    read = VisualPRM400K.read

    def read_and_append(self: VisualPRM400K, line: bytes, source: str) -> Any:
        with open(tmp_path / "annotations" / "a.jsonl", "a") as file:
            file.write("\n")
        return read(self, line, source)

    monkeypatch.setattr(VisualPRM400K, "read", read_and_append)
    with pytest.raises(ValueError, match="annotations changed while they were read"):
        build_signals(corpus, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "signals").glob("*.parquet"))


@pytest.mark.parametrize("processes", [1, 2])
def test_chunks_do_not_show(processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = VisualPRM400K(annotations=str(ORACLE / "annotations"), images=str(tmp_path))
    whole = build_signals(dataset, tmp_path / "whole")
    monkeypatch.setattr(mprm.selection.scan, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(mprm.selection.scan, "BYTES_PER_PROCESS", 10_000)
    monkeypatch.setattr(mprm.selection.scan, "_cores", lambda: processes)
    assert build_signals(dataset, tmp_path / "chunks").equals(whole)


def rollout_line(scores: list[float]) -> bytes:
    steps = [{"step": "Step.", "score": score} for score in scores]
    return json.dumps({"image": "0.png", "question": "Which?", "steps_with_score": steps}).encode()


lines = st.one_of(
    st.sampled_from([b"", b"  ", b"\r"]),
    st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")),
    st.lists(st.floats(0, 1), max_size=2).map(lambda scores: rollout_line(list(scores))),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(lines, max_size=8), st.booleans(), st.integers(1, 200))
def test_every_line_is_a_row(content: list[bytes], newline: bool, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mprm.selection.scan, "CHUNK_BYTES", chunk)
        with tempfile.TemporaryDirectory() as folder:
            content = [b"{}", *content]  # what a file begins with may say that it is something else
            Path(folder, "a.jsonl").write_bytes(b"\n".join(content) + b"\n" * newline)
            table = build_signals(VisualPRM400K(annotations=folder), Path(folder, "cache"))
    assert table["line"].to_pylist() == [i for i, line in enumerate(content) if line.strip()]
    assert table["ranked"].to_pylist() == table["drop_reason"].is_null().to_pylist()


def test_a_selection_imports_neither_pandas_nor_datasets_nor_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.examples import read_examples
from mprm.selection.selectors import BIS
from mprm.selection.signals import build_signals, without_pandas
from mprm.selection.subset import write_subset
without_pandas()
dataset = VisualPRM400K(annotations={str(ORACLE / "annotations")!r})
signals = build_signals(dataset, {str(tmp_path)!r})
write_subset({str(tmp_path / "subset")!r}, dataset, signals, BIS(), seed=0)
next(read_examples(dataset, signals.filter(signals["ranked"]))).to_pylist()
print({{"pandas", "datasets", "torch"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_one_of_each_question_before_the_second_of_any() -> None:
    assert one_of_each(np.array([4, 0, 2, 1, 3]), np.array([7, 8, 8, 7, 7])).tolist() == [4, 2, 0, 1, 3]


def test_every_fifth_gives_the_same_share() -> None:
    lengths = np.arange(100)
    order = balanced(np.arange(100), lengths)  # the short ones are the best
    assert order[:10].tolist() == [0, 20, 40, 60, 80, 1, 21, 41, 61, 81]
    assert sorted(order.tolist()) == list(range(100))
    assert balanced(np.array([2, 0, 1]), np.full(3, 5)).tolist() == [2, 0, 1]  # one length, one stratum


def test_shuffled_rows_change_places_with_each_other() -> None:
    draws = np.array([0.5, 0.1, 0.9, 0.3])
    assert shuffled(np.array([2, 3, 0, 1]), np.array([0, 2, 3]), draws).tolist() == [1, 3, 0, 2]
