"""`task=score` and `task=rerank` on files of hand-made solutions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mprm.config import Config, validate
from mprm.metrics.predictions import Prediction, StepScores, write_predictions
from mprm.runs.artifacts import read_json
from mprm.runs.names import short_names
from mprm.stages import scoring, standalone, step_scorer
from tools import tiny

Load = Callable[..., Config]
RIGHT, WRONG = ["red is 4.", "blue is 3.", "The answer is 7."], ["red is 4.", "blue is 2.", "The answer is 6."]


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """Five questions, four candidates each, of which one has no step; the image of the last question is missing."""
    Image.new("RGB", (56, 56), "white").save(tmp_path / "chart.png")
    of_each = [
        {"steps": RIGHT, "n_tokens": 9},
        {"steps": WRONG, "n_tokens": 9},
        {"steps": [], "n_tokens": 0},
        {"steps": WRONG[1:], "n_tokens": 5},
    ]
    records: list[dict[str, Any]] = [
        {
            "id": f"q{number}",
            "image": "chart.png",
            "question": f"What is red plus blue? ({number})",
            "answer": "7",
            "candidates": of_each,
        }
        for number in range(5)
    ]
    records[4]["image"] = "gone.png"
    path = tmp_path / "candidates.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, {"id": "broken"}]))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_scores_a_file(
    load: Load, run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (56, 56), "white").save(tmp_path / "chart.png")
    record = {"image": "chart.png", "question": "What is red plus blue?", "steps": RIGHT}
    (tmp_path / "in.jsonl").write_text(json.dumps(record) + "\n")
    files = (f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out.jsonl'}")
    assert scoring.score(load("task=score", f"run={run('sure', True)}", *files)) == 0
    (scored,) = lines(tmp_path / "out.jsonl")
    assert len(scored["step_scores"]) == len(scored["step_sigmas"]) == 3
    scoring.score(load("task=score", f"run={run('plain')}", *files, "overwrite=true"))
    (plain,) = lines(tmp_path / "out.jsonl")
    assert "no image" not in capsys.readouterr().out
    (tmp_path / "in.jsonl").write_text(json.dumps({"picture": "chart.png", "question": "How?", "steps": RIGHT}))
    scoring.score(load("task=score", f"run={tmp_path / 'runs' / 'plain'}", *files, "overwrite=true"))
    assert "1 solutions name no image\n" in capsys.readouterr().out
    assert plain["step_scores"] == pytest.approx(scored["step_scores"], abs=1e-6)
    assert "step_sigmas" not in plain


def test_a_run_is_evaluated_on_another_benchmark_without_training(
    load: Load, run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = ("benchmark.size=6", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}")
    trained, folder = run("plain"), tmp_path / "evaluated"
    given = ("task=evaluate", f"run={trained}", *benchmark, f"output={folder}")
    before = sorted(trained.iterdir())
    step_scorer.evaluate(load(*given))
    assert sorted(trained.iterdir()) == before
    assert "Benchmark by source" in capsys.readouterr().out
    results = read_json(folder / "results.json")
    assert (results["n_solutions"], list(results["thresholds"])) == (6, ["fixed", "optimistic"])
    predictions = lines(folder / "predictions.jsonl")
    step_scorer.evaluate(load(*given))
    assert "was written by this very command" in capsys.readouterr().out
    with pytest.raises(ValueError, match="overwrite=true"):
        step_scorer.evaluate(load(*given, "benchmark.error_rate=0.3"))

    exported = tmp_path / "exported"
    standalone.export(load("task=export", f"run={trained}", f"output={exported}"))
    step_scorer.evaluate(load(*given, f"run={exported}", f"output={tmp_path / 'again'}"))
    for ours, theirs in zip(predictions, lines(tmp_path / "again" / "predictions.jsonl"), strict=True):
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5)
    with pytest.raises(ValueError, match="needs output=DIR"):
        step_scorer.evaluate(load("task=evaluate", f"run={trained}"))
    with pytest.raises(ValueError, match=f"output={folder} goes with run="):
        step_scorer.evaluate(load("task=evaluate", f"output={folder}"))


def test_the_prm_of_somebody_else_beside_a_run_of_ours(
    load: Load,
    run: Callable[..., Path],
    candidates: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Evaluated, compared, and used for candidates."""
    weights = tmp_path / "VisualPRM-8B"
    torch.manual_seed(0)
    tiny.build("internvl", weights)
    prm = ("model=visualprm_8b", f"model.path={weights}", "model.max_tiles=1", "model.max_length=1024")
    benchmark = ("benchmark.size=6", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}")
    theirs, ours = tmp_path / "runs" / "theirs", tmp_path / "runs" / "ours"
    step_scorer.evaluate(load("task=evaluate", *prm, *benchmark, f"output={theirs}"))
    said = capsys.readouterr().out
    assert "VisualPRM-8B reaches" in said
    assert "this model" in said
    assert "this training" not in said + (theirs / "report.html").read_text()
    assert f"task=report runs={tmp_path / 'runs'}" in said
    about = read_json(theirs / "model.json")
    assert (about["name"], about["run"], about["options"]["max_tiles"]) == ("VisualPRM-8B", None, 1)
    step_scorer.evaluate(load("task=evaluate", *prm, *benchmark, f"output={theirs}"))
    assert "was written by this very command" in capsys.readouterr().out
    held_out = [Prediction(str(n), "x", (1, -1, 1), (0.5, 0.2 + n / 5, 0.9)) for n in range(3)]
    write_predictions(run("plain") / "validation_predictions.jsonl", held_out)
    step_scorer.evaluate(load("task=evaluate", f"run={tmp_path / 'runs' / 'plain'}", *benchmark, f"output={ours}"))
    standalone.report(load("task=report"))
    table = (tmp_path / "runs" / "comparison.md").read_text()
    rows = {(row := line.split(" | "))[0].strip("| "): row for line in table.splitlines() if line.startswith("|")}
    f1 = rows["setting"].index("F1")
    assert rows["VisualPRM-8B"][f1] == "-"
    assert float(rows["plain"][f1].split()[0]) > 0
    assert "has no fitted threshold" in table

    files = (f"input={candidates}", f"output={tmp_path / 'best'}")
    scoring.rerank(load("task=rerank", *prm, *files))
    assert list(read_json(tmp_path / "best" / "results.json")["runs"]) == ["VisualPRM-8B"]
    (tmp_path / "in.jsonl").write_text(json.dumps({"image": "chart.png", "question": "How many?", "steps": RIGHT}))
    words = ("task=score", *prm, f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'o'}")
    monkeypatch.setattr("sys.argv", ["run.py", *words])
    capsys.readouterr()
    assert scoring.score(load(*words)) == 0
    assert f"next: python run.py task=evaluate {' '.join(prm)} output=runs/VisualPRM-8B\n" in capsys.readouterr().out
    assert len(lines(tmp_path / "o")[0]["step_scores"]) == 3


def test_a_benchmark_of_which_nothing_can_be_scored_says_why(load: Load, tmp_path: Path) -> None:
    tiny.build("internvl", tmp_path / "chat")
    prm = ("model=judge_prompt", f"model.path={tmp_path / 'chat'}", "model.max_length=5")
    benchmark = ("benchmark.size=2", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}")
    with pytest.raises(
        ValueError, match=r"^none of 2 benchmark solutions is scored \(2 too_long\), the first: \d+ tokens"
    ):
        step_scorer.evaluate(load("task=evaluate", *prm, *benchmark, f"output={tmp_path / 'o'}"))
    sees = ("model=visualprm_8b", f"model.path={tmp_path / 'chat'}")  # the same output is free for other options
    step_scorer.evaluate(load("task=evaluate", *sees, *benchmark, f"output={tmp_path / 'o'}"))
    assert read_json(tmp_path / "o" / "results.json")["n_solutions"] == 2


def test_candidates_of_which_none_can_be_scored_say_why(load: Load, candidates: Path, tmp_path: Path) -> None:
    tiny.build("internvl", tmp_path / "chat")
    prm = ("task=rerank", "model=visualprm_8b", f"model.path={tmp_path / 'chat'}", f"output={tmp_path / 'best'}")
    with pytest.raises(ValueError, match=r"^none of 15 candidates is scored \(.*12 too_long.*\), the first: "):
        scoring.rerank(load(*prm, f"input={candidates}", "model.max_length=5"))
    scoring.rerank(load(*prm, f"input={candidates}"))
    assert read_json(tmp_path / "best" / "results.json")["unscored"] == {"chat": {"missing_image_file": 3}}


def test_a_run_and_a_prm_are_two_models(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^run=runs/x and model= name two models; leave one of them out$"):
        load("task=evaluate", "model=visualprm_8b", "run=runs/x", "output=o")
    raw = load("task=evaluate", "model=visualprm_8b", "output=o").raw
    with pytest.raises(ValueError, match=r"^backbone=x does nothing beside model=, which has its own; leave it out$"):
        validate(raw, {}, ["model=visualprm_8b", "backbone=x"])
    with pytest.raises(ValueError, match=r"^task=train does not use model \(it belongs to task=eval"):
        validate(load("task=train", "model=visualprm_8b").raw, {}, ["model=visualprm_8b"])
    with pytest.raises(ValueError, match=r"^task=evaluate with model= needs output=DIR"):
        step_scorer.evaluate(load("task=evaluate", "model=visualprm_8b", "model.path=x"))


def test_one_choice_per_question(
    load: Load, run: Callable[..., Path], candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "best"
    files = (f"input={candidates}", f"output={folder}")
    scoring.rerank(load("task=rerank", f"run={run('sure', True)}", *files, "aggregate=min"))
    results = read_json(folder / "results.json")
    assert (results["questions"], results["n_max"], results["aggregate"]) == (5, 4, "min")
    assert results["unusable"] == {"no_question": 1}
    assert results["unscored"] == {"sure": {"missing_image_file": 3}}
    said = capsys.readouterr().out
    assert "questions not used or not scored: 1 no_question\n" in said
    assert "candidates for sure not used or not scored: 3 missing_image_file\n" in said
    assert results["adaptive"].keys() == {"sure"}
    assert results["benchmarks"]["all"]["policy"]["pass@1"]["accuracy"][0]["value"] == 0.25
    chosen = lines(folder / "choices.jsonl")
    assert [choice["id"] for choice in chosen] == [f"q{number}" for number in range(5)]
    scores = {line["candidate"]: line for line in lines(folder / "scores.jsonl")}
    of_first = [StepScores(tuple(scores[f"sure/0/{c}"]["log_odds"])) for c in (0, 1, 3)]
    best = max(range(3), key=lambda number: min(of_first[number].scores))
    assert chosen[0]["choice"] == (0, 1, 3)[best]
    assert chosen[4]["choice"] is None
    written = (folder / "report.html").stat().st_mtime_ns
    again = ("task=rerank", f"run={tmp_path / 'runs' / 'sure'}", *files)
    scoring.rerank(load(*again, "aggregate=min"))
    assert (folder / "report.html").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"best is there already; give another folder, or overwrite=true"):
        scoring.rerank(load(*again))
    scoring.rerank(load(*again, "overwrite=true"))
    assert read_json(folder / "results.json")["aggregate"] == "mean"


def test_all_runs_of_a_folder_side_by_side_and_killed_between(
    load: Load,
    run: Callable[..., Path],
    candidates: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a", "b"):
        run(name, name == "b")
    (tmp_path / "runs" / "judge" / "sft").mkdir(parents=True)
    (tmp_path / "runs" / "judge" / "sft" / "weights.safetensors").touch()
    config = load("task=rerank", f"run={tmp_path / 'runs'}", f"input={candidates}", f"output={tmp_path / 'best'}")
    load_scorer, loaded = scoring.load_scorer, []

    def killed_at_b(cfg: Config, run: str, *more: Any) -> Any:
        loaded.append(Path(run).name)
        if loaded == ["a", "b"]:
            raise KeyboardInterrupt
        return load_scorer(cfg, run, *more)

    monkeypatch.setattr(scoring, "load_scorer", killed_at_b)
    with pytest.raises(KeyboardInterrupt):
        scoring.rerank(config)
    assert "runs: step scorers alone, without judge\n" in capsys.readouterr().out
    assert not (tmp_path / "best" / "scores.jsonl").exists()
    scoring.rerank(config)
    results = read_json(tmp_path / "best" / "results.json")
    assert list(results["benchmarks"]["all"]["models"]) == ["a", "b"]
    assert results["adaptive"].keys() == {"b"}
    assert {line["model"] for line in lines(tmp_path / "best" / "choices.jsonl")} == {"a", "b"}
    assert len(lines(tmp_path / "best" / "scores.jsonl")) == 2 * 15


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["bis-ratio0.1-seed0-3fa9c1d2"], ["bis-ratio0.1-seed0-3fa9c1d2"]),
        (["bis-ratio0.1-seed0-3fa9c1d2", "full-ratio1-seed0-aaaaaaaa"], ["bis-ratio0.1", "full-ratio1"]),
        (["bis-seed0-3fa9c1d2", "bis-seed0-aaaaaaaa"], ["3fa9c1d2", "aaaaaaaa"]),
        (["a", "b"], ["a", "b"]),
        (["own", "bis-seed0-aaaaaaaa"], ["own", "bis-seed0-aaaaaaaa"]),
    ],
)
def test_runs_side_by_side_have_short_names(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short


def test_what_is_missing_is_one_line(load: Load, candidates: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^task=rerank needs input=FILE.jsonl \(candidates\) and output=DIR"):
        scoring.rerank(load("task=rerank"))
    with pytest.raises(ValueError, match=r"^task=score needs input=FILE.jsonl"):
        scoring.score(load("task=score"))
    files = (f"input={candidates}", f"output={tmp_path / 'best'}")
    with pytest.raises(ValueError, match=r"^run=.* is no run and holds none that is trained"):
        scoring.rerank(load("task=rerank", f"run={tmp_path}", *files))
    with pytest.raises(ValueError, match=r"^aggregate=mode is unknown"):
        scoring.rerank(load("task=rerank", "aggregate=mode", *files))
    with pytest.raises(ValueError, match=r"is an input of this command"):
        scoring.score(load("task=score", f"input={candidates}", f"output={candidates}"))


def test_a_model_without_weights_leaves_no_output(load: Load, run: Callable[..., Path], tmp_path: Path) -> None:
    selected, output = run("selected"), tmp_path / "evaluated"
    (selected / "weights.safetensors").unlink()
    benchmark = (f"benchmark.path={tmp_path / 'b' / 'test.jsonl'}", "benchmark.size=12")
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing; train first"):
        step_scorer.evaluate(load("task=evaluate", f"run={selected}", f"output={output}", *benchmark))
    assert not output.exists()
