"""What can be trained on, before anything is computed: pictures that decode, token counts of encoding every rollout."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.collate import common_prefix
from mprm.batching.examples import Examples, open_images
from mprm.batching.order import Lengths
from mprm.terminal import explain
from mprm.training import lengths as module
from mprm.training.lengths import Measured, measure, measure_again, token_lengths
from tests.encoding import encode

REPOSITORY = Path(__file__).resolve().parents[2]


def encoded(examples: Examples) -> Lengths:
    """One rollout at a time, pixels and all."""
    ids = []
    for record in examples.records:
        images = open_images([examples.image_path(name) for name in record["images"]])
        ids.append(encode(examples.processor, images, record["question"], record["steps"]).input_ids)
    question = np.array([record["question_hash"] for record in examples.records])
    shared = [common_prefix([ids[i] for i in np.flatnonzero(question == own)]) for own in question]
    return Lengths(np.array([len(part) for part in ids]), np.array(shared), question)


def assert_same(found: Lengths, expected: Lengths) -> None:
    for name in ("tokens", "shared", "question"):
        assert getattr(found, name).dtype == np.int64
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_lengths_are_those_of_the_encoded_rollouts(backbone: Any, part: Any, family: str) -> None:
    """In a shuffled order, so that rollouts of a question do not follow each other."""
    weights = REPOSITORY / "mprm" / "chartworld" / "weights" / "qwen2_5_vl"
    component = backbone if family == "internvl" else Qwen2_5_VL(path=str(weights))
    numbers = np.random.default_rng(0).permutation(64)[:50].tolist()
    examples = part(component.load()[0], numbers)
    expected = encoded(examples)
    assert len(set(expected.tokens.tolist())) > 5
    assert (expected.shared < expected.tokens).any()
    assert_same(token_lengths(examples, 0), expected)


def test_chunks_hold_whole_questions(backbone: Any, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = part(backbone.load()[0], range(64))
    expected = token_lengths(examples, 0)
    for size in (1, 3, 6, 64, 1000):
        monkeypatch.setattr(module, "CHUNK", size)
        assert_same(token_lengths(examples, 0), expected)


def test_loader_workers_agree(backbone: Any, part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    examples = part(backbone.load()[0], range(63, -1, -1))
    assert_same(token_lengths(examples, 2), token_lengths(examples, 0))


def test_nothing_has_no_lengths(backbone: Any, part: Any) -> None:
    assert len(token_lengths(part(backbone.load()[0], range(0)), 0)) == 0


def test_what_is_shared_depends_on_the_rollouts_at_hand(backbone: Any, part: Any) -> None:
    processor, _ = backbone.load()
    together = token_lengths(part(processor, range(4)), 0)
    assert (together.shared < together.tokens).all()
    alone = token_lengths(part(processor, range(1)), 0)
    assert alone.shared.tolist() == alone.tokens.tolist() == together.tokens[:1].tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_missing_image_is_one_line(backbone: Any, part: Any, num_workers: int) -> None:
    whole = part(backbone.load()[0], range(8))
    lost = Path(whole.image_path(whole.records[5]["images"][0])).name

    def image_path(name: str) -> Path:
        path: Path = whole.image_path(name)
        return path.with_name("gone.png") if path.name == lost else path

    with pytest.raises(ValueError, match="cannot be read") as caught:
        token_lengths(Examples(whole.records, image_path, whole.processor), num_workers)
    line, exit_code = explain(caught.value) or ("", 0)
    assert re.fullmatch(r"image \S+gone\.png cannot be read \(.*\); restore the file, or remove its records", line)
    assert exit_code == 2


@pytest.fixture
def copied(backbone: Any, part: Any, tmp_path: Path) -> tuple[Examples, list[Path]]:
    """Rollouts 0 to 15, four of a question, whose images may be spoilt; and these, one per question."""
    whole = part(backbone.load()[0], range(16))
    names = list(dict.fromkeys(name for names in whole.images for name in names))
    places = {name: tmp_path / "images" / f"{number}.png" for number, name in enumerate(names)}
    (tmp_path / "images").mkdir()
    for name, place in places.items():
        shutil.copy(whole.image_path(name), place)
    return Examples(whole.records, places.__getitem__, whole.processor), list(places.values())


def spoil(paths: list[Path]) -> None:
    """The first is cut off behind its header, the second gone, the third more than 200 times as wide as high."""
    paths[0].write_bytes(paths[0].read_bytes()[:-40])
    paths[1].unlink()
    Image.new("RGB", (402, 2)).save(paths[2])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_can_not_be_used_is_left_out_with_a_reason(
    copied: tuple[Examples, list[Path]], tmp_path: Path, num_workers: int
) -> None:
    examples, paths = copied
    spoil(paths)
    weights = REPOSITORY / "mprm" / "chartworld" / "weights" / "qwen2_5_vl"
    examples.processor = Qwen2_5_VL(path=str(weights)).load()[0]
    good = token_lengths(Examples(examples.records.select(range(12, 16)), examples.image_path, examples.processor), 0)
    longest = int(good.tokens.max())
    assert (good.tokens < longest).any()
    measured, faults = measure(examples, longest - 1, num_workers, tmp_path / "cache")
    reasons = {position: fault.reason for position, fault in faults.items()}
    too_long = [12 + place for place in np.flatnonzero(good.tokens == longest)]
    assert reasons == {
        **dict.fromkeys(range(4), "unreadable_image"),
        **dict.fromkeys(range(4, 8), "missing_image_file"),
        **dict.fromkeys(range(8, 12), "refused_image"),
        **dict.fromkeys(too_long, "too_long"),
    }
    assert measured.left_out == {name: list(reasons.values()).count(name) for name in reasons.values()}
    assert measured.usable.tolist() == [position for position in range(16) if position not in reasons]
    assert measured.lengths.tokens.tolist() == [0] * 12 + good.tokens.tolist()
    assert [faults[position].image for position in (0, 4)] == [str(paths[0]), str(paths[1])]
    assert faults[8].image == examples.records[8]["images"][0]
    assert "200" in faults[8].message
    assert f"backbone.max_length={longest - 1}" in faults[too_long[0]].message
    origin = examples.origin(8)
    assert origin["id"] == f"{origin['source']}:{origin['line']}"

    again = measure_again(examples, reasons, num_workers)
    assert_same(again.lengths, measured.lengths)
    assert again.usable.tolist() == measured.usable.tolist()
    assert again.left_out == measured.left_out
    paths[3].unlink()
    with pytest.raises(ValueError, match=r"^image \S+3\.png cannot be read \(.*\); restore the file, or remove its"):
        measure_again(examples, reasons, num_workers)


def test_lengths_are_measured_once(
    copied: tuple[Examples, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For further ranks and a run that goes on, until a picture changes; what was refused is remembered, too."""
    examples, paths = copied
    examples.processor = Qwen2_5_VL(path=str(REPOSITORY / "mprm" / "chartworld" / "weights" / "qwen2_5_vl")).load()[0]
    Image.new("RGB", (402, 2)).save(paths[2])
    kept, laid_out = tmp_path / "lengths.npz", []
    layout = Examples.layout
    monkeypatch.setattr(Examples, "layout", lambda self, place: laid_out.append(place) or layout(self, place))
    first, faults = measure(examples, 512, 0, tmp_path / "cache", kept)
    assert len(laid_out) == 16
    second, faults_again = measure(examples, 512, 0, tmp_path / "cache", kept)
    third = measure_again(examples, {position: fault.reason for position, fault in faults.items()}, 0, kept)
    assert len(laid_out) == 16
    assert faults_again == faults
    assert list(faults) == [8, 9, 10, 11]
    for again in (second, third):
        assert_same(again.lengths, first.lengths)
        assert again.usable.tolist() == first.usable.tolist()
    kept.write_bytes(kept.read_bytes()[:50])
    refused = dict.fromkeys(range(8, 12), "refused_image")
    assert_same(measure_again(examples, refused, 0, kept).lengths, first.lengths)
    assert len(laid_out) == 28, "what is damaged is measured again"
    paths[3].unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        measure_again(examples, refused, 0, kept)


def test_pictures_are_decoded_once(
    copied: tuple[Examples, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sound ones, for as long as size and time of their file stay; a faulty one is tried again: it may be restored."""
    examples, paths = copied
    decoded: list[str] = []

    def decode(files: list[Path]) -> list[Image.Image]:
        decoded.extend(file.name for file in files)
        return open_images(files)

    monkeypatch.setattr(module, "open_images", decode)

    def look() -> Measured:
        decoded.clear()
        return measure(examples, 512, 0, tmp_path / "cache")[0]

    paths[0].write_bytes(paths[0].read_bytes()[:-40])
    look()
    assert decoded == ["0.png", "1.png", "2.png", "3.png"]
    assert len(look().usable) == 12
    assert decoded == ["0.png"]
    status = paths[1].stat()
    paths[1].write_bytes(b"no image".ljust(status.st_size))
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    shutil.copy(paths[2], paths[0])
    assert len(look().usable) == 12
    assert decoded == ["0.png", "1.png"]
    memory = tmp_path / "cache" / "pictures.journal"
    memory.write_bytes(memory.read_bytes()[:-9])
    assert len(look().usable) == 12
    assert decoded == ["0.png", "1.png"], "what a kill tore is decoded again"
    memory.write_bytes(memory.read_bytes() + b"\xff\n")
    assert len(look().usable) == 12
    assert len(decoded) == 4, "what is damaged begins anew"
    look()
    assert decoded == ["1.png"]
