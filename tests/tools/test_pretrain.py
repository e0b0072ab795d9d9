"""A few steps of pretraining: it runs, can be stopped, and what it writes can be loaded."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mprm.backbones.internvl import InternVL
from tools import pretrain as module
from tools import tiny
from tools.pretrain import (
    PRESETS,
    Pretraining,
    copy_language_model,
    held_out_accuracy,
    load,
    main,
    pretrain,
    save_half,
    schedule,
)


def short(folder: Path, **changes: Any) -> Pretraining:
    settings: dict[str, Any] = {"steps": 4, "batch_size": 16, "warmup_steps": 1, "checkpoint_every": 2}
    return Pretraining(
        **{"family": "internvl", "output": str(folder), "workers": 0, "bf16": False, **settings, **changes}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(short(tmp_path_factory.mktemp("whole")), seed=0)


def test_a_short_run_learns_and_leaves_a_log(trained: Path) -> None:
    (line,) = [json.loads(line) for line in (trained / "pretrain.jsonl").read_text().splitlines()]
    assert line.keys() == {"step", "seconds", "loss_solutions", "loss_claims", "numbers", "claims"}
    assert line["step"] == 4
    assert line["loss_solutions"] < 6.0  # ln 442 = 6.09 before training
    assert not (trained / "state.pt").exists()


def test_colours_alone_are_learnt_first(tmp_path: Path) -> None:
    pretrain(short(tmp_path, steps=1, colours=1, readings=1), seed=0)
    (line,) = [json.loads(line) for line in (tmp_path / "pretrain.jsonl").read_text().splitlines()]
    assert line["numbers"] is None
    assert line["loss_solutions"] > 0


def test_stopped_and_resumed_is_the_same_as_uninterrupted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_half", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(short(tmp_path), seed=0)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    pretrain(short(tmp_path), seed=0)
    whole, resumed = load_file(trained / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_seed_matters(trained: Path, tmp_path: Path) -> None:
    other = load_file(pretrain(short(tmp_path, steps=1), seed=1) / "model.safetensors")
    assert any(not torch.equal(value, other[name]) for name, value in load_file(trained / "model.safetensors").items())


def test_a_finished_model_is_never_trained_on_or_replaced(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "held_out.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"^output=.* holds a finished model; delete it, or give another folder$"):
        pretrain(short(tmp_path), seed=0)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_weights_in_half_precision_are_loaded_back(family: str, tmp_path: Path) -> None:
    config = short(tmp_path, family=family, steps=1)
    pretrain(config, seed=0)
    model, tokenizer, digits_V = load(config)
    stored = load_file(tmp_path / "model.safetensors")
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert sum(value.nbytes for value in stored.values()) < 4.2e6
    (name,) = [name for name in stored if name.endswith("embed_tokens.weight")]
    assert len(stored[name]) == len(tokenizer)
    table = model.hf.get_input_embeddings().weight
    assert torch.equal(table[: len(tokenizer)], stored[name].float())
    assert digits_V.sum() > 33  # with and without a blank before them
    before = {key: value.clone() for key, value in model.hf.state_dict().items()}
    save_half(model, tmp_path)
    again, _, _ = load(config)
    assert before.keys() == again.hf.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in again.hf.state_dict().items())


def test_one_family_can_start_from_the_language_model_of_the_other(trained: Path, tmp_path: Path) -> None:
    """Token ids mean the same in both, so the embeddings can be taken over as well."""
    tokenizers = [tiny.build_tokenizer(family) for family in ("internvl", "qwen2_5_vl")]
    texts = ["red 4 + blue 7 = 11.", "Yes", "\n"]
    assert [tokenizers[0].encode(text) for text in texts] == [tokenizers[1].encode(text) for text in texts]
    config = short(tmp_path, family="qwen2_5_vl")
    tiny.build("qwen2_5_vl", tmp_path)
    model, _, _ = load(config)
    copy_language_model(str(trained), model)
    taken = load_file(trained / "model.safetensors")
    table = taken["model.language_model.embed_tokens.weight"].float()
    assert torch.equal(model.hf.get_input_embeddings().weight[: len(table)], table)
    name = "model.language_model.layers.5.self_attn.q_proj.weight"
    assert torch.equal(model.hf.state_dict()[name], taken[name].float())
    with pytest.raises(ValueError, match=r"^language_model=nowhere has no model\.safetensors; give the folder"):
        copy_language_model("nowhere", model)


def test_the_backbone_loads_what_was_written(trained: Path) -> None:
    processor, model = InternVL(path=str(trained), max_tiles=1).load()
    assert processor.images.size["height"] == 56
    assert processor.tokens_per_tile == 4
    assert not any(parameter.requires_grad for parameter in model.vision_parameters())


def test_held_out_accuracies_are_shares(trained: Path) -> None:
    accuracy = held_out_accuracy(short(trained), seed=0, batches=1)
    assert accuracy.keys() == {"loss_solutions", "loss_claims", "numbers", "claims"}
    assert 0 <= accuracy["numbers"] < 0.5
    assert 0 <= accuracy["claims"] <= 1


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    assert [schedule(step, 4, 10) for step in (1, 2, 4, 7, 10)] == pytest.approx([0.25, 0.5, 1.0, 0.5, 0.0])


def test_wrong_settings_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for setting, said in (("batch_size=24", "is not a multiple of 16; try 64"), ("steps=0", "is not positive")):
        with pytest.raises(SystemExit) as ended:
            main(["chartworld_internvl", f"--output={tmp_path}", f"--{setting}"])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f": {setting} {said}" in line


def test_the_commands_of_the_documentation_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "held_out_accuracy", lambda config, seed: {"numbers": 0.5, "claims": 0.25})
    text = (Path(__file__).parents[2] / "docs" / "chartworld.md").read_text()
    commands = re.findall(r"^python -m tools\.pretrain (\S+) --output (\S+)$", text, re.MULTILINE)
    assert [preset for preset, _ in commands] == list(PRESETS)
    for preset, output in commands:
        main([preset, "--output", str(tmp_path / output), "--steps=1", "--batch_size=16", "--workers=0"])
        assert f"wrote {tmp_path / output}: " in capsys.readouterr().out
        assert (tmp_path / output / "held_out.json").is_file()
