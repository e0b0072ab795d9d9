"""A mixture of pictures and text, from two data sets to a model: the same when resumed, and on any number of ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mprm.batching.examples import Examples
from mprm.config import Config
from mprm.reporting.selection import parts_table
from mprm.reporting.tracking import Tracker
from mprm.runs.artifacts import read_json
from mprm.runs.manifest import read_manifest
from mprm.runs.run_folder import open_run
from mprm.stages import step_scorer
from mprm.stages.contamination import contamination
from mprm.stages.models import load_backbone
from mprm.stages.stage import run_stage
from mprm.stages.step_scorer import SELECT, StepWork
from mprm.training.lengths import measure
from mprm.training.module import StepScoring, learnt
from mprm.training.planner import RankBatches, plan_parts
from mprm.training.recipe import Schedule

Mixed = Callable[..., Config]


@pytest.fixture
def mixed(load: Callable[..., Config], tmp_path: Path) -> Mixed:
    """mixed("seed=1"): 64 rollouts about charts and 32 of text in two sources, two of a question."""
    (tmp_path / "text").mkdir(exist_ok=True)
    for source, numbers in (("a", range(12)), ("b", range(12, 16))):
        records = [
            {
                "question": f"What is {number} plus 1?",
                "steps": [f"I add {wrong} now.", "Done."],
                "score": scores,
            }
            for number in numbers
            for wrong, scores in ((1, [1.0, 1.0]), (2, [1.0, 0.0]))
        ]
        lines = [json.dumps(record) for record in records]
        (tmp_path / "text" / f"{source}.jsonl").write_text("\n".join([*lines, "{cut off", ""]))
    return lambda *overrides: load(
        *("dataset=mixture", "+dataset@dataset.parts.charts=chartworld", "+dataset@dataset.parts.text=jsonl"),
        *(f"dataset.parts.charts.root={tmp_path / 'world'}", "dataset.parts.charts.rollouts=64"),
        *(f"dataset.parts.text.path={tmp_path / 'text'}", "dataset.weights={charts: 2, text: 1}"),
        *("held_out=6", "selector=random", "selector.ratio=0.5", "recipe.epochs=1", "recipe.global_batch_size=16"),
        *("trainer.checkpoint_every=1", *overrides),
    )


def folder_of(config: Config) -> Path:
    return Path(config.runs) / str(config.name)


@pytest.mark.slow
def test_it_is_trained_on_and_a_killed_training_ends_alike(
    mixed: Mixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = mixed()
    step_scorer.train(whole)
    said = " ".join(capsys.readouterr().out.split())
    manifest = read_manifest(folder_of(whole) / "subset" / "manifest.json")
    charts, text = manifest.parts["charts"], manifest.parts["text"]
    assert (charts.asked, charts.eligible, charts.kept, charts.share) == (2 / 3, 64, 32, 2 / 3)
    assert (text.asked, text.eligible, text.kept, text.steps) == (1 / 3, 32, 16, 32)
    assert f"parts: charts 32 of 64 rollouts (66.7%), {charts.steps} steps ({charts.step_share:.1%}); text 16" in said
    assert charts.step_share + text.step_share == 1
    assert manifest.sources["text/a"].kept == 12
    assert (manifest.sources["text/a"].dropped, manifest.sources["text/b"].dropped) == (1, 1)
    trained = read_json(folder_of(whole) / "stages.json")["stages"]["train"]
    assert trained["rollouts"] + trained["held_out_rollouts"] == 48
    assert trained["optimizer_steps"] == 3
    table = parts_table(manifest)
    assert table is not None
    assert table.rows[1] == ("text", "32", "16", "33.33", "33.33", "32", f"{100 * text.step_share:.2f}")

    def cut(tracker: Tracker, line: dict[str, float]) -> None:
        if line["step"] == 2:
            raise RuntimeError("the power is cut")

    killed = mixed(f"runs={tmp_path / 'others'}")
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "log", cut)
        with pytest.raises(RuntimeError, match="the power is cut"):
            step_scorer.train(killed)
    step_scorer.train(killed)
    assert read_json(folder_of(killed) / "stages.json")["stages"]["train"]["resumed_from"] == 1
    for name in ("weights.safetensors", "subset/kept.parquet", "held_out.parquet", "subset/dropped.jsonl"):
        assert (folder_of(killed) / name).read_bytes() == (folder_of(whole) / name).read_bytes()


def test_ranks_and_a_resumed_run_get_the_same_rollouts(mixed: Mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    config = mixed("trainer.max_tokens=512")
    processor, model = load_backbone(config)
    rows = []
    for rank in ("0", "1"):  # the second reads what the first has written
        monkeypatch.setenv("RANK", rank)
        with open_run(config.raw) as run:
            work = StepWork(config, run)
            if rank == "0":
                run_stage(SELECT, work)
            examples = Examples(work.subset(), config.dataset.image_folder.path, processor)
            measured, _ = measure(examples, config.backbone.max_length, 0, config.cache)
            found, share = learnt(config.objective, measured)
            for devices in (1, 2):
                machine = mixed(f"trainer.devices={devices}", "trainer.max_tokens=512", "trainer=ddp_cpu").trainer
                schedule = Schedule(config.recipe, machine, config.order, config.seed)
                plan = plan_parts(StepScoring(model, config.objective, schedule, share), found, None)[0].plan
                steps = [sorted({p for row in plan.cut(s) for one in row for p, _ in one}) for s in range(3)]
                tail = [list(RankBatches(plan, number, 1)) for number in range(devices)]
                assert tail == [list(RankBatches(plan, number, 0))[len(plan.cut(0)) :] for number in range(devices)]
                rows.append([[examples.records[position]["id"] for position in step] for step in steps])
    assert rows == [rows[0]] * 4
    assert {name.split("/")[0] for step in rows[0] for name in step} == {"charts", "text"}


def test_it_is_compared_with_a_benchmark_exported_and_excluded_from(mixed: Mixed, tmp_path: Path) -> None:
    config = mixed("task=select", f"export={tmp_path / 'subset.jsonl'}", "dataset.weights=null", "selector.ratio=1")
    step_scorer.select(config)
    lines: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "subset.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines].count([]) == 32
    named = {line["image"] for line in lines if line["image"]}
    assert all(config.dataset.image_folder.path(name).is_file() for name in named)
    assert all(name.startswith("charts/images/") for name in named)

    (tmp_path / "bench.jsonl").write_text(
        json.dumps({"question": "What is 3 plus 1?", "steps": ["So 4."], "label": [1]}) + "\n"
    )
    bench = ("benchmark=jsonl", f"benchmark.path={tmp_path / 'bench.jsonl'}")
    shared = mixed("task=contamination", f"output={tmp_path / 'shared'}", *bench)
    contamination(shared)
    listed = [json.loads(line) for line in (tmp_path / "shared" / "exclude.jsonl").read_text().splitlines()]
    assert [(one["source"], one["line"]) for one in listed] == [("text/a", 6), ("text/a", 7)]
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"source": "b", "line": 0}) + "\n")
    without = mixed(f"dataset.exclude={tmp_path / 'shared' / 'exclude.jsonl'}", f"dataset.parts.text.exclude={own}")
    step_scorer.select(without)
    manifest = read_manifest(folder_of(without) / "subset" / "manifest.json")
    assert manifest.dropped["excluded"] == 3
    assert (manifest.sources["text/a"].dropped, manifest.sources["text/b"].dropped) == (3, 2)
