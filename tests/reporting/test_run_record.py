from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mprm.metrics.predictions import Prediction
from mprm.reporting.run_record import EDGE, check_whole, chosen, read_examples, read_run, write_examples
from mprm.reporting.steps import examples_section


def test_every_piece_is_read(run: Path) -> None:
    record = read_run(run)
    assert not [name for name, value in vars(record).items() if value is None]
    assert record.config["selector"]["alpha"] == 0.2
    assert record.versions == {"mprm": "0.1.0", "torch": "2.13.0"}
    assert record.kept.num_rows == record.manifest.totals.kept.rollouts == 98
    assert record.signals.num_rows == 980, "the eligible ones"
    assert record.metrics[0]["step"] == 1
    assert record.results.auc.value == 0.893
    assert sum(len(one.labels) for one in record.predictions) == 120 * 7
    assert len(record.examples) == 2
    check_whole(run)


def test_an_empty_folder_is_a_run_without_pieces(tmp_path: Path) -> None:
    record = read_run(tmp_path)
    assert {name for name, value in vars(record).items() if value} == {"folder"}


def test_a_signals_table_that_is_gone_is_none(run: Path) -> None:
    run.with_name(f"{run.name}-signals.parquet").unlink()
    assert read_run(run).signals is None


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is not a run folder; give one"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("config.yaml", "run the run's command again"),
        ("versions.json", "run the run's command again"),
        ("results.json", "run the command that wrote it again"),
        ("subset/manifest.json", "task=select redo=select"),
        ("subset/kept.parquet", "task=select redo=select"),
        ("metrics.jsonl", "remove that line"),
        ("predictions.jsonl", "redo=evaluate"),
        ("examples.json", "redo=evaluate"),
    ],
)
def test_an_unreadable_piece_is_one_line_with_place_and_remedy(run: Path, name: str, remedy: str) -> None:
    for content in (b"{not\n", b"\xff\xfe\n"):
        (run / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"can ?not be read") as raised:
            read_run(run)
        message = str(raised.value)
        assert str(run / name) in message
        assert remedy in message
        assert "\n" not in message
        if name not in ("versions.json", "examples.json"):  # which no comparison reads
            with pytest.raises(ValueError, match=r"can ?not be read") as again:
                check_whole(run)
            assert str(again.value) == message


def test_a_last_line_that_is_still_being_written_is_left_out(run: Path) -> None:
    whole = read_run(run).metrics
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 121, "train/lo')
    assert read_run(run).metrics == whole


# ---- solutions that are shown

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
