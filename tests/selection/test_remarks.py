"""What is said of records and images that are not there; the same file is one question however it is spelled."""

import json
from codecs import BOM_UTF8
from pathlib import Path

import pytest

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.examples import read_examples
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import remarks, write_subset

from .conftest import record


@pytest.fixture
def corpus(tmp_path: Path) -> VisualPRM400K:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "set" / "images").mkdir(parents=True)
    (tmp_path / "images" / "set" / "images" / "0.png").touch()
    return VisualPRM400K(root=str(tmp_path))


def write(corpus: VisualPRM400K, source: str, *images: str) -> None:
    lines = [json.dumps(record([0.5], image=image)) + "\n" for image in images]
    Path(str(corpus.root), "annotations", f"{source}.jsonl").write_bytes(BOM_UTF8 + "".join(lines).encode())


def test_missing_images_and_empty_files_are_told(corpus: VisualPRM400K, tmp_path: Path) -> None:
    write(corpus, "a_en", "a/1.png", "a/2.png")
    write(corpus, "set_en", "images/0.png", "images/9.png")
    write(corpus, "void")
    told = remarks(corpus, build_signals(corpus, tmp_path / "cache"))
    assert told[0] == "no record in void.jsonl"
    assert told[1].startswith(
        f"rollouts without an image file: 2 of a_en, 1 of set_en; "
        f"a/1.png is in none of these folders of {tmp_path}: a, ., "
    )
    assert len(told) == 2
    complete = VisualPRM400K(root=corpus.root, sources=["set_en"])
    write(corpus, "set_en", "images/0.png")
    assert remarks(complete, build_signals(complete, tmp_path / "cache")) == []


def test_rollouts_that_name_no_image_are_told(corpus: VisualPRM400K, tmp_path: Path) -> None:
    """A key that is spelled otherwise would make a text of every one."""
    (tmp_path / "annotations" / "a.jsonl").write_text(json.dumps(record([0.5], image=None)) + "\n")
    assert remarks(corpus, build_signals(corpus, tmp_path / "cache")) == ["1 rollouts name no image"]


def test_nothing_left(corpus: VisualPRM400K, tmp_path: Path) -> None:
    write(corpus, "a", "a/1.png", "../1.png")
    signals = build_signals(corpus, tmp_path / "cache")
    with pytest.raises(
        ValueError,
        match=r"none of 2 records is left to train on \(dropped: missing_image_file 1, image_outside 1\): rollouts "
        r"without an image file: 1 of a; a/1\.png is in none of these folders of",
    ):
        write_subset(tmp_path / "subset", corpus, signals, Full(), seed=0)
    write(corpus, "a", "../1.png")
    with pytest.raises(
        ValueError,
        match=r"\(dropped: image_outside 1\): line 1 of .*/a\.jsonl has the keys image, question_orig, steps_with_score"
        r"; wanted are image, question_orig or question, and steps_with_score$",
    ):
        write_subset(tmp_path / "subset", corpus, build_signals(corpus, tmp_path / "cache"), Full(), seed=0)


def test_one_file_is_one_question_and_is_read_again_from_its_place(corpus: VisualPRM400K, tmp_path: Path) -> None:
    names = ("images/0.png", "./images//0.png", "VisualPRM400K-v1.1-Raw/set/images/0.png", "set\\images\\0.png")
    write(corpus, "set_en", *names)
    signals = build_signals(corpus, tmp_path / "cache")
    assert len(set(signals["question_hash"].to_pylist())) == 1
    assert signals["line"].to_pylist() == [0, 1, 2, 3]
    examples = [row for batch in read_examples(corpus, signals) for row in batch.to_pylist()]
    assert [row["image_names"] for row in examples] == [[name] for name in names]
    assert [row["images"] for row in examples] == [["images/set/images/0.png"]] * 4
    assert corpus.image_folder.path(examples[0]["images"][0]).is_file()
