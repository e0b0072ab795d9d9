"""The world on disk: public formats, determinism, calibration."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mprm.chartworld import corpus
from mprm.chartworld.corpus import SOLVERS, TEMPERATURE, ChartWorld, ChartWorldBenchmark
from mprm.chartworld.solver import Solver, annotate
from mprm.chartworld.world import KINDS, sample_part
from mprm.data.records import Solution
from mprm.data.rollouts import Rollout, read_rollout


def world(root: Path, **changes: object) -> ChartWorld:
    return ChartWorld(root=str(root), **({"rollouts": 96} | changes))  # type: ignore[arg-type]


def rollouts(dataset: ChartWorld, source: str | None = None) -> list[Rollout]:
    """What the reader makes of every line; none may be dropped."""
    files = [file for name, file in dataset.files().items() if source in (None, name)]
    return [read_rollout(dataset, line, "").rollout for file in files for line in file.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ChartWorld:
    dataset = world(tmp_path_factory.mktemp("world") / "small")
    dataset.files()
    return dataset


def test_the_corpus_is_read_by_the_reader_of_the_real_data(small: ChartWorld) -> None:
    read = rollouts(small)
    assert len(read) == 96
    assert set(small.files()) == set(SOLVERS)
    for rollout in read:
        with Image.open(small.image_folder.path(rollout.images[0])) as image:
            assert image.size == (56, 56)
        assert list(rollout.scores) == [k / (n or 1) for k, n in zip(rollout.n_correct, rollout.n_total, strict=True)]  # type: ignore[operator]
        assert rollout.n_correct[-1] in (0, 16)
        assert rollout.steps[-1].startswith("The answer is ")
    assert len({(rollout.question, rollout.images) for rollout in read}) == 96 // 4


def test_a_record_has_the_fields_of_the_public_format(small: ChartWorld) -> None:
    record = json.loads(next(iter(small.files().values())).read_text().splitlines()[0])
    assert list(record) == ["image", "question", "question_orig", "answer", "response", "steps_with_score"]
    assert record["question"] == f"<image>\n{record['question_orig']}"
    assert record["response"] == "\n\n".join(step["step"] for step in record["steps_with_score"])
    assert list(record["steps_with_score"][0]) == ["step", "score", "num_mc_correct", "num_mc_total"]


def test_the_answer_of_a_record_is_that_of_its_right_rollouts(small: ChartWorld) -> None:
    right = 0
    for file in small.files().values():
        for record in map(json.loads, file.read_text().splitlines()):
            last = record["steps_with_score"][-1]
            assert (last["step"] == f"The answer is {record['answer']}.") == (last["num_mc_correct"] == 16)
            right += last["num_mc_correct"] == 16
    assert 0 < right < 96


def test_the_same_seed_writes_the_same_bytes(small: ChartWorld, tmp_path: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        again = world(tmp_path / str(seed), world_seed=seed)
        files = again.files().values()
        assert [file.name for file in files] == [file.name for file in small.files().values()]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(files, small.files().values(), strict=True)) == same
        image = "images/careful/0.png"
        assert (again.image_folder.path(image).read_bytes() == small.image_folder.path(image).read_bytes()) == same


def test_what_is_there_is_not_written_again(small: ChartWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChartWorld, "_write", None)
    assert len(world(Path(str(small.root))).files()) == 8


def test_another_world_in_the_same_folder_is_refused(small: ChartWorld) -> None:
    with pytest.raises(
        ValueError, match=r"^.*small holds a world of other settings; delete it, or give another folder$"
    ):
        world(Path(str(small.root)), continuations=8).files()
    assert len(rollouts(small)) == 96


def test_files_that_are_no_world_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"precious")
    with pytest.raises(ValueError, match="holds files that are no chartworld; give a new or an empty folder"):
        world(tmp_path).files()
    with pytest.raises(ValueError, match="holds files that are no chartworld"):
        ChartWorldBenchmark(path=str(tmp_path / "test.jsonl"), size=3).records()
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_an_interrupted_world_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "write_json_lines", stop)
        with pytest.raises(KeyboardInterrupt):
            world(tmp_path / "world").files()
    assert list(tmp_path.iterdir()) == []
    assert len(world(tmp_path / "world").files()) == 8


def test_true_labels_give_all_or_nothing_on_the_same_rollouts(small: ChartWorld, tmp_path: Path) -> None:
    truth = world(tmp_path / "truth", labels="truth")
    counts = [count for rollout in rollouts(truth) for count in rollout.n_correct]
    assert set(counts) == {0, 16}
    # Files of the first solver differ in nothing else: labels are drawn after the solutions.
    texts = [[rollout.steps for rollout in rollouts(dataset, "careful")] for dataset in (truth, small)]
    assert texts[0] == texts[1]


def test_early_stop_says_nothing_behind_the_first_zero(small: ChartWorld, tmp_path: Path) -> None:
    unstopped = world(tmp_path / "unstopped", early_stop=False)
    behind = 0
    for whole, cut in zip(rollouts(unstopped), rollouts(small), strict=True):
        counts = whole.n_correct
        end = counts.index(0) + 1 if 0 in counts else len(counts)
        assert cut.steps == whole.steps
        for ours, theirs in ((cut.scores, whole.scores), (cut.n_correct, counts), (cut.n_total, whole.n_total)):
            assert ours[:end] == theirs[:end]
            assert set(ours[end:]) <= {0}
        behind += len(counts) - end
    assert behind
    with pytest.raises(ValueError, match="holds a world of other settings"):
        world(tmp_path / "unstopped").files()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"look_back": 1.5}, r"^dataset\.look_back=1\.5 is not in 0 to 1; the usual one is 0\.2$"),
        ({"rollouts": 100}, r"^dataset\.rollouts=100 is not a positive multiple of 32; give 1024 or 32000$"),
        ({"rollouts": 0}, r"^dataset\.rollouts=0 is not a positive multiple"),
        ({"labels": "guess"}, r"^dataset\.labels=guess is unknown; choose monte_carlo or truth$"),
        ({"continuations": 0}, r"^dataset\.continuations=0 is not positive"),
        ({"cleaning": "none"}, r"^dataset\.cleaning=none is unknown"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        world(tmp_path, **changes)


def test_folders_that_are_not_set_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^dataset\.root is not set; give the folder to write the world to"):
        ChartWorld().files()
    with pytest.raises(ValueError, match=r"^benchmark\.path is not set; give the file to write"):
        ChartWorldBenchmark().records()
    with pytest.raises(ValueError, match=r"^benchmark\.size=0 is not positive; try 1500$"):
        ChartWorldBenchmark(size=0)
    with pytest.raises(ValueError, match=r"^benchmark\.error_rate=1\.5 is not between 0 and 1; give the share of"):
        ChartWorldBenchmark(error_rate=1.5)


def test_statistics_of_the_file_are_those_of_the_records(small: ChartWorld) -> None:
    said = json.loads((Path(str(small.root)) / "world.json").read_text())["statistics"]
    read = rollouts(small)
    scores = [[float(score or 0) for score in rollout.scores] for rollout in read]
    flat = [score for row in scores for score in row]
    assert said["rollouts"] == 96
    assert said["steps per rollout"] == pytest.approx(len(flat) / 96)
    assert said["mixed rollouts"] == pytest.approx(np.mean([0 < sum(s > 0 for s in row) < len(row) for row in scores]))
    assert said["error steps"] == pytest.approx(np.mean([score == 0 for score in flat]))
    assert said["mean MC score"] == pytest.approx(np.mean(flat))


def statistics(rollouts: int, look_back: float = 0.2) -> dict[str, float]:
    """Of rollouts in memory."""
    tallies = []
    for number, skill in enumerate(ChartWorld(look_back=look_back).solvers().values()):
        rng = np.random.default_rng([0, number])
        problems = sample_part(rng, rollouts // 32, "corpus").take(np.repeat(np.arange(rollouts // 32), 4))
        solver = Solver(problems, skill, rng)
        trace, after = solver.run()
        counts_ST = annotate(solver, after, 16, TEMPERATURE)
        stop_ST = np.logical_or.accumulate(counts_ST == 0, axis=1)
        tallies.append(corpus._tally(problems, trace, np.where(stop_ST, 0, counts_ST), 16))
    return corpus._statistics(np.sum(tallies, axis=0))


def test_the_world_is_calibrated_to_the_published_corpus() -> None:
    """Published: 7.67 % mixed, 3.57 % error steps, mean MC .8566, 5.62 steps per rollout."""
    found = statistics(24_000)
    assert found["rollouts"] == 24_000
    assert 0.065 < found["mixed rollouts"] < 0.09
    assert 0.030 < found["error steps"] < 0.042
    assert 0.84 < found["mean MC score"] < 0.87
    assert 5.4 < found["steps per rollout"] < 5.9
    assert found["of wrong answers"] == 0
    assert found["of wrong readings"] > found["of wrong combinations"] > 0.3


def test_who_looks_back_more_readily_makes_noisier_labels() -> None:
    noise = [statistics(3_200, look_back)["share of wrong steps labelled positive"] for look_back in (0.0, 0.2, 1.0)]
    assert noise[0] + 0.1 < noise[1] < noise[2] - 0.1


def test_the_benchmark_has_right_wrong_and_neutral_steps(tmp_path: Path) -> None:
    benchmark = ChartWorldBenchmark(path=str(tmp_path / "bench" / "test.jsonl"), size=200)
    solutions = [solution for solution in benchmark.records() if isinstance(solution, Solution)]
    assert len(solutions) == 200
    assert {solution.source for solution in solutions} == set(KINDS)
    labels = [label for solution in solutions for label in solution.labels]
    assert set(labels) == {1, -1, 0}
    assert 0.05 < labels.count(0) / len(labels) < 0.15
    assert 0.25 < labels.count(-1) / len(labels) < 0.4
    for solution in solutions:
        assert benchmark.image_folder.path(solution.images[0]).is_file()
        for step, label in zip(solution.steps, solution.labels, strict=True):
            assert (label == 0) == step.startswith("I ")
    assert list(benchmark.records()) == solutions


def test_the_benchmark_file_may_have_any_name(tmp_path: Path) -> None:
    benchmark = ChartWorldBenchmark(path=str(tmp_path / "bench" / "small.jsonl"), size=3)
    assert len(list(benchmark.records())) == 3
