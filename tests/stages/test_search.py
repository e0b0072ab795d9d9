"""`task=search` by the tiny policy and an untrained model: what it writes, killed and started again, and compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mprm.config import Config
from mprm.inference.policy import Completion
from mprm.inference.server import ServerPolicy
from mprm.reporting.run_record import run_folders
from mprm.reporting.settings import compare
from mprm.runs.artifacts import read_json
from mprm.stages import search as stage
from mprm.stages.search import search
from mprm.stages.standalone import sample

Load = Callable[..., Config]
ANSWER = Completion("The answer is 7.", 8, finished=True)


@pytest.fixture
def task(load: Load, tmp_path: Path) -> Callable[..., Config]:
    """task(folder, ...): a search of three charts, and of one whose image is gone, by the hot tiny policy."""
    Image.new("RGB", (56, 56), "white").save(tmp_path / "chart.png")
    candidates = [{"steps": ["The answer is 7."], "n_tokens": 50}, {"steps": ["It is 6."], "n_tokens": 70}]
    candidates += [{"steps": [], "n_tokens": 48}]
    records: list[dict[str, Any]] = [
        {"id": f"q{n}", "image": "chart.png", "question": "What is red plus blue?", "answer": "7"} for n in range(5)
    ]
    records[3]["image"] = "gone.png"
    del records[4]["answer"]
    for record in records:
        correct = {} if "answer" in record else {"correct": False}
        record["candidates"] = [candidate | correct for candidate in candidates]
    path = tmp_path / "candidates.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))

    def task(folder: str, *overrides: str) -> Config:
        small = ("search.beams=2", "search.expansions=2", "search.max_steps=4", "search.step_tokens=24")
        return load("task=search", f"input={path}", f"output={tmp_path / folder}", *small, *overrides)

    return task


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_search_beside_candidates_and_a_killed_one(
    task: Any,
    run: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed when all is searched and scored, it does neither again and writes the same bytes."""
    given = ("found", f"run={run('sure', True)}")
    search(task(*given))
    said = capsys.readouterr().out
    results = read_json(tmp_path / "found" / "results.json")
    assert (results["kind"], results["questions"], results["n_max"]) == ("search", 3, 3)
    assert results["unusable"] == {"missing_image_file": 1, "no_answer": 1}
    assert results["candidates"] == pytest.approx(results["ways"]["search"]["tokens"] / 56)
    assert "questions not used, not scored or thrown away: 1 missing_image_file, 1 no_answer" in said
    for sentence in results["verdicts"]:
        assert sentence in " ".join(said.split())
        assert sentence in (tmp_path / "found" / "report.html").read_text()
    records = [json.loads(line) for line in (tmp_path / "found" / "search.jsonl").read_text().splitlines()]
    assert [one["id"] for one in records] == ["q0", "q1", "q2"]
    assert len({json.dumps(one["finished"] or one["tokens"]) for one in records}) > 1  # of the same question
    for one in records:
        assert one["accuracy"]["search"] == one["correct"]
        assert one["accuracy"]["pass@1"] == pytest.approx(1 / 3)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == [
        *("model.json", "report.html", "results.json", "search.jsonl")
    ]
    search(task(*given))
    assert "was written by this very command" in capsys.readouterr().out

    given = ("again", *given[1:])
    with monkeypatch.context() as patch:
        patch.setattr(stage, "measured_model", killed)
        with pytest.raises(KeyboardInterrupt):
            search(task(*given))
    monkeypatch.setattr("mprm.inference.local.LocalPolicy.complete", killed)
    monkeypatch.setattr("mprm.inference.scoring.Scoring._each", lambda *_: iter(()))
    search(task(*given))
    for name in ("search.jsonl", "results.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "found" / name).read_bytes()


def test_searches_by_several_trainings_are_seeds_of_a_setting(
    task: Any, run: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in (0, 1):
        search(task(f"searches/{seed}", f"run={run(f'run_{seed}', seed=seed)}", "search.max_steps=1"))
    (group,) = compare(run_folders(tmp_path / "searches")).groups
    assert group.kind.title == "Searches"
    (setting,) = group.settings
    assert [one.seed for one in setting.runs] == [0, 1]
    of_first = read_json(tmp_path / "searches" / "0" / "results.json")["ways"]
    for key, way in (("minus_best_of_n", "best_of_n"), ("minus_majority", "majority")):
        assert setting.runs[0].numbers[key].value == pytest.approx(of_first[way]["search_minus"]["value"])


def test_what_cannot_be_compared_is_one_line(
    load: Load, task: Any, run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = f"run={run('a')}"
    with pytest.raises(ValueError, match=r"\Ainput=: 3 candidates of 56.0 tokens cost less .* solutions=\d+ .*\Z"):
        search(task("dear", given, "search.beams=90", "search.max_steps=1"))
    run("b")
    with pytest.raises(ValueError, match=r"\Arun=.* holds several runs, and one model guides a search.*\Z"):
        search(task("out", f"run={tmp_path / 'runs'}"))

    monkeypatch.setattr(ServerPolicy, "complete", lambda _, prompts, keep=None: [[ANSWER] * p.n for p in prompts])
    place = (f"questions.path={tmp_path / 'questions' / 'questions.jsonl'}", "questions.size=2", "solutions=5")
    server, made = ("policy=server", "policy.model=m"), tmp_path / "sampled.jsonl"
    sample(load("task=sample", *server, *place, f"output={made}"))
    with pytest.raises(ValueError, match=r"\Ainput=.* was sampled by another policy .*\Z"):
        search(task("out", given, *server, "policy.temperature=0.5", f"input={made}"))
    search(task("out", given, *server, "seed=1", f"input={made}"))
    assert read_json(tmp_path / "out" / "results.json")["candidates"] == 4
