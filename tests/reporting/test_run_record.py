from pathlib import Path

import pytest

from mprm.reporting.run_record import check_whole, read_run


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
