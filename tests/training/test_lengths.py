"""Token counts before anything is computed: those of encoding every rollout."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mprm.backbones.base import encode
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.data.collate import common_prefix
from mprm.data.examples import Examples, open_images
from mprm.data.packing import Lengths
from mprm.messages import explain
from mprm.training import lengths as module
from mprm.training.lengths import token_lengths

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

    with pytest.raises(ValueError, match="can not be read") as caught:
        token_lengths(Examples(whole.records, image_path, whole.processor), num_workers)
    line, exit_code = explain(caught.value) or ("", 0)
    assert re.fullmatch(r"image \S+gone\.png can not be read \(.*\); restore the file, or remove its rollouts", line)
    assert exit_code == 2
