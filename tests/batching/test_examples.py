"""Rollouts on disk to encoded examples."""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mprm.batching.collate import Example
from mprm.batching.examples import Examples, image_size, open_images


class CharacterProcessor:
    """One token per character, a mark behind every step; as many image tokens (0) as the image is wide."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def layout(self, sizes: Sequence[tuple[int, int]], question: str, steps: list[str]) -> Example:
        if "?" not in question:
            raise ValueError("this is no question")
        opening = [0] * sum(width for width, _ in sizes)
        ids = [*opening, *map(ord, question + "".join(steps))]
        ends = torch.tensor([len(step) for step in steps]).cumsum(0) + len(opening) + len(question) - 1
        return Example(torch.tensor(ids), ends, torch.arange(len(ids)), {})

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        self.seen.append(len(images))
        if images[0].height > 100:
            raise ValueError("aspect ratio too large")
        return {"widths": torch.tensor([image.width for image in images])}

    def save(self, folder: Path) -> None:
        raise AssertionError("nobody exports it")


def save(path: Path, **options: Any) -> bytes:
    Image.effect_noise((9, 7), 50).save(path, **options)
    return path.read_bytes()


def record(**changes: Any) -> dict[str, Any]:
    fields = {"id": "set:3", "images": ["a.png"], "question": "How?", "steps": ["One.", "Two."], "scores": [0.5, None]}
    return fields | {"n_correct": [2, 0], "n_total": [4, 0], "question_hash": 11} | changes


def examples(folder: Path, **changes: Any) -> Examples:
    records: Any = [record(), record(**changes)]
    return Examples(records, lambda name: folder / name, CharacterProcessor())


def test_an_example_carries_scores_weight_id_and_question(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (found,) = examples(tmp_path).__getitems__([(0, 0.125)])
    assert found.input_ids.tolist() == [0] * 9 + list(map(ord, "How?One.Two."))
    assert found.marks.tolist() == [9 + 4 + 3, 9 + 4 + 7]
    assert found.mc is not None
    assert found.mc.dtype == torch.float32
    assert found.mc[0] == 0.5
    assert found.mc.isnan().tolist() == [False, True]  # never sampled
    assert found.n is not None
    assert found.n.tolist() == [4, 0]
    (uncounted,) = examples(tmp_path, n_total=[None, None]).__getitems__([(1, 1.0)])
    assert uncounted.n is not None
    assert uncounted.n.tolist() == [0, 0]
    assert (found.weight, found.id, found.group) == (0.125, "set:3", 11)
    assert found.vision["widths"].tolist() == [9]
    assert len(examples(tmp_path)) == 2


def test_rollouts_of_a_question_share_their_images(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    view = examples(tmp_path, id="set:4", steps=["Three."], scores=[1.0])
    first, second = view.__getitems__([(0, 1.0), (1, 0.0)])
    assert view.processor.seen == [1]  # type: ignore[attr-defined]
    assert second.vision is first.vision
    assert (first.id, second.id, first.weight, second.weight) == ("set:3", "set:4", 1.0, 0.0)
    other = examples(tmp_path, question_hash=12)
    other.__getitems__([(0, 1.0), (1, 1.0)])
    assert other.processor.seen == [1, 1]  # type: ignore[attr-defined]


def test_a_row_without_images_has_a_blank_one_that_no_token_stands_for(tmp_path: Path) -> None:
    """Whatever sees images then has a gradient on every rank. A row with images has none of it."""
    save(tmp_path / "a.png")
    bare = examples(tmp_path, images=[], question_hash=12)
    (alone,) = bare.__getitems__([(1, 1.0)])
    assert alone.vision["widths"].tolist() == [28]
    assert alone.input_ids.tolist() == list(map(ord, "How?One.Two."))
    shown, beside = bare.__getitems__([(0, 1.0), (1, 1.0)])
    assert shown.vision["widths"].tolist() == [9]
    assert beside.vision == {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mprm.batching.examples.BLANK", Image.new("RGB", (9, 101)))  # a language model refuses any
        (unseen,) = bare.__getitems__([(1, 1.0)])
    assert unseen.vision == {}


def test_a_layout_reads_no_pixels(tmp_path: Path) -> None:
    data = save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    view = examples(tmp_path)
    assert view.layout(0).input_ids.tolist() == [0] * 9 + list(map(ord, "How?One.Two."))
    assert view.layout(0).vision == {}
    assert view.layout(0).group == 11
    with pytest.raises(ValueError, match=r"^image .*a\.png cannot be read \(.*\); restore the file, or remove"):
        view.__getitems__([(0, 1.0)])


def test_what_the_processor_refuses_is_an_error_that_names_the_rollout(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    Image.new("L", (9, 101)).save(tmp_path / "tall.png")
    line = r"^rollout set:3 cannot be encoded: aspect ratio too large; remove it and select again$"
    with pytest.raises(ValueError, match=line):
        examples(tmp_path, images=["tall.png"]).__getitems__([(1, 1.0)])
    line = r"^rollout set:3 cannot be encoded: this is no question; remove it and select again$"
    for read in (Examples.layout, lambda view, position: view.__getitems__([(position, 1.0)])):
        with pytest.raises(ValueError, match=line):
            read(examples(tmp_path, question="How"), 1)


def test_a_missing_or_broken_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    data = save(tmp_path / "a.png")
    for name, content in (("empty.png", b""), ("text.png", b"no image"), ("cut.png", data[: len(data) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^image .*{name} cannot be read \(.*\); restore the file, or remove"):
            examples(tmp_path, images=["a.png", name]).__getitems__([(1, 1.0)])
    with pytest.raises(ValueError, match=r"^image .*gone.png cannot be read"):
        open_images([tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="cannot be read"):
        open_images([tmp_path])


def test_images_can_be_used_after_their_files_are_closed(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (image,) = open_images([tmp_path / "a.png"])
    (tmp_path / "a.png").unlink()
    assert image.convert("RGB").size == (9, 7)


@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None, derandomize=True)
@pytest.mark.filterwarnings("ignore::UserWarning")  # decoders complain of what they then read
def test_damaged_files_are_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, int]], cut: float
) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((9, 7), 50).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged size may be huge: refuse it quickly
        try:
            (image,) = open_images([path])
        except ValueError as error:
            said = str(error)
        else:
            said = f"{path} is {image.mode}"
            assert image.mode == "RGB"
            assert image_size(path) == image.size
    assert str(path) in said


def as_opened(path: Path) -> np.ndarray:
    """Pixels (H, W, 3) that open_images gives, its size as image_size says; a warning is an error."""
    with warnings.catch_warnings(action="error"):
        (image,) = open_images([path])
        assert image_size(path) == image.size
    assert image.mode == "RGB"
    return np.asarray(image)


def colours(width: int = 5, height: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_grey_black_and_white_and_palette_pictures_become_their_colours(tmp_path: Path) -> None:
    rgb = Image.fromarray(colours())
    for mode in ("L", "1", "P"):
        expected = np.asarray(rgb.convert(mode).convert("RGB"))
        rgb.convert(mode).save(tmp_path / "a.png")
        assert np.array_equal(as_opened(tmp_path / "a.png"), expected), mode
        assert expected.std() > 10


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) over white, alpha (H, W, 1) of 255."""
    return pixels + (255 - pixels.astype(float)) * (1 - alpha / 255)


def test_transparent_pictures_are_put_on_white(tmp_path: Path) -> None:
    """As people see them. Their colours below the transparency are often black: black lines would be lost on it."""
    pixels, alpha = colours(), np.arange(0, 255, 17, dtype=np.uint8).reshape(3, 5, 1)
    grey = pixels[..., :1]
    shown = on_white(pixels, alpha)
    assert shown.std() > 20
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(tmp_path / "rgba.png")
    assert np.abs(as_opened(tmp_path / "rgba.png") - shown).max() <= 1
    for name in ("rgba.webp", "rgba.tif"):
        Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(tmp_path / name, lossless=True, exact=True)
        assert np.abs(as_opened(tmp_path / name) - shown).max() <= 1, name
    Image.fromarray(np.concatenate([grey, alpha], axis=2), "LA").save(tmp_path / "la.png")
    assert np.abs(as_opened(tmp_path / "la.png") - on_white(grey.repeat(3, axis=2), alpha)).max() <= 1
    palette = Image.fromarray(pixels).quantize(8)
    numbers = np.asarray(palette)[..., None]
    for transparency, alphas in (
        (3, np.where(np.arange(8) == 3, 0, 255)),
        (bytes(range(0, 240, 30)), np.arange(0, 240, 30)),
    ):
        for name in ("p.png", "p.gif") if isinstance(transparency, int) else ("p.png",):
            palette.save(tmp_path / name, transparency=transparency)
            expected = on_white(np.asarray(palette.convert("RGB")), alphas[numbers])
            assert np.abs(as_opened(tmp_path / name) - expected).max() <= 1, name


def test_fully_transparent_black_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3)).save(tmp_path / "a.png")
    assert (as_opened(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize(
    ("depth", "colour", "stored", "key", "shown"),
    [
        (1, 0, [0b01000000], (0,), [255, 255]),
        (1, 0, [0b01000000], (1,), [0, 255]),
        (2, 0, [0b01100000], (1,), [255, 170]),
        (4, 0, [0x12], (2,), [17, 255]),
        (8, 0, [7, 8], (7,), [255, 8]),
        (16, 0, [1, 0, 1, 1], (257,), [1, 255]),
        (16, 0, [1, 0, 255, 255], (65535,), [1, 255]),
        (8, 2, [1, 1, 1, 1, 1, 2], (1, 1, 1), [255, (1, 1, 2)]),
        (16, 2, [1, 9] * 3 + [2, 9] * 3, (0x109, 0x109, 0x109), [255, 2]),
        (16, 4, [0, 0, 128, 0, 0, 0, 255, 255], None, [127, 0]),
        (16, 6, [0] * 6 + [128, 0] + [0] * 6 + [255, 255], None, [127, 0]),
    ],
)
def test_the_transparent_colour_of_a_png_is_white(
    tmp_path: Path, depth: int, colour: int, stored: list[int], key: tuple[int, ...] | None, shown: list[Any]
) -> None:
    """Two pixels of every depth; and an alpha of 16 bits."""
    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    keys = [] if key is None else [(b"tRNS", struct.pack(f">{len(key)}H", *key))]
    data = [(b"IHDR", header), *keys, (b"IDAT", zlib.compress(bytes([0, *stored]))), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(png(data))
    expected = np.array([np.broadcast_to(value, 3) for value in shown])
    assert np.array_equal(as_opened(tmp_path / "a.png")[0], expected)


@pytest.mark.parametrize(("name", "dtype"), [("a.png", "<u2"), ("a.tif", "<u2"), ("b.tif", ">u2"), ("c.tif", "<i4")])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, name: str, dtype: str) -> None:
    grey = np.array([[0, 255, 256], [257 * 100, 257 * 254, 65535]])
    Image.fromarray(grey.astype(dtype)).save(tmp_path / name)
    found = as_opened(tmp_path / name)
    assert found[..., 0].tolist() == [[0, 0, 1], [100, 254, 255]]
    assert np.array_equal(found, found[..., :1].repeat(3, axis=2))


def test_16_bit_grey_and_16_bit_colours_of_one_picture_agree(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 65536, (4, 4)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in grey)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (tmp_path / "rgb.png").write_bytes(png(chunks))
    assert np.array_equal(as_opened(tmp_path / "grey.png"), as_opened(tmp_path / "rgb.png"))


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_pixels_of_no_known_range_are_refused(tmp_path: Path) -> None:
    for name, pixels in (("f.tif", np.ones((2, 2), np.float32)), ("i.tif", np.full((2, 2), 70_000, np.int32))):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(ValueError, match=rf"^image .*{name} cannot be read \(its [^\n]*\); restore the file"):
            open_images([tmp_path / name])


def test_cmyk_jpegs_are_read_as_colours_and_not_as_negatives(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, :8], pixels[:, 8:] = (250, 20, 20), (240, 240, 240)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(as_opened(tmp_path / "a.jpg").astype(int) - pixels).max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:8, :8], pixels[8:, 16:] = 255, 128
    stored = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a", kind, exif=exif)
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    found = as_opened(tmp_path / "a")
    assert found.shape == upright.shape == ((24, 16, 3) if 5 <= orientation <= 8 else (16, 24, 3))
    assert np.abs(found - upright).mean() < 8
    assert np.abs(found[::-1] - upright).mean() > 20  # it shows


def test_a_picture_with_unreadable_exif_is_shown_as_stored(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=b"Exif\0\0no TIFF header")
    assert np.array_equal(as_opened(tmp_path / "a.png"), colours())


def test_an_orientation_behind_the_pixels_is_not_looked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours()).save(tmp_path / "a.png")
    stored = (tmp_path / "a.png").read_bytes()
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    late = png([(b"eXIf", data), (b"IEND", b"")]).removeprefix(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "a.png").write_bytes(stored[:-12] + late)
    assert as_opened(tmp_path / "a.png").shape == (3, 5, 3)


def test_whatever_a_decoder_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(path: Path) -> Image.Image:
        raise RuntimeError("Decoding of color planes failed")

    monkeypatch.setattr(Image, "open", decode)
    line = r"^image .*a\.avif cannot be read \(Decoding of color planes failed\); restore the file"
    with pytest.raises(ValueError, match=line):
        open_images([tmp_path / "a.avif"])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_counts(tmp_path: Path, kind: str) -> None:
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second], **options)
    assert (as_opened(tmp_path / "a") == (255, 0, 0)).all()


def test_a_large_picture_is_read_and_a_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "large.png")
    assert as_opened(tmp_path / "large.png").shape == (9000, 9000, 3)
    (tmp_path / "bomb.png").write_bytes(
        png([(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)), (b"IDAT", b"")])
    )
    line = r"^image .*bomb\.png cannot be read \(Image size \(400000000 pixels\) [^\n]*\); restore the file[^\n]*$"
    for read in (image_size, lambda path: open_images([path])):
        with pytest.raises(ValueError, match=line):
            read(tmp_path / "bomb.png")


def test_the_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    data = save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert image_size(tmp_path / "cut.png") == (9, 7)
    for name, content in (("text.png", b"no image"), ("header.png", data[:20])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^image .*{name} cannot be read \(.*\); restore the file, or remove"):
            image_size(tmp_path / name)
    with pytest.raises(ValueError, match=r"^image .*gone.png cannot be read"):
        image_size(tmp_path / "gone.png")
