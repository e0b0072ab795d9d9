"""Rollouts on disk to encoded examples."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mprm.data.collate import Example
from mprm.data.examples import Examples, open_images


class CharacterProcessor:
    """One token per character, a mark behind every step."""

    pad_id = 0

    def encode(self, images: Sequence[Image.Image], question: str, steps: list[str]) -> Example:
        text = question + "".join(steps)
        length = len(text)
        ends = torch.tensor([len(step) for step in steps]).cumsum(0) + len(question) - 1
        widths = torch.tensor([image.width for image in images])
        return Example(torch.tensor([ord(c) for c in text]), ends, torch.arange(length), {"widths": widths})


def save(path: Path, **options: Any) -> bytes:
    Image.effect_noise((9, 7), 50).save(path, **options)
    return path.read_bytes()


def record(**changes: Any) -> dict[str, Any]:
    fields = {"id": "set:3", "images": ["a.png"], "question": "How?", "steps": ["One.", "Two."], "scores": [0.5, None]}
    return fields | changes


def examples(folder: Path, max_length: int = 100, **changes: Any) -> Examples:
    records: Any = [record(), record(**changes)]
    return Examples(records, lambda name: folder / name, CharacterProcessor(), max_length)


def test_an_example_carries_scores_weight_and_id(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    found = examples(tmp_path)[0, 0.125]
    assert found.mc is not None
    assert found.mc.dtype == torch.float32
    assert found.mc[0] == 0.5
    assert found.mc.isnan().tolist() == [False, True]  # never sampled
    assert (found.weight, found.id) == (0.125, "set:3")
    assert found.vision["widths"].tolist() == [9]
    assert found.marks.tolist() == [7, 11]
    assert len(examples(tmp_path)) == 2


def test_a_missing_or_broken_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    data = save(tmp_path / "a.png")
    for name, content in (("empty.png", b""), ("text.png", b"no image"), ("cut.png", data[: len(data) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"^image .*{name} can not be read \(.*\); restore the file, or remove"):
            examples(tmp_path, images=["a.png", name])[1, 1.0]
    with pytest.raises(ValueError, match=r"^image .*gone.png can not be read"):
        open_images([tmp_path / "gone.png"])
    with pytest.raises(ValueError, match="can not be read"):
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
            said = f"{path} is {image.convert('RGB').mode}"
    assert str(path) in said


def test_a_rollout_that_would_be_shortened_is_an_error_that_names_it(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    assert len(examples(tmp_path, max_length=12)[0, 1.0].input_ids) == 12
    line = r"^rollout set:3 has 12 tokens, more than backbone\.max_length=11; raise it, or remove that line"
    with pytest.raises(ValueError, match=line):
        examples(tmp_path, max_length=11)[0, 1.0]
