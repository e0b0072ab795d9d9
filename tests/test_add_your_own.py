"""docs/add_your_own.md is pasted into a folder outside the repository, file by file, and its commands are run there."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import REPOSITORY, RUN, run_program

from mprm.tasks import TASKS
from tests.backbones.test_own_family import write_llava_next

PAGE = (REPOSITORY / "docs" / "add_your_own.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
SMALL = {
    "dataset.rollouts": "96",
    "held_out": "8",
    "benchmark.size": "20",
    "recipe.epochs": "1",
    "recipe.global_batch_size": "16",
    "questions.size": "8",
    "solutions": "2",
    "continuations": "2",
    "preferences.size": "48",
    "preferences.traced": "0.7",
    "reward_benchmark.size": "6",
    "sft.epochs": "1",
    "grpo.group_size": "2",
    "judge.max_new_tokens": "12",
}
SEEN = {  # section -> the file that shows the component at work, and its words there
    "A policy": ("annotated.jsonl", "I guess that it is"),
    "A selector": ("runs/*/subset/manifest.json", '"label": "Longest (per_step True)"'),
    "A dataset": ("runs/*/subset/manifest.json", '"name": "Tables"'),
    "A benchmark": ("runs/*/results.json", '"graded"'),
    "An objective": ("runs/*/stages.json", '"objective": "Focal (gamma 1.0)"'),
    "An order": ("runs/*/config.yaml", "mine.crowded.Crowded"),
    "Preferences": ("runs/egt/*/results.json", '"graded"'),
    "A backbone": ("runs/*-hard-tiny-seed0-*/report.html", "AUC"),
    "A family of chat models": ("runs/*-hard-llava_next-seed0-*/report.html", "AUC"),
    "A logger": ("log.txt", "results in "),
}
OWN_SIZE = ("dataset", "benchmark", "questions", "preferences", "reward_benchmark")  # of a component of one's own


def blocks(text: str, language: str) -> Iterator[str]:
    return iter(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def small(words: list[str]) -> list[str]:
    """The command on a small world: settings that its task has, and that it does not give itself."""
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    task = TASKS[typed.get("task", "experiment")]
    if "egt" in (typed.get("experiment"), typed.get("task")):
        task = TASKS["egt"]
    own = [group for group in OWN_SIZE if typed.get(group, "chartworld") != "chartworld"]
    used = {*task.groups, *task.keys} - set(own)
    return [f"{key}={value}" for key, value in SMALL.items() if key not in typed and key.split(".")[0] in used]


def test_every_group_has_a_section() -> None:
    assert list(SECTIONS) == [
        *("A selector", "A dataset", "A benchmark", "An objective", "An order", "A backbone"),
        *("A family of chat models", "A policy", "Preferences", "A logger"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_a_component_of_ones_own(title: str, tmp_path: Path) -> None:
    files = [block for language in ("python", "yaml", "json", "text") for block in blocks(SECTIONS[title], language)]
    for block in files:
        name, _, content = block.partition("\n")
        path = tmp_path / name.removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    commands = [line for block in blocks(SECTIONS[title], "bash") for line in block.replace("\\\n", " ").splitlines()]
    assert files
    assert commands
    if "backbone.path=DIR" in commands[0]:
        write_llava_next(tmp_path / "DIR")
    for command in commands:
        words = shlex.split(command.split("  #")[0])
        assert words[:3] == ["PYTHONPATH=.", "python", "run.py"], command
        done = run_program(
            RUN, *words[3:], *small(words[3:]), cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}
        )
        assert done.returncode == 0, (command, done.stderr)
    pattern, words_there = SEEN[title]
    found = [path.read_text(encoding="utf-8") for path in tmp_path.glob(pattern)]
    assert any(words_there in text for text in found), (pattern, len(found))
