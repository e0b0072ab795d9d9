"""Questions and pictures that are alike, and others that are not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mprm.selection.likeness import (
    ALIKE,
    BYTES,
    NEAR,
    NUMBERS,
    PICTURE,
    PIXELS,
    SAME,
    UNREADABLE,
    Questions,
    alike,
    fingerprint,
    words,
)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("<image>\nWhat is  x?", "what is x"),
        ("<image 1>What's <image7 X", "what s x"),
        ("The right-angled triangle\\left(ABC\\right)", "the right angled triangle abc"),
        ("$x-3=-\\frac{1}{2}$", "x - 3 = - frac 1 2"),
        ("x\u22123 = 1,000.50 cm\u00b2", "x - 3 = 1,000.50 cm2"),
        ("points (1,2), (3, 4).", "points 1 2 3 4"),
        ("\u6c42\u4e09\u89d2\u5f62ABC", "\u6c42 \u4e09 \u89d2 \u5f62 abc"),
        ("<image> ...", ""),
    ],
)
def test_the_words_of_a_question(text: str, read: str) -> None:
    # a letter and a digit part: cm 2
    assert words(text) == read.replace("cm2", "cm 2").split()


def kind(asked: str, text: str, similarity: float = 0.7) -> tuple[int, float] | None:
    return Questions(["Who is it?", asked], similarity).like(text).get(1)


TEN = "A train of 120 m passes a pole in 6 s."  # a train of # m passes a pole in # s: 10 pairs of words, none twice


def test_the_same_question_otherwise_typed() -> None:
    assert kind(TEN, "<image> A TRAIN of 120 m passes   a pole, in 6 s") == (SAME, 1)


def test_a_word_more_is_near_as_far_as_the_pairs_of_words_say() -> None:
    # 10 pairs; "a long", "long train" in the place of "a train": 9 of 12 in all
    longer = TEN.replace("train", "long train")
    assert kind(TEN, longer) == (NEAR, pytest.approx(9 / 12))
    assert kind(TEN, longer, similarity=0.75) is not None
    assert kind(TEN, longer, similarity=0.76) is None


def test_other_numbers_are_a_finding_of_their_own() -> None:
    assert kind(TEN, TEN.replace("120", "90")) == (NUMBERS, 1)
    assert kind(TEN, TEN.replace("120", "90").replace("train", "long train")) == (NUMBERS, pytest.approx(9 / 12))
    assert kind("Add 1,000 to it.", "Add 1000 to it.") == (NEAR, 1)


def test_another_sign_is_another_question() -> None:
    assert kind("$x-3=1$", "$x+3=1$") is None
    assert kind("What?", "") is None
    assert kind("What?", "what") == (SAME, 1)


def test_no_question_that_is_similar_enough_is_missed() -> None:
    """The rarest shingles find what comparing with every question finds."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 9))) for _ in range(300)]
    pairs = [{(a, b) for a, b in zip(t.split(), t.split()[1:], strict=False)} or {(t,)} for t in texts]
    for similarity in (0.3, 0.5, 0.7, 1.0):
        index = Questions(texts, similarity)
        for text, ours in zip(texts[:100], pairs, strict=False):
            every = {n for n, theirs in enumerate(pairs) if len(ours & theirs) / len(ours | theirs) >= similarity}
            assert index.like(text).keys() == every


def chart(heights: tuple[int, ...], colour: tuple[int, int, int] = (31, 119, 220)) -> Image.Image:
    pixels = np.full((120, 160, 3), 255, np.uint8)
    for bar, height in enumerate(heights):
        pixels[120 - height :, 10 + 40 * bar : 40 + 40 * bar] = colour
    return Image.fromarray(pixels)


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, np.ndarray]:
    """Fingerprints of a chart, of copies, and of others."""
    image = chart((30, 90, 60, 110))
    jpeg = io.BytesIO()
    image.resize((80, 60), Image.Resampling.BICUBIC).save(jpeg, "JPEG", quality=60)
    images = {
        **{"chart": image, "again": image, "compressed": image, "small": Image.open(jpeg).convert("RGB")},
        **{"taller": chart((30, 90, 75, 110)), "red": chart((30, 90, 60, 110), (214, 39, 40))},
    }
    prints = {"unreadable": np.frombuffer(UNREADABLE, PICTURE)}
    for name, one in images.items():
        one.save(tmp_path / f"{name}.png", compress_level=9 if name == "compressed" else 1)
        prints[name] = np.frombuffer(fingerprint(tmp_path / f"{name}.png", one), PICTURE)
    return prints


@pytest.mark.parametrize(("name", "kind"), [("again", BYTES), ("compressed", PIXELS), ("small", ALIKE)])
def test_copies_of_a_picture_are_found(saved: dict[str, np.ndarray], name: str, kind: int) -> None:
    ((ours, theirs, found, distance),) = alike(saved[name], saved["chart"], 16)
    assert (ours, theirs, found) == (0, 0, kind)
    assert distance == 0 if kind != ALIKE else 0 <= distance <= 16


@pytest.mark.parametrize("name", ["taller", "red", "unreadable"])
def test_another_picture_is_none(saved: dict[str, np.ndarray], name: str) -> None:
    assert list(alike(saved[name], saved["chart"], 16)) == []
    assert list(alike(saved["unreadable"], saved["unreadable"], 16)) == []


def test_pairs_are_numbered_over_the_blocks(saved: dict[str, np.ndarray]) -> None:
    many = np.concatenate([np.repeat(saved["unreadable"], 300), saved["chart"]])
    assert list(alike(many, np.concatenate([saved["red"], saved["chart"]]), 0)) == [(300, 1, BYTES, 0)]
