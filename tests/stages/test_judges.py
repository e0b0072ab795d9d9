"""Entropy-Guided Training through its tasks, on a few pairs and an untrained judge."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForImageTextToText

from mprm.config import Config, config_of_run
from mprm.reporting.run_record import read_json_lines
from mprm.runs.artifacts import read_json, write_json
from mprm.runs.run_folder import open_run
from mprm.stages import judges, standalone
from mprm.stages.responses import JudgeWork

Load = Callable[..., Config]
SHORT = (
    "preferences.size=40",
    "preferences.traced=0.6",
    "reward_benchmark.size=4",
    "sft.epochs=1",
    "grpo.group_size=2",
    "grpo.global_batch_size=4",
    "judge.max_new_tokens=4",
    "judge.votes=2",
)


@pytest.fixture
def judging(load: Load, tmp_path: Path) -> Load:
    """judging("selector=random"): the configuration of experiment=egt on a small world in the test's folder."""

    def judging(*overrides: str) -> Config:
        paths = [f"{group}.path={tmp_path / group / 'pairs.jsonl'}" for group in ("preferences", "reward_benchmark")]
        return load("experiment=egt", *SHORT, *paths, *overrides)

    return judging


def folder_of(config: Config) -> Path:
    return Path(config.runs) / str(config.name)


def check_curated(run: Path, preferences: Path) -> None:
    """Per source the lower half by entropy, none of them with a trace."""
    signals, kept = (pq.read_table(run / "curated" / f"{name}.parquet").to_pylist() for name in ("signals", "kept"))
    for source in {row["source"] for row in signals}:
        of_source = sorted(row["entropy"] for row in signals if row["source"] == source)
        chosen = sorted(row["entropy"] for row in kept if row["source"] == source)
        assert chosen == of_source[: max(1, len(of_source) // 2)]
    traced = {record["id"] for record in read_json_lines(preferences) or [] if "trace" in record}
    assert not traced & {row["id"] for row in signals}
    assert len(kept) == read_json(run / "results.json")["curation"]["kept"]


def check_held_out(run: Path, eligible: int) -> None:
    """Three of the eligible pairs, asked before the first step and after every one."""
    results = read_json(run / "results.json")
    held = [row["id"] for row in pq.read_table(run / "curated" / "signals.parquet").to_pylist() if row["drop_reason"]]
    curation = results["curation"]
    assert len(held) == curation["dropped"]["held_out"] == 3
    assert curation["eligible"] + 3 == eligible
    assert not set(held) & set(pq.read_table(run / "curated" / "kept.parquet")["id"].to_pylist())
    curve = [line["step"] for line in read_json_lines(run / "rl" / "metrics.jsonl") or [] if "val/accuracy" in line]
    assert curve == [*range(1 + results["training"]["rl"]["optimizer_steps"])]


@pytest.mark.filterwarnings("error:constrained_layout")  # of a figure whose labels leave it no room
def test_all_stages_and_what_a_second_run_shares(
    judging: Load, load: Load, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = judging()
    judges.train_judge(first)
    run = folder_of(first)
    results = read_json(run / "results.json")
    assert len(results["reward_benchmark_hash"]) == 64
    assert list(results["judges"]) == ["untrained", "sft", "rl"]
    assert results["judges"]["rl"]["pairs"] == 4
    assert list(results["differences"]) == list(results["vote_differences"]) == ["sft - untrained", "rl - sft"]
    assert [len(results["judges"][stage]["votes"]) for stage in results["judges"]] == [2, 2, 2]
    assert {len(one["votes"]) for one in read_json_lines(run / "judged_rl.jsonl") or []} == {2}
    assert results["training"]["rl"]["order"] == "LowToHigh"
    curation = results["curation"]
    assert curation["eligible"] + curation["dropped"]["traced"] == 40
    assert results["training"]["sft"]["examples"] + sum(results["training"]["sft"]["left_out"].values()) == 40
    assert "accuracy_by_entropy" in (run / "report.html").read_text()
    check_curated(run, Path(str(first.preferences.path)))
    assert results["training"]["rl"]["examples"] == curation["kept"]

    capsys.readouterr()
    aside = ("grpo.held_out=3", "trainer.validate_every=1")
    second = judging("selector=random", "selector.ratio=0.5", "order=shuffled", *aside)
    judges.train_judge(second)
    assert f"SFT: the same as that of {run.name}, taken from there" in capsys.readouterr().out
    other = folder_of(second)
    for name in ("sft/weights.safetensors", "responses.jsonl", "judged_untrained.jsonl", "judged_sft.jsonl"):
        assert (other / name).read_bytes() == (run / name).read_bytes(), name
    assert read_json(other / "stages.json")["stages"]["judge/judged_rl"].get("shared_with") is None
    check_held_out(other, results["curation"]["eligible"])
    assert "Held-out pairs" in (other / "report.html").read_text()
    assert "Held-out pairs" not in (run / "report.html").read_text()

    # Measured on other pairs, in a published layout, and otherwise.
    pairs = read_json_lines(Path(str(first.reward_benchmark.path))) or []
    published = [
        {"ID": pair["id"], "Category": pair["source"], "Text": pair["prompt"], "Image": pair["image"]}
        | {"Output1": pair["answer_a"], "Output2": pair["answer_b"], "Better": f"Output{'ab'.index(pair['label']) + 1}"}
        for pair in pairs[:3]
    ]
    file = tmp_path / "reward_benchmark" / "all_data.json"
    write_json(file, published)
    measure = ("reward_benchmark=multimodal_rewardbench", "judge.votes=0", "judge.evaluation_temperature=0.5")
    rest = [one for one in SHORT if one.partition("=")[0] not in ("reward_benchmark.size", "judge.votes")]
    preferences = f"preferences.path={first.preferences.path}"
    third = load("experiment=egt", *measure, *rest, preferences, f"reward_benchmark.path={file}")
    judges.train_judge(third)
    assert f"RL: the same as that of {run.name}, taken from there" in capsys.readouterr().out
    found = read_json(folder_of(third) / "results.json")
    assert found["judges"]["rl"]["pairs"] == found["judges"]["rl"]["published"][0]["pairs"] == 3
    assert "2_get_accuracy.py" in found["rule"]
    assert results["rule"] == ""
    assert results["judges"]["rl"]["published"] == []
    weights = [(folder_of(config) / "rl" / "weights.safetensors").read_bytes() for config in (first, third)]
    assert weights[0] == weights[1]

    times = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    judges.train_judge(judging("task=rl"))
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == times

    standalone.report(judging("task=report"))
    assert "LowToHigh" in (Path(first.runs) / "comparison.csv").read_text()

    exported = tmp_path / "exported"
    standalone.export(judging("task=export", f"run={run}", f"output={exported}"))
    with open_run(first.raw) as opened:
        _, model = JudgeWork(config_of_run(run), opened).judge_after("rl")
    model.hf.set_attn_implementation("sdpa")
    ids = torch.arange(10, 40)[None]
    theirs = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32).eval()
    ours = model.hf(input_ids=ids).logits
    torch.testing.assert_close(theirs(input_ids=ids).logits[..., : ours.shape[-1]], ours, atol=1e-5, rtol=0)


def test_a_selector_for_rollouts_is_told_before_anything_is_trained(judging: Load) -> None:
    config = judging("selector=bis")
    with pytest.raises(ValueError, match=r"selector: BIS \(alpha 0.2\) needs p_pos, which pairs do not have"):
        judges.train_judge(config)
    assert not folder_of(config).exists()


def test_without_traces_there_is_nothing_to_imitate(judging: Load) -> None:
    with pytest.raises(ValueError, match=r"no trace that ends in judge\.verdict .* \(40 no_trace\)"):
        judges.train_judge(judging("task=sft", "preferences.traced=0"))


def test_with_nothing_but_traces_there_is_nothing_to_curate(judging: Load) -> None:
    with pytest.raises(ValueError, match=r"every pair of preferences\.path=.* has a trace"):
        judges.train_judge(judging("task=curate", "preferences.traced=1", "sft.epochs=0"))


def test_too_many_pairs_held_out_are_told_before_anything_is_trained(judging: Load) -> None:
    config = judging("grpo.held_out=40")
    with pytest.raises(ValueError, match=r"^grpo\.held_out=40 leaves none of \d+ pairs without a trace"):
        judges.train_judge(config)
    assert not (folder_of(config) / "sft").exists()
