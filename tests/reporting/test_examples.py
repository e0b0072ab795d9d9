"""Which solutions are shown (run_record.py), and how (steps.py)."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from mprm.metrics.predictions import Prediction
from mprm.reporting.run_record import EDGE, chosen, read_examples, write_examples
from mprm.reporting.steps import examples_section

FOUND, MISSED, ALARM = "First error found", "First error missed", "False alarm"


def prediction(name: str, *steps: tuple[int, float]) -> Prediction:
    return Prediction(name, "s", tuple(label for label, _ in steps), tuple(score for _, score in steps))


SCORED = [
    prediction("found, close", (1, 0.9), (-1, 0.49)),
    prediction("found, sure", (1, 0.9), (-1, 0.01), (1, 0.2)),
    prediction("found, between", (0, 0.1), (1, 0.8), (-1, 0.3)),
    prediction("missed, most", (-1, 0.99), (1, 0.9)),
    prediction("missed, least", (-1, 0.51), (1, 0.9)),
    prediction("missed, between", (-1, 0.7), (1, 0.9)),
    prediction("alarm", (1, 0.4), (1, 0.9)),
    prediction("alarm, worst", (1, 0.02), (-1, 0.1)),
    prediction("all well", (1, 0.9), (1, 0.6)),
]


def test_six_are_chosen_by_rule_whatever_their_order() -> None:
    expected = {
        "found, sure": FOUND,
        "found, close": FOUND,
        "missed, between": MISSED,
        "alarm": ALARM,
        "missed, most": "Worst miss: the wrong step of the highest score",
        "alarm, worst": "Worst alarm: the right step of the lowest",
    }
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(SCORED))
        assert list(chosen([SCORED[place] for place in order], 0.5).items()) == list(expected.items())


def test_what_does_not_occur_is_not_shown() -> None:
    assert chosen([prediction("all well", (1, 0.9))], 0.5) == {}
    assert chosen([prediction("a", (1, 0.9), (-1, 0.1))], 0.5) == {"a": FOUND}
    # At a higher threshold the first step is rejected as well, before the wrong one.
    assert set(chosen([prediction("a", (1, 0.9), (-1, 0.1))], 0.95).values()) == {
        "Worst alarm: the right step of the lowest"
    }


def test_pictures_are_small_and_steps_coloured_from_the_threshold_on(tmp_path: Path) -> None:
    solutions = [
        SimpleNamespace(id=one.id, source="bars", question="How many?", steps=["x"] * len(one.labels), images=["a.png"])
        for one in SCORED
    ]
    path = tmp_path / "examples.json"
    write_examples(path, SCORED, solutions, lambda names: [Image.new("RGB", (2000, 500)) for _ in names], 0.5)
    found = read_examples(path)
    assert len(found) == 6
    assert all(one.pictures[0].startswith("data:image/webp;base64,") for one in found)
    assert path.stat().st_size < 40_000, EDGE
    first = examples_section(found, 0.5).cards[0]
    assert first.title == "First error found (bars)"
    assert [(one.hue, one.differs) for one in first.steps] == [(90, False), (1, False), (20, True)]
    assert first.steps[1].below == "score 0.010: wrong; label: wrong"
    assert [one.hue for one in examples_section(found, 0.9).cards[0].steps] == [50, 0, 3]
    assert [one.differs for one in examples_section(found, 0.95).cards[0].steps] == [True, False, True]
    assert read_examples(tmp_path / "nothing.json") == []
