"""Entropies of given solutions under the tiny pretrained backbones.

Shape suffixes: B solutions, L tokens of a padded row, N places, V vocabulary.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.inference import scoring
from mprm.inference.scoring import ScoreRequest, Scoring
from mprm.metrics.predictions import NotScored

WEIGHTS = Path(scoring.__file__).parents[1] / "chartworld" / "weights"
BACKBONES = {"internvl": InternVL(path=str(WEIGHTS / "internvl"), max_tiles=1)}
BACKBONES["qwen2_5_vl"] = Qwen2_5_VL(path=str(WEIGHTS / "qwen2_5_vl"))
PICTURES = {
    name: Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (size, 56, 3), dtype=np.uint8))
    for name, size in (("a", 56), ("bb", 84))
}
BEGUN = ("red is 4.", "blue is 7.")
SOLUTIONS = [
    ScoreRequest("right", ["a"], "What is red plus blue?", [*BEGUN, "red 4 + blue 7 = 11.", "The answer is 11."]),
    ScoreRequest("other", ["bb"], "What is red plus blue?", [*BEGUN, "The answer is 11."]),
    ScoreRequest("wrong", ["a"], "What is red plus blue?", [*BEGUN, "red 4 + blue 7 = 12."]),
    ScoreRequest("odd", ["bb"], "Which <image1>?", ["<|im_end|> <image>"]),
    ScoreRequest("again", ["a"], "What is red plus blue?", [*BEGUN, "red 4 + blue 7 = 12."]),
]


@pytest.fixture(scope="module", params=["internvl", "qwen2_5_vl"])
def loaded(request: pytest.FixtureRequest) -> Any:
    return BACKBONES[request.param].load()


def open_pictures(names: Sequence[str]) -> list[Image.Image]:
    if "missing" in names:
        raise ValueError("image missing is not there")
    return [PICTURES[name] for name in names]


def entropies(
    loaded: Any, solutions: Sequence[ScoreRequest], max_tokens: int = 4096, max_length: int = 512
) -> dict[str, float | NotScored]:
    processor, model = loaded
    found = list(Scoring(model, processor, max_length, max_tokens, "cpu").entropies(solutions, open_pictures))
    assert len(dict(found)) == len(found) == len(solutions), "each solution comes once"
    return dict(found)


def padded(loaded: Any, solutions: Sequence[ScoreRequest]) -> dict[str, float]:
    """By stock transformers, in one padded batch."""
    processor, model = loaded
    ids, starts, images = [], [], []
    for one in solutions:
        pictures = open_pictures(one.images)
        asked = processor.ask([picture.size for picture in pictures], one.question).input_ids.tolist()
        steps = [step.replace("<image>", "[image]") + "\n\n" for step in one.steps]
        pieces = processor.tokenizer(steps, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        starts.append(len(asked))
        ids.append(torch.tensor([*asked, *(token for piece in pieces for token in piece)]))
        images.append(processor.vision(pictures))
    hf = type(model.hf).from_pretrained(model.hf.name_or_path).eval()
    ids_BL = pad_sequence(ids, batch_first=True)
    vision = {name: torch.cat([tensors[name] for tensors in images]) for name in images[0]}
    if "image_grid_thw" in vision:
        vision["mm_token_type_ids"] = (ids_BL == hf.config.image_token_id).int()
    mask_BL = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    with torch.inference_mode():
        logits_BLV = hf(input_ids=ids_BL, attention_mask=mask_BL, **vision).logits
    entropy_BL = torch.distributions.Categorical(logits=logits_BLV).entropy()
    return {
        one.id: float(entropy_BL[row, start - 1 : len(ids[row]) - 1].mean())
        for row, (one, start) in enumerate(zip(solutions, starts, strict=True))
    }


def test_it_is_that_of_stock_transformers_in_a_padded_batch(loaded: Any) -> None:
    found = entropies(loaded, SOLUTIONS)
    assert found == pytest.approx(padded(loaded, SOLUTIONS), abs=1e-5)
    assert len({round(value, 3) for value in found.values()}) == 4
    assert found["again"] == found["wrong"]


def test_it_does_not_depend_on_the_company(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {one.id: entropies(loaded, [one])[one.id] for one in SOLUTIONS}
    for max_tokens, solutions in ((1, SOLUTIONS), (512, SOLUTIONS[::-1]), (4096, SOLUTIONS)):
        assert entropies(loaded, solutions, max_tokens) == pytest.approx(alone, abs=1e-6)
    monkeypatch.setattr(scoring, "CHUNK", 3)
    monkeypatch.setattr(scoring, "HELD", 0)
    assert entropies(loaded, SOLUTIONS) == pytest.approx(alone, abs=1e-6)


def test_only_step_tokens_count_and_shared_ones_are_computed_once() -> None:
    """Logits that are all alike have the entropy ln V; how many rows of them are asked for."""
    processor, model = BACKBONES["internvl"].load()
    rows = []

    class Alike(torch.nn.Module):
        def forward(self, h_ND: torch.Tensor) -> torch.Tensor:
            rows.append(len(h_ND))
            return torch.zeros(len(h_ND), 8)

    model.hf.lm_head = Alike()
    found = entropies((processor, model), SOLUTIONS[2:3])
    n_tokens = [len(processor.tokenizer.encode(step + "\n\n")) for step in SOLUTIONS[0].steps]
    assert found == {"wrong": pytest.approx(math.log(8))}
    assert rows == [sum(n_tokens[:3])]  # its steps are as long as the first three of SOLUTIONS[0]
    rows.clear()
    entropies((processor, model), [SOLUTIONS[0], SOLUTIONS[2], SOLUTIONS[4]])
    behind = len(processor.tokenizer.encode("12.\n\n")) - 1  # the place before 12 or 11 is shared
    assert rows == [sum(n_tokens) + behind]


def test_what_can_not_be_measured_is_told(loaded: Any) -> None:
    missing = ScoreRequest("missing", ["missing"], "Which?", ["red is 4."])
    thread = ScoreRequest("long", ["a"], "What is red plus blue?", ["red is 4."] * 300)
    found = entropies(loaded, [thread, missing, *SOLUTIONS], max_length=400)
    told = {name: one.reason for name, one in found.items() if isinstance(one, NotScored)}
    assert told == {"missing": "missing_image_file", "long": "too_long"}
    assert found["long"].message.endswith("more than backbone.max_length=400")  # type: ignore[union-attr]
    assert {name: found[name] for name in ("odd", "right")} == pytest.approx(
        {one.id: entropies(loaded, [one])[one.id] for one in SOLUTIONS if one.id in ("odd", "right")}, abs=1e-6
    )
    assert dict(entropies(loaded, [])) == {}
