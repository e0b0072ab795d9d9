"""Twenty optimizer steps of both shipped backbones on a small world, against the curves in tests/training/golden.

A change of the arithmetic that is meant (another loss, order, learning rate, prompt or shipped weights) moves them:
look at the difference, say in the commit why it is right, and write them anew with

    python tests/training/test_golden.py

Another packing, number of threads or instruction set moves them by less than 1e-6; 1e-4 leaves room for another torch.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from mprm.backbones.internvl import InternVL
from mprm.backbones.loading import ChatBackbone
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.examples import Examples
from mprm.batching.order import Shuffled
from mprm.chartworld.corpus import ChartWorld
from mprm.selection.examples import write_examples
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import keep
from mprm.training.fit import fit
from mprm.training.lengths import measure_again
from mprm.training.module import StepScoring
from mprm.training.objectives import Hard
from mprm.training.recipe import Machine, Recipe, Schedule

GOLDEN = Path(__file__).parent / "golden"
WEIGHTS = Path(__file__).resolve().parents[2] / "mprm" / "chartworld" / "weights"
BACKBONES: dict[str, ChatBackbone] = {
    "internvl": InternVL(path=str(WEIGHTS / "internvl"), max_tiles=1),
    "qwen2_5_vl": Qwen2_5_VL(path=str(WEIGHTS / "qwen2_5_vl")),
}
ROLLOUTS = 80  # of the 96, which may be fewer after cleaning; twice in batches of 8 they are 20 steps


def curve(family: str, folder: Path, **machine: Any) -> list[float]:
    """train/loss of 20 steps."""
    world = ChartWorld(root=str(folder / "world"), rollouts=96)
    write_examples(folder / "examples", world, keep(build_signals(world, folder / "cache"), Full()))
    records = Dataset.load_from_disk(str(folder / "examples"))
    processor, model = BACKBONES[family].load()
    train, validation = (
        measure_again(Examples(records.select(part), world.image_folder.path, processor), {}, 0)
        for part in (range(ROLLOUTS), range(0))
    )
    recipe = Recipe(learning_rate=5e-4, epochs=2, global_batch_size=8)
    fit(StepScoring(model, Hard(), Schedule(recipe, Machine(**machine), Shuffled(), 0)), train, validation, folder)
    return [json.loads(line)["train/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", BACKBONES)
def test_twenty_steps(family: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{family}.json").read_text())
    assert len(golden) == 20
    assert curve(family, tmp_path) == pytest.approx(golden, abs=1e-4)


if __name__ == "__main__":
    for name in BACKBONES:
        with tempfile.TemporaryDirectory() as temporary:
            losses = [round(loss, 7) for loss in curve(name, Path(temporary))]
        (GOLDEN / f"{name}.json").write_text(json.dumps(losses, indent=0) + "\n")
