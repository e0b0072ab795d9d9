"""`task=sample` and `task=annotate`: what they write, killed and started again, and what can be made of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from program import RUN, start_program

from mprm.config import Config
from mprm.data.questions import read_candidates
from mprm.data.rollouts import read_rollout
from mprm.data.visualprm400k import VisualPRM400K
from mprm.inference.policy import Completion, Prompt
from mprm.inference.server import ServerPolicy
from mprm.runs.artifacts import read_json
from mprm.stages.scoring import rerank
from mprm.stages.standalone import annotate, sample
from mprm.stages.step_scorer import experiment

REPOSITORY = Path(__file__).resolve().parents[2]
Load = Callable[..., Config]


@pytest.fixture
def few(load: Load, tmp_path: Path) -> Load:
    """few("task=sample", "output=..."): a config of a few questions in the test's folder."""

    def few(*overrides: str) -> Config:
        place = f"questions.path={tmp_path / 'questions' / 'questions.jsonl'}"
        return load(
            *(place, "questions.size=24", "solutions=3", "continuations=4", "policy.temperature=1.2"), *overrides
        )

    return few


@pytest.mark.slow
def test_candidates_of_every_question(few: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "candidates.jsonl"
    config = few("task=sample", f"output={target}")
    sample(config)
    sets, unusable = read_candidates(target)
    assert unusable == {}
    assert [one.id for one in sets] == [str(number) for number in range(24)]
    assert all(len(one.candidates) == 3 for one in sets)
    assert all(Path(image).is_file() for one in sets for image in one.images)
    right = sum(candidate.correct for one in sets for candidate in one.candidates)
    assert f"24 questions with 3 solutions each, {right / 72:.1%} of them right" in " ".join(
        capsys.readouterr().out.split()
    )
    assert right > 48  # the tiny policy learnt to solve charts
    before = target.read_bytes()
    sample(config)
    assert "was written by this very command" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match="overwrite=true"):
        sample(few("task=sample", f"output={target}", "seed=1"))
    sample(few("task=sample", f"output={target}", "overwrite=true"))
    assert target.read_bytes() == before
    sample(few("task=sample", f"output={target}", "overwrite=true", "seed=1"))
    assert target.read_bytes() != before


@pytest.mark.slow
def test_the_policy_sees_whose_a_height_is(few: Load, tmp_path: Path) -> None:
    """At temperature 0 it solves charts that it has never seen, which takes colours."""
    target = tmp_path / "candidates.jsonl"
    sample(few("task=sample", "policy.temperature=0", "solutions=1", "questions.size=100", f"output={target}"))
    sets, _ = read_candidates(target)
    assert sum(one.candidates[0].correct for one in sets) >= 95


@pytest.mark.slow
def test_a_killed_annotation_goes_on_without_a_lost_or_doubled_record(few: Load, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    twice_eight = ("questions.size=16", "solutions=2", "continuations=2")  # eight questions are kept together
    annotate(few("task=annotate", f"output={whole}", *twice_eight))
    command = [RUN, "task=annotate", f"output={killed}", *twice_eight, "policy.temperature=1.2"]
    command.append(f"questions.path={tmp_path / 'questions' / 'questions.jsonl'}")
    journal = killed.with_name("killed.jsonl.journal")
    process = start_program(*command)
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    kept = journal.read_bytes()
    assert not killed.exists()
    annotate(few("task=annotate", f"output={killed}", *twice_eight))
    assert kept.count(b"\n") < 17
    assert killed.read_bytes() == whole.read_bytes()
    assert not journal.exists()
    lines = whole.read_text().splitlines()
    assert 21 < len(lines) <= 32


@pytest.mark.slow
def test_the_circle_closes(few: Load, tmp_path: Path) -> None:
    """Annotated solutions are selected, trained on, and the model chooses among candidates of the same policy."""
    annotations = tmp_path / "annotations"
    annotate(few("task=annotate", f"output={annotations / 'charts.jsonl'}", "solutions=2", "continuations=2"))
    reader = VisualPRM400K(annotations=str(annotations), images=str(tmp_path / "questions"))
    for line in (annotations / "charts.jsonl").read_bytes().splitlines():
        assert read_rollout(reader, line, "charts").fault is None
    sample(few("task=sample", f"output={tmp_path / 'candidates.jsonl'}", "seed=1"))
    experiment(
        few(
            *(
                "dataset=visualprm400k",
                f"dataset.annotations={annotations}",
                f"dataset.images={tmp_path / 'questions'}",
            ),
            *("selector.ratio=0.5", "name=own", "held_out=8", "recipe.epochs=1", "recipe.global_batch_size=8"),
            *(f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}", "benchmark.size=10"),
        )
    )
    run = tmp_path / "runs" / "own"
    folder = tmp_path / "best_of_3"
    rerank(few("task=rerank", f"run={run}", f"input={tmp_path / 'candidates.jsonl'}", f"output={folder}"))
    results = read_json(folder / "results.json")
    assert (results["questions"], results["n_max"], list(results["benchmarks"]["all"]["models"])) == (24, 3, ["own"])


def test_no_question_is_one_line(load: Load, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text('{"question": "Why?"}\n')
    path = f"questions.path={tmp_path / 'none.jsonl'}"
    with pytest.raises(ValueError, match=r"^questions.path=.* holds no usable record \(no_answer 1\)"):
        sample(load("task=sample", "questions=jsonl", path, f"output={tmp_path / 'out.jsonl'}"))
    with pytest.raises(ValueError, match=r"^task=annotate needs output=FILE.jsonl"):
        annotate(load("task=annotate"))


def test_questions_longer_than_the_servers_context_are_counted(
    few: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(policy: ServerPolicy, prompts: list[Prompt], keep: object = None) -> list[list[Completion]]:
        return [[] if p.key in long else [Completion("The answer is 4.", 5, True)] * p.n for p in prompts]

    monkeypatch.setattr(ServerPolicy, "complete", complete)
    config = few("policy=server", "policy.model=m", "task=sample", f"output={tmp_path / 'out.jsonl'}")
    long = {"0", "5"}
    sample(config)
    assert "questions left out: 2 too_long" in capsys.readouterr().out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 22
    long = set(map(str, range(24)))
    with pytest.raises(ValueError, match=r"\Anone of the 24 questions can be asked \(24 too_long\).*\Z"):
        annotate(few("policy=server", "policy.model=m", "task=annotate", f"output={tmp_path / 'none.jsonl'}"))


def test_questions_whose_images_have_another_key_are_counted(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [Completion("The answer is 4.", 5, True)] * 16
    monkeypatch.setattr(ServerPolicy, "complete", lambda policy, prompts, keep=None: [answers for _ in prompts])
    record = {"question": "How many?", "answer": "4", "picture": "chart.png"}
    (tmp_path / "in.jsonl").write_text(f"{json.dumps(record)}\n")
    given = ("questions=jsonl", f"questions.path={tmp_path / 'in.jsonl'}", "policy=server", "policy.model=m")
    sample(load("task=sample", *given, f"output={tmp_path / 'candidates.jsonl'}"))
    assert "1 questions name no image\n" in capsys.readouterr().out
    rerank(load("task=rerank", f"input={tmp_path / 'candidates.jsonl'}", f"output={tmp_path / 'best'}"))
    assert "1 questions name no image\n" in capsys.readouterr().out
