"""How alike two questions are, and two pictures.

A question is a list of words: numbers, names and signs of mathematics, without case, punctuation, placeholders of
images and LaTeX's commands for layout. With its numbers left blank it is a template.

A picture is 96 bytes, see PICTURE. Shape suffixes: N pictures, M others.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from mprm.data.records import PLACEHOLDER

LAYOUT = re.compile(r"\\(?:left|right|text|mathrm|displaystyle|quad)(?![a-z])")
HYPHEN = re.compile(r"(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})")  # right-angled; x-y is a difference
NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
IDEOGRAPH = r"[\u3040-\u30ff\u3400-\u9fff]"  # a word by itself: no blanks stand between them
WORD = re.compile(rf"{NUMBER}|{IDEOGRAPH}|(?:(?!{IDEOGRAPH})[^\W\d_])+|[-+*/=<>^%|°√∠△∥⊥≤≥≠±\u00d7÷]")
DASHES = {0x2212: "-", 0x2013: "-"}

SAME, NEAR, NUMBERS, OTHER = range(4)  # questions: the words; most pairs of words; the template with other numbers

# What is kept of a picture: 64-bit hashes of the file and of its decoded pixels; of the grey picture, 64 x 64, one bit
# for each of its 16 x 16 slowest cosine waves; the mean colours of its sixteenths.
PICTURE = np.dtype([("content", "<u8"), ("pixels", "<u8"), ("waves", "<u8", 4), ("colours", "u1", 48)])
UNREADABLE = bytes(PICTURE.itemsize)
SIDE, WAVES = 64, 16
COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(WAVES), np.arange(SIDE) + 0.5)) * math.sqrt(2 / SIDE)
WEAK = 8  # an amplitude above that of the noise which recompression adds to a flat picture
COLOUR = 24  # levels of 255 by which a sixteenth may differ: copies of charts by 19, other charts by 36 or more
BLOCK = 256  # pictures compared at a time

BYTES, PIXELS, ALIKE = range(3)  # pictures: the file; what is seen; nearly that


def words(text: str) -> list[str]:
    """The words by which a question is compared."""
    text = unicodedata.normalize("NFKC", PLACEHOLDER.sub(" ", text)).casefold().translate(DASHES)
    return WORD.findall(HYPHEN.sub(" ", LAYOUT.sub(" ", text)))


def _shingles(question: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """The pairs of neighbouring words of its template; of a single word that one."""
    template = ["#" if word[0].isdigit() else word for word in question]
    return frozenset(pairwise(template)) or frozenset([tuple(template)])


class Questions:
    """Questions in which those like another one are found.

    Two are alike whose shingles are so similar: |common| / |all| >= similarity, of which none is missed. Of n shingles
    at least similarity * n must then be common, so that one of any n - similarity * n + 1 is; the rarest are looked up.
    """

    def __init__(self, texts: Sequence[str], similarity: float) -> None:
        self.similarity = similarity
        self._words = [words(text) for text in texts]
        self._shingles = [_shingles(question) for question in self._words]
        self._having: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, shingles in enumerate(self._shingles):
            for shingle in shingles:
                self._having[shingle].append(number)

    def like(self, text: str) -> dict[int, tuple[int, float]]:
        """Number of every question like this one -> SAME, NEAR or NUMBERS, and the similarity of the templates."""
        question = words(text)
        if not question:
            return {}
        shingles, numbers = _shingles(question), _numbers(question)
        rarest = sorted(shingles, key=lambda shingle: len(self._having.get(shingle, ())))
        n_rarest = len(shingles) - math.ceil(self.similarity * len(shingles) - 1e-9) + 1
        found = {}
        for other in {number for shingle in rarest[:n_rarest] for number in self._having.get(shingle, ())}:
            theirs = self._shingles[other]
            common = len(shingles & theirs)
            similarity = common / (len(shingles) + len(theirs) - common)
            if similarity >= self.similarity:
                alike = NEAR if numbers == _numbers(self._words[other]) else NUMBERS
                found[other] = (SAME if question == self._words[other] else alike, similarity)
        return found


def _numbers(question: Sequence[str]) -> list[str]:
    return sorted(word.replace(",", "") for word in question if word[0].isdigit())


def fingerprint(path: Path, image: Image.Image) -> bytes:
    """A PICTURE of the file and the RGB image that it holds."""
    picture = np.zeros((), PICTURE)
    picture["content"] = xxhash.xxh3_64_intdigest(path.read_bytes())
    picture["pixels"] = xxhash.xxh3_64_intdigest(image.tobytes(), seed=image.width)
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float64)
    strong = (COSINES @ grey @ COSINES.T).ravel() > WEAK
    strong[0] = False  # the mean, which the colours have
    picture["waves"] = np.packbits(strong).view("<u8")
    picture["colours"] = np.asarray(image.resize((4, 4), Image.Resampling.BILINEAR)).ravel()
    return picture.tobytes()


def alike(pictures_N: np.ndarray, others_M: np.ndarray, distance: int) -> Iterator[tuple[int, int, int, int]]:
    """Every pair of like pictures: number, number of the other, BYTES, PIXELS or ALIKE, and in how many of 256 bits
    their waves differ, at most `distance`. UNREADABLE ones are like none."""
    for start in range(0, len(pictures_N), BLOCK):
        block = pictures_N[start : start + BLOCK]
        bits_NM = np.bitwise_count(block["waves"][:, None] ^ others_M["waves"]).sum(axis=2)
        read_NM = (block["content"] > 0)[:, None] & (others_M["content"] > 0)
        n, m = np.nonzero(read_NM & (bits_NM <= distance))
        apart = np.abs(block["colours"][n].astype(int) - others_M["colours"][m]).max(axis=1)
        n, m = n[apart <= COLOUR], m[apart <= COLOUR]
        same_bytes, same_pixels = (block[name][n] == others_M[name][m] for name in ("content", "pixels"))
        kind = np.where(same_bytes, BYTES, np.where(same_pixels, PIXELS, ALIKE))
        yield from zip((start + n).tolist(), m.tolist(), kind.tolist(), bits_NM[n, m].tolist(), strict=True)
