from typing import Any

import pytest

from mprm.reporting.verdicts import TRAINED, published_f1


def config(selector: str = "BIS", **changes: Any) -> dict[str, Any]:
    """A config as the published experiments have it; `changes` by group or of the selector's fields."""
    fields = {"_target_": f"mprm.selection.x.{selector}", "ratio": 0.1, "count": None}
    if selector == "BIS":
        fields["alpha"] = 0.2
    fields |= {key: changes.pop(key) for key in ("ratio", "alpha", "count") if key in changes}
    return {
        "selector": fields,
        "dataset": {"_target_": "mprm.data.visualprm400k.VisualPRM400K"},
        "benchmark": {"_target_": "mprm.data.records.VisualProcessBench"},
        "backbone": {"_target_": "mprm.backbones.internvl.InternVL"},
        "objective": {"_target_": "mprm.training.objectives.Hard", "tau": 0.0},
        "recipe": {"epochs": 1},
    } | changes


QWEN = {"_target_": "mprm.backbones.qwen2_5_vl.Qwen2_5_VL"}
SOFT = {"_target_": "mprm.training.objectives.Soft"}


@pytest.mark.parametrize(
    ("given", "internvl", "qwen"),
    [
        (config(), 65.46, 64.63),
        (config(ratio=0.25, alpha=0.05), 65.46, 65.53),
        (config(ratio=0.25, alpha=0.02), 64.84, None),
        (config(ratio=0.25, alpha=0.08), 64.86, None),
        (config(ratio=0.35, alpha=0.7), 64.98, 65.69),  # the published alpha is not known
        (config("Random", ratio=0.05), 63.34, 53.54),
        (config("Mixed", ratio=0.25), 64.70, None),
        (config("Reliable", ratio=0.25), 62.75, None),
        (config("LowMC", ratio=0.25), 64.18, None),
        (config("Full", ratio=1.0), 65.12, 65.57),
        (
            config("Full", ratio=1.0, objective={"_target_": "mprm.training.objectives.Hard", "tau": 0.0625}),
            64.26,
            65.27,
        ),
        (
            config("Full", ratio=1.0, objective={"_target_": "mprm.training.objectives.Hard", "tau": 0.125}),
            63.02,
            62.72,
        ),
        (config("Full", ratio=1.0, objective=SOFT), 61.54, 62.23),
        (config("Mixed", recipe={"epochs": 0}), 52.28, 49.68),
    ],
)
def test_published_numbers(given: dict[str, Any], internvl: float, qwen: float | None) -> None:
    assert published_f1(given) == pytest.approx(internvl / 100)
    of_qwen = published_f1(given | {"backbone": QWEN})
    assert of_qwen == (None if qwen is None else pytest.approx(qwen / 100))


@pytest.mark.parametrize(
    "given",
    [
        config(alpha=0.05),
        config(ratio=0.25, alpha=0.2),
        config(ratio=0.12),
        config("Mixed", ratio=0.1),
        config("Longest"),
        config(ratio=None, count=100),
        config(objective=SOFT),
        config(objective={"_target_": "mine.Focal"}),
        config("Full", ratio=1.0, objective={"_target_": "mprm.training.objectives.Hard", "tau": 0.25}),
        config(dataset={"_target_": "mprm.chartworld.corpus.ChartWorld"}),
        config(benchmark={"_target_": "mprm.chartworld.corpus.ChartWorldBenchmark"}),
        config(backbone={"_target_": "mine.Other"}),
        config("Mixed", recipe={"epochs": 0}, backbone={"_target_": "mine.Other"}),
        {"seed": 0},
    ],
)
def test_everything_else_was_not_published(given: dict[str, Any]) -> None:
    assert published_f1(given) is None


def test_no_setting_is_listed_twice() -> None:
    settings = [(entry.selector, entry.ratio, entry.alpha, entry.tau) for entry in TRAINED]
    assert len(set(settings)) == len(settings) == 21
    assert all(50 < points < 70 for entry in TRAINED for points in (entry.internvl, entry.qwen) if points is not None)
