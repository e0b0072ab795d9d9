"""What every task says."""

import sys

import pytest

from mprm.terminal import retyped, say, say_next, tracked


def test_a_path_with_brackets_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("wrote runs/[b]x[/b][/nowhere] :smile:")
    assert capsys.readouterr().out == "wrote runs/[b]x[/b][/nowhere] :smile:\n"


def test_a_long_path_is_not_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"selected 1 of 2 rollouts -> runs/{'x' * 90}/subset"
    monkeypatch.setenv("COLUMNS", "80")
    say(line)
    assert capsys.readouterr().out == f"{line}\n"


def test_the_next_command_is_this_one_with_another_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["task=select", "dataset.sources=[a,b]", "export=subset.jsonl", "redo=select", "runs=my runs"]
    monkeypatch.setattr(sys, "argv", ["run.py", *typed])
    say_next(*retyped("train"))
    assert capsys.readouterr().out == "next: python run.py task=train 'dataset.sources=[a,b]' 'runs=my runs'\n"


def test_the_next_command_keeps_the_chosen_model(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["-cd", "conf", "task=score", "+backbone.yes=+", "backbone=auto", "input=x", "trainer=gpu", "output=y"]
    monkeypatch.setattr(sys, "argv", ["run.py", *typed])
    kept = ["-cd", "conf", "task=experiment", "+backbone.yes=+", "backbone=auto", "trainer=gpu"]
    assert retyped("experiment", "backbone", "trainer") == kept


def test_a_bar_leaves_nothing_in_a_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(3), 3, "counting [b]")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")
