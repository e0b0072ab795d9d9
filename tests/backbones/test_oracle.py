"""The published tool's answers on a folder in the original format: ids, loss and step scores, alone and packed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from mprm.backbones.chat import ChatModel
from mprm.backbones.internvl import InternVL
from mprm.batching.collate import Example, collate
from mprm.training.objectives import step_losses
from tests.encoding import encode

ORACLE = Path(__file__).parents[1] / "oracle_data" / "internvl"
CASES = json.loads((ORACLE / "cases.json").read_text())
CONFIG = yaml.safe_load((Path(__file__).parents[2] / "conf" / "backbone" / "internvl2_5_8b.yaml").read_text())


@pytest.fixture(scope="module")
def published() -> tuple[ChatModel, list[Example]]:
    """The published recipe's backbone with the oracle's weights, and its rollouts encoded."""
    options = {key: value for key, value in CONFIG["backbone"].items() if key != "_target_"}
    processor, model = InternVL(**(options | {"path": str(ORACLE / "checkpoint"), "max_length": 2048})).load()
    examples = []
    for case in CASES:
        record = case["record"]
        with Image.open(ORACLE / record["image"]) as image:
            steps = [step["step"] for step in record["steps_with_score"]]
            examples.append(encode(processor, [image.convert("RGB")], record["question_orig"], steps))
    return model.eval(), examples


@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_scores_are_the_published_ones(published: Any, packed: bool) -> None:
    model, examples = published
    rows = [examples] if packed else [[example] for example in examples]
    logits = []
    with torch.inference_mode():
        for row in rows:
            batch = collate(row)
            logits += model(batch).logits_M2.split(batch.n_marks)
    for case, example, logits_M2 in zip(CASES, examples, logits, strict=True):
        train = case["train"]
        assert example.input_ids.tolist() == train["input_ids"]
        loss = step_losses(logits_M2, torch.tensor(train["labels_at_markers"])).mean()
        assert float(loss) == pytest.approx(train["loss"], abs=1e-5)
        assert logits_M2.softmax(-1)[:, 1].tolist() == pytest.approx(train["scores"], abs=1e-5)
