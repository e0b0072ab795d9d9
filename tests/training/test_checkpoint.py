"""Which checkpoint a training resumes from, and on which devices; the weights it leaves."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from mprm.training.checkpoint import AtomicCheckpointIO, latest, load_checkpoint, prune, recount, save_weights
from mprm.training.recipe import Machine
from mprm.training.strategies import check_checkpoint


def shard(folder: Path, *names: str) -> Path:
    """A DeepSpeed checkpoint as far as its names go."""
    (folder / "checkpoint").mkdir(parents=True)
    for name in names:
        (folder / "checkpoint" / name).touch()
    return folder


def test_the_newest_whole_checkpoint_counts(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere") == (None, 0)
    (tmp_path / "step-9.ckpt").touch()
    shard(tmp_path / "step-10.ckpt", "mp_rank_00_model_states.pt")
    assert latest(tmp_path) == (tmp_path / "step-10.ckpt", 10)


def test_what_a_killed_process_left_half_written_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "step-2.ckpt").touch()
    (tmp_path / ".tmp-1234abcd-step-4.ckpt").touch()
    shard(tmp_path / ".tmp-1234abcd-step-6.ckpt", "zero_pp_rank_1_mp_rank_00_optim_states.pt")
    assert latest(tmp_path) == (tmp_path / "step-2.ckpt", 2)


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path: Path) -> None:
    file, stage_2, stage_3 = tmp_path / "step-1.ckpt", tmp_path / "step-2.ckpt", tmp_path / "step-3.ckpt"
    file.touch()
    shard(stage_2, "mp_rank_00_model_states.pt")
    shard(stage_3, "zero_pp_rank_0_mp_rank_00_model_states.pt")
    written_with = {"ddp": file, "deepspeed_stage_2": stage_2, "deepspeed_stage_3": stage_3}
    for strategy in written_with:
        machine = Machine(strategy=strategy)
        check_checkpoint(None, machine)
        for other, checkpoint in written_with.items():
            if other == strategy:
                check_checkpoint(checkpoint, machine)
            else:
                with pytest.raises(ValueError, match=rf"^trainer\.strategy={strategy} cannot resume .*\.ckpt, .* with"):
                    check_checkpoint(checkpoint, machine)


class Line(pl.LightningModule):
    """Fits one number to those it is shown; notes which."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        if self.global_step == self.stop_at:
            raise RuntimeError("the power is cut")
        self.seen += batch.tolist()
        return ((self.weight - batch) ** 2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        recount(checkpoint, self.trainer.accumulate_grad_batches)


class Batches:
    """The batches from `start` on; as with RankBatches, the length is that of the whole training."""

    def __init__(self, batches: Sequence[torch.Tensor], start: int) -> None:
        self.batches = batches
        self.start = start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.batches[self.start :])


def fit_line(folder: Path, accumulate: int, stop_at: int = -1) -> Line:
    """Five optimizer steps of eight numbers each, cut into `accumulate` batches; resumed where it stopped."""
    checkpoint, start = latest(folder)
    module = Line(stop_at)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            ModelCheckpoint(folder, filename="step-{step}", auto_insert_metric_name=False, every_n_train_steps=2)
        ],
    )
    batches = Batches(torch.arange(40.0).split(8 // accumulate), start * accumulate)
    trainer.fit(module, batches, ckpt_path=checkpoint)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 8)])
def test_a_training_resumes_with_other_forward_passes(tmp_path: Path, before: int, after: int) -> None:
    whole = fit_line(tmp_path / "whole", accumulate=1)
    with pytest.raises(RuntimeError, match="the power is cut"):
        fit_line(tmp_path / "cut", before, stop_at=3)
    resumed = fit_line(tmp_path / "cut", after)
    assert resumed.seen == whole.seen[16:]
    assert resumed.trainer.global_step == whole.trainer.global_step == 5
    torch.testing.assert_close(resumed.weight, whole.weight, atol=1e-6, rtol=0)


def test_trained_weights_are_saved_by_the_first_rank_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    model[0].requires_grad_(False)
    save_weights(model, tmp_path / "weights.safetensors")
    saved = load_file(tmp_path / "weights.safetensors")
    assert saved.keys() == {"1.weight", "1.bias"}
    assert torch.equal(saved["1.weight"], model[1].weight)
    monkeypatch.setenv("RANK", "1")
    save_weights(model, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_all_checkpoints_but_the_newest_are_removed(tmp_path: Path) -> None:
    (tmp_path / "step-2.ckpt").touch()
    shard(tmp_path / "step-4.ckpt", "mp_rank_00_model_states.pt")
    (tmp_path / "step-10.ckpt").touch()
    prune(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-4.ckpt", "step-10.ckpt"}
    prune(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-10.ckpt"]
    prune(tmp_path / "nowhere", 1)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"^checkpoint=.*file is none, or not whole; give one of"):
        load_checkpoint(torch.nn.Linear(2, 2), tmp_path / "file")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"^checkpoint=.*weights is none, or not whole; give one of"):
        load_checkpoint(torch.nn.Linear(2, 2), tmp_path / "weights")
