"""Several processes that score together, as torchrun would have started them."""

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mprm.config import Config
from mprm.inference import score_file
from mprm.main import run_checked
from mprm.runs.journal import Journal
from mprm.stages import ranks

Load = Callable[..., Config]


@pytest.fixture
def task(load: Load, tmp_path: Path) -> Callable[[str], Config]:
    """task("name"): solutions are to be scored into that file, each in a row of its own, whoever scores it."""
    Image.new("RGB", (56, 56), "white").save(tmp_path / "chart.png")
    questions = ["What is red?", "What is blue?", "What is green?", "Which is more?", "Which is less?"]
    records = [
        {"image": "chart.png", "question": question, "steps": ["red is 4."] * number}
        for number in (1, 2, 3)
        for question in questions
    ]
    records += [{**records[0], "image": "gone.png"}, {**records[0], "steps": ["word " * 200]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    given = (f"input={tmp_path / 'in.jsonl'}", "backbone=chartworld_internvl", "backbone.max_length=90")

    def task(name: str) -> Config:
        return load("task=score", *given, "trainer.max_tokens=1", f"output={tmp_path / name}")

    return task


def test_one_process_says_that_it_uses_one_device(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    with ranks.together(load("task=evaluate", "trainer=ddp_cpu")):
        pass
    said = "trainer.devices=2: one is used; torchrun --nproc_per_node=2 run.py ... uses all\n"
    assert capsys.readouterr().out == said


def in_two(config: Config, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[int | None]:
    """Run the task in two processes, which note what they ask the model; returns their exit codes."""
    monkeypatch.setattr(ranks, "AT_ONCE", 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}

    def work(rank: int) -> None:
        torch.set_num_threads(1)  # it is forked
        os.environ.update(address | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        exchanged = ranks._exchanged

        def noted(scored_by: Any, *given: Any) -> Any:
            def by_process(share: Any, open_images: Any) -> Any:
                (folder / f"rank{rank}").write_text(" ".join(request.id for request in share))
                return scored_by(share, open_images)

            return exchanged(by_process, *given)

        ranks._exchanged = noted
        code, _ = run_checked(config)
        os._exit(code)

    processes = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_two_processes_write_what_one_does(
    task: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To the byte, whole questions each; a second time there is nothing to do; after a kill no score is made twice."""
    assert run_checked(task("alone"))[0] == 0
    expected = (tmp_path / "alone").read_bytes()
    assert len(expected.splitlines()) == 17
    together = task("together")
    assert in_two(together, monkeypatch, tmp_path) == [0, 0]
    assert (tmp_path / "together").read_bytes() == expected
    shares = [{int(number) for number in (tmp_path / f"rank{rank}").read_text().split()} for rank in (0, 1)]
    assert sorted(map(len, shares)) == [7, 10]
    assert shares[0] | shares[1] == set(range(17))
    assert all({number, number + 5, number + 10} <= shares[0] or number not in shares[0] for number in range(5))
    assert in_two(together, monkeypatch, tmp_path) == [0, 0], "nothing to do"

    add = Journal.add

    def killed(self: Journal, results: dict[str, Any]) -> None:
        add(self, results)
        os._exit(9)

    monkeypatch.setattr(score_file, "AT_ONCE", 4)
    monkeypatch.setattr(Journal, "add", killed)
    first, second = in_two(task("killed"), monkeypatch, tmp_path)
    monkeypatch.setattr(Journal, "add", add)
    assert (first, second) == (9, 1), "the second sees that the first is gone"
    assert not (tmp_path / "killed").exists()
    assert in_two(task("killed"), monkeypatch, tmp_path) == [0, 0]
    assert sum(len((tmp_path / f"rank{rank}").read_text().split()) for rank in (0, 1)) == 17 - 4
    for line, whole in zip((tmp_path / "killed").read_bytes().splitlines(), expected.splitlines(), strict=True):
        # What was left stood in other rows, which round differently.
        assert json.loads(line)["step_scores"] == pytest.approx(json.loads(whole)["step_scores"], abs=1e-6)
