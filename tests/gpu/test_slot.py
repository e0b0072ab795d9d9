"""slot.sh on the CPU: what it runs is at its smallest, and how it runs parts is what it is on a GPU."""

import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from program import REPOSITORY, forked_python

GPU = REPOSITORY / "tests" / "gpu"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    python = forked_python(tmp_path)
    return {**python, "PYTHON": python["MPRM_PYTHON"], "DEVICE": "cpu", "OUT": str(tmp_path / "out")}


def bash(*words: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", *words], env=os.environ | env, capture_output=True, text=True, timeout=120)


def figures(env: dict[str, str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(env["OUT"], "figures.jsonl").read_text().splitlines()]


def test_a_part_that_fails_or_lasts_too_long_stops_no_other(tmp_path: Path, environment: dict[str, str]) -> None:
    script = tmp_path / "parts.sh"
    script.write_text(
        f"source {GPU}/parts.sh; mkdir -p $OUT\n"
        "part bad 9 ^figure bash -c 'echo figure 1; echo the reason; exit 3'\n"
        "part slow 1 ^figure bash -c 'echo figure 2; sleep 60'\n"
        "part killed 9 ^figure bash -c 'kill -9 $$'\n"
        "part good 9 ^figure bash -c 'echo figure 3; echo figure 4; echo other'\n"
        "summary\n"
    )
    ended = bash(str(script), env=environment)
    assert ended.returncode == 1
    states = {"bad": "FAILED", "slow": "TIMEOUT", "killed": "FAILED", "good": "ok"}
    lines = figures(environment)
    assert {line["part"]: line["state"] for line in lines} == states
    assert [line["figures"] for line in lines] == [["figure 1"], ["figure 2"], [], ["figure 3", "figure 4"]]
    assert lines[1]["seconds"] in (1, 2)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT.*Z", str(line["date"])) for line in lines)
    assert lines[0]["versions"].keys() >= {"torch", "transformers", "deepspeed"}  # type: ignore[attr-defined]
    table = ended.stdout[ended.stdout.index("part ") :]
    assert [line.split()[:2] for line in table.splitlines()[1:5]] == [[*pair] for pair in states.items()]
    assert "    | the reason" in ended.stdout
    assert "the reason" in Path(environment["OUT"], "log.txt").read_text()


def test_the_limits_leave_time_to_end() -> None:
    text = (GPU / "slot.sh").read_text()
    limits = re.findall(r'\bpart (\w+|"\$name") (\d+) ', text)
    assert sum(int(limit) * (2 if name == '"$name"' else 1) for name, limit in limits) < 560  # zero2 and zero3
    every = re.search(r"wanted=\((\w.*)\)$", text, re.M)
    assert every is not None
    assert {"wheels", *every[1].split()} == {name for name, _ in limits} - {'"$name"'} | {"zero2", "zero3"}


def test_parts_on_the_cpu(environment: dict[str, str]) -> None:
    ended = bash(str(GPU / "slot.sh"), "train", "score", env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = {str(line["part"]): " ".join(line["figures"]) for line in figures(environment)}  # type: ignore[arg-type]
    assert {"ours", "published", "stock"} <= {*found["train"].split()}
    assert "ours_shared" in found["score"]


def test_an_unknown_part(environment: dict[str, str]) -> None:
    ended = bash(str(GPU / "slot.sh"), "nothing", env=environment)
    assert ended.returncode == 2
    assert ended.stderr == "slot.sh: there is no part nothing\n"


def test_an_arm_that_runs_out_of_memory_lets_the_next_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "benchmarks"))
    import train_step

    def make_arm(name: str, setting: object) -> str:
        if name == "published":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return name

    monkeypatch.setattr(train_step, "make_arm", make_arm)
    monkeypatch.setattr(train_step, "time_arm", lambda arm, device, table: print(arm))
    train_step.time_apart(["ours", "published", "stock"], SimpleNamespace(device="cuda"), None)
    assert capsys.readouterr().out.split() == ["ours", "published", "out", "of", "memory", "stock"]


@pytest.mark.parametrize(("words", "lora"), [(["--size", "8b"], True), (["--size", "8b", "--no-lora"], False)])
def test_what_the_gpu_is_given_by_default(words: list[str], lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "benchmarks"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    import train_step

    given = train_step.arguments(words)
    assert (given.lora, given.device, given.max_tokens) == (lora, "cuda", 16384)
    assert given.arms == ["ours", "published", "stock"]
    assert train_step.arguments([]).lora is False
