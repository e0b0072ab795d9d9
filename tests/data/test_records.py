"""Files of JSON lines as people's folders hold them."""

import gzip
import os
from codecs import BOM_UTF8
from pathlib import Path

import pytest

from mprm.data.lines import MAX_LINE_BYTES, is_blank, numbered_lines, source_files
from mprm.data.questions import QuestionFile
from mprm.data.records import usable_records

LINE = b'{"question": "How?", "answer": 1}\n'


def test_sources_are_the_json_lines_of_the_folder_in_name_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.JSONL", ".hidden.jsonl", "a.b.jsonl", "notes.txt", ".tmp-0-a.jsonl", "empty.jsonl"):
        (tmp_path / name).touch()
    assert list(source_files(tmp_path, "k")) == [".hidden", "a", "a.b", "b", "empty"]
    assert list(source_files(tmp_path, "k", ["b", "a"])) == ["a", "b"]
    assert list(source_files(tmp_path, "k", None, ["b", "a"])) == [".hidden", "a.b", "empty"]
    for settings, message in (
        ({"only": ["x"]}, r"^dataset\.sources: x is not one of the sources \.hidden, a, a\.b, b, empty$"),
        ({"without": ["x"]}, r"^dataset\.exclude_sources: x is not one of the sources"),
        ({"only": ["a"], "without": ["a"]}, "leave no source"),
    ):
        with pytest.raises(ValueError, match=message):
            source_files(tmp_path, "k", **settings)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    os.symlink(path.name, path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", _fifo, r"x\.jsonl is no file that can be read to its end"),
        ("x.jsonl", _loop, r"x\.jsonl is no file that can be read to its end"),
        ("x.jsonl", Path.mkdir, r"x\.jsonl is no file that can be read to its end"),
        (os.fsdecode(b"\xff.jsonl"), LINE, r"^k: the file name '\\udcff\.jsonl' is not UTF-8; rename it"),
        ("x.jsonl", LINE.decode().encode("utf-16"), r"x\.jsonl is written in UTF-16"),
        ("x.jsonl", LINE.decode().encode("utf-16-be"), r"x\.jsonl is written in UTF-16"),
        ("x.jsonl", LINE.replace(b"\n", b"\r") * 2, r"x\.jsonl end in CR alone"),
        ("x.jsonl", gzip.compress(LINE, mtime=0), r"x\.jsonl is compressed"),
        ("x.jsonl.gz", gzip.compress(LINE, mtime=0), r"x\.jsonl\.gz is compressed and not read; unpack it, or move it"),
        ("a.jsonl.gz", gzip.compress(LINE, mtime=0), r"a\.jsonl and a\.jsonl\.gz in .* are the same source a"),
        ("a.JSONL", LINE, r"a\.JSONL and a\.jsonl in .* are the same source a"),
    ],
)
def test_files_that_can_not_be_read_are_refused_by_name_unless_left_out(
    name: str, content: object, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "b.jsonl").write_bytes(LINE)
    content(tmp_path / name) if callable(content) else (tmp_path / name).write_bytes(content)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as refused:
        source_files(tmp_path, "k")
    str(refused.value).encode()
    assert [file.name for file in source_files(tmp_path, "k", ["b"]).values()] == ["b.jsonl"]


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(BOM_UTF8 + LINE + BOM_UTF8 + LINE)
    with open(path, "rb") as stream:
        assert list(numbered_lines(stream)) == [
            (0, 3, len(LINE), LINE),
            (1, 3 + len(LINE), 3 + len(LINE), BOM_UTF8 + LINE),
        ]


def test_a_line_that_begins_with_more_blanks_than_are_held_is_not_blank() -> None:
    assert is_blank(b" " * MAX_LINE_BYTES)
    assert not is_blank(b" " * (MAX_LINE_BYTES + 1))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"\(no line\): .*/x\.jsonl is empty"),
        (b"\n[]\n", r"\(not_an_object 1\): line 2 of .*/x\.jsonl is unusable \(not_an_object\)"),
        (b'{"image": 3, "answer": 1}', r"\(no_image 1\): line 1 of .*/x\.jsonl has the keys image, answer"),
    ],
)
def test_what_is_said_when_nothing_is_left(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    questions = QuestionFile(path=str(tmp_path / "x.jsonl"))
    with pytest.raises(ValueError, match=rf"holds no usable record {why}; give JSON lines with image, question and"):
        usable_records(questions, "questions")


def test_the_places_tried_are_said_when_no_image_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"image": "set/0.png", "question": "Why?", "answer": 1}\n' * 2)
    questions = QuestionFile(path=str(tmp_path / "x.jsonl"))
    with pytest.raises(
        ValueError, match=r"\(missing_image_file 2\): set/0\.png is in none of these folders of .*: set, \."
    ):
        usable_records(questions, "questions")
