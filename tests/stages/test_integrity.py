"""What changed or broke since a stage was done is told in one line, and the remedy that the line names works."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mprm.config import Config
from mprm.reporting.run_record import read_run
from mprm.runs.artifacts import read_json
from mprm.stages import standalone, step_scorer
from mprm.tasks import TASKS

Load = Callable[..., Config]
REMEDY = re.compile(r"add task=(\w+) redo=(\w+) ")


def record(number: int, score: float) -> dict[str, object]:
    steps = [{"step": f"Step {i}.", "score": score} for i in range(2)]
    return {"image": f"{number % 3}.png", "question_orig": f"Question {number}?", "steps_with_score": steps}


def write(path: Path, scores: list[float]) -> None:
    path.write_text("".join(json.dumps(record(i, score)) + "\n" for i, score in enumerate(scores)))


@pytest.fixture
def rollouts(load: Load, tmp_path: Path) -> Load:
    """rollouts("key=value"): task=select on two sources with images."""
    for folder in ("annotations", "images"):
        (tmp_path / folder).mkdir()
    for source in ("a", "b"):
        write(tmp_path / "annotations" / f"{source}.jsonl", [0.25, 0.5, 0.75, 1.0])
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").touch()
    folders = [f"dataset.{name}={tmp_path / name}" for name in ("annotations", "images")]
    return lambda *more: load("task=select", "dataset=visualprm400k", *folders, "held_out=1", "name=one", *more)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "scores": (lambda f: write(f / "annotations" / "a.jsonl", [1.0, 0.5, 0.75, 0.25]), "annotations a.jsonl changed"),
    "added": (lambda f: write(f / "annotations" / "c.jsonl", [0.5]), "annotations c.jsonl added"),
    "gone": (lambda f: (f / "annotations" / "b.jsonl").unlink(), "annotations b.jsonl gone"),
    "images": (lambda f: (f / "images" / "2.png").unlink(), "the images .* changed"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("export", [False, True])
def test_a_selection_of_other_data_is_refused_until_it_is_redone(
    rollouts: Load, tmp_path: Path, change: str, export: bool
) -> None:
    asked = [f"export={tmp_path / 'subset.jsonl'}"] if export else []
    step_scorer.select(rollouts())
    CHANGES[change][0](tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{CHANGES[change][1]} since task=select was done; add task=select redo="):
            step_scorer.select(rollouts(*asked))
    assert not (tmp_path / "subset.jsonl").exists()
    step_scorer.select(rollouts("redo=select", *asked))
    step_scorer.select(rollouts(*asked))
    assert (tmp_path / "subset.jsonl").exists() == export


def test_an_edit_that_keeps_size_and_modification_time_is_seen(rollouts: Load, tmp_path: Path) -> None:
    step_scorer.select(rollouts())
    path = tmp_path / "annotations" / "a.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("0.25", "0.75", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(ValueError, match=r"a\.jsonl changed"):
        step_scorer.select(rollouts())


def test_the_time_stamp_of_data_changes_nothing(rollouts: Load, tmp_path: Path) -> None:
    step_scorer.select(rollouts())
    (tmp_path / "annotations" / "a.jsonl").touch()
    (tmp_path / "images" / "thumbnails.db").touch()
    (manifest,) = tmp_path.glob("runs/*/subset/manifest.json")
    written = manifest.stat().st_mtime_ns
    step_scorer.select(rollouts())
    assert manifest.stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["hashes.json", "*.parquet"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_a_damaged_cache_is_made_anew(rollouts: Load, tmp_path: Path, name: str, content: bytes) -> None:
    step_scorer.select(rollouts())
    (path,) = (tmp_path / "cache" / "signals").glob(name)
    path.write_bytes(content)
    step_scorer.select(rollouts())
    assert path.read_bytes() != content


def test_a_source_never_is_the_output(rollouts: Load, tmp_path: Path) -> None:
    source = tmp_path / "annotations" / "a.jsonl"
    before = source.read_bytes()
    with pytest.raises(ValueError, match="is an input of this command"):
        step_scorer.select(rollouts(f"export={source}", "overwrite=true"))
    assert source.read_bytes() == before


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the world lies that all experiments here read."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture
def small(load: Load, world: Path, tmp_path: Path) -> Load:
    """small("key=value"): a finished experiment that trains for no step."""

    def small(*more: str) -> Config:
        return load(
            *(f"dataset.root={world / 'world'}", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}"),
            *("dataset.rollouts=32", "held_out=4", "benchmark.size=6", "recipe.epochs=0", "name=one", *more),
        )

    step_scorer.experiment(small())
    return small


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def obeyed(small: Load) -> None:
    """The experiment's command, and the remedy of every line that refuses it."""
    for _ in range(4):
        try:
            step_scorer.experiment(small())
            return
        except ValueError as error:
            said = str(error)
            assert "\n" not in said
            remedy = REMEDY.search(said)
            assert remedy, said
            assert remedy[1] == remedy[2]
            TASKS[remedy[1]].load()(small(f"task={remedy[1]}", f"redo={remedy[2]}"))
    raise AssertionError(f"four remedies did not help: {said}")


@pytest.mark.slow
def test_every_damaged_file_is_recovered_or_named_with_a_remedy_that_works(
    small: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_scorer, "report", read_run)  # all that the page is made of, without drawing it
    runs, good = tmp_path / "runs", tmp_path / "good"
    results = read_json(runs / "one" / "results.json")
    shutil.copytree(runs, good)
    names = (
        *("config.yaml", "versions.json", "subset/manifest.json", "subset/kept.parquet", "held_out.parquet"),
        *("weights.safetensors", "predictions.jsonl", "validation_predictions.jsonl", "results.json"),
        "held_out_examples/data-00000-of-00001.arrow",
    )
    for name in names:
        for damage in (flip, cut, Path.unlink):
            shutil.rmtree(runs)
            shutil.copytree(good, runs)
            damage(runs / "one" / name)
            obeyed(small)
            assert read_json(runs / "one" / "results.json") == results, (name, damage)


@pytest.mark.slow
def test_flipped_weights_are_never_evaluated(small: Load, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    flip(run / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read .*task=train redo=train"):
        step_scorer.evaluate(small("task=evaluate", "redo=evaluate"))


@pytest.mark.slow
def test_another_benchmark_under_the_same_name_is_refused_until_it_is_redone(small: Load, tmp_path: Path) -> None:
    path = tmp_path / "benchmark" / "test.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="the benchmark changed since task=evaluate was done"):
        step_scorer.evaluate(small("task=evaluate"))
    step_scorer.evaluate(small("task=evaluate", "redo=evaluate"))
    assert read_json(tmp_path / "runs" / "one" / "results.json")["n_solutions"] == 5


@pytest.mark.slow
def test_a_neighbours_broken_run_stops_nobody(small: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for name in ("stages.json", "config.yaml", "subset/manifest.json", "results.json", "predictions.jsonl"):
        broken = shutil.copytree(runs / "one", runs / name.replace("/", "-").replace(".", "-"))
        (broken / name).write_bytes(b"\xff{")
    step_scorer.experiment(small("name=two", "selector=random", "selector.ratio=0.5"))
    standalone.report(small("task=report"))
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be read" in said
    assert (runs / "comparison.csv").read_text().count("\n") == 3
