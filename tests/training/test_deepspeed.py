"""What DeepSpeed asks of us, and whole trainings with it: on CPUs over gloo, and on CUDA devices where there are."""

import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.ops.op_builder.cpu import CPUAdamBuilder
from program import start_program
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from safetensors.torch import load_file

from mprm.backbones.internvl import InternVL
from mprm.chartworld.corpus import ChartWorld
from mprm.training.checkpoint import latest, load_checkpoint
from mprm.training.objectives import BetaBinomial
from mprm.training.recipe import Machine, Recipe
from mprm.training.strategies import ShardedPrecision, build_optimizer, check_world_size

ONE_RANK = Path(__file__).with_name("one_rank.py")
Start = Callable[..., None]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def start(backbone: InternVL, corpus: tuple[ChartWorld, Path]) -> Start:
    """start(folder, ranks, kill_at=0, objective="Hard", strategy=...): a training of one_rank.py in as many processes.

    It must end well or, with kill_at, by the kill of the first rank; the others, which then wait for it, are killed.
    With told_at all must end as interrupted.
    """

    def start(
        folder: Path,
        ranks: int,
        kill_at: int = 0,
        told_at: int = 0,
        nan_at: int = 0,
        objective: str = "Hard",
        **machine: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        world, subset = corpus
        settings = {"devices": ranks, "max_tokens": 1024, "checkpoint_every": 2, "validate_every": 2}
        job = {"folder": str(folder), "backbone": backbone.path, "world": world.root, "subset": str(subset)}
        job |= {"machine": settings | machine, "objective": objective}
        job |= {"kill_at": kill_at, "told_at": told_at, "nan_at": nan_at}
        shared = os.environ | {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared |= {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
        processes = []
        for rank in range(ranks):
            env = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = folder / f"rank{rank}.log"
            processes.append(start_program(str(ONE_RANK), json.dumps(job), env=env, output=log))
        try:
            ends = [process.wait(timeout=120) for process in processes[: 1 if kill_at else ranks]]
        finally:
            for process in processes:
                process.kill()
        logs = "".join((folder / f"rank{rank}.log").read_text()[-3000:] for rank in range(ranks))
        assert ends == ([-signal.SIGKILL] if kill_at else [130 if told_at else 0] * ranks), logs

    return start


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def plain_folder(train: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in one process without DeepSpeed."""
    folder = tmp_path_factory.mktemp("plain")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def plain(plain_folder: Path) -> Weights:
    """Its weights."""
    return load_file(plain_folder / "weights.safetensors")


def checkpoint_weights(folder: Path, backbone: InternVL) -> Weights:
    """What task=export makes of the folder's last checkpoint."""
    checkpoint, step = latest(folder / "checkpoints")
    assert step == 4
    assert checkpoint is not None
    _, model = backbone.load()
    load_checkpoint(model, checkpoint)
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def difference(folder: Path, weights: Weights) -> float:
    """The largest difference of one weight."""
    other = load_file(folder / "weights.safetensors")
    assert other.keys() == weights.keys()
    return max(float((other[name] - weights[name]).abs().max()) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_one_rank_equals_a_training_without_deepspeed(start: Start, plain: Weights, tmp_path: Path, stage: int) -> None:
    """ZeRO-3 with compiled layers, which no hook of DeepSpeed's breaks into several graphs."""
    start(tmp_path, ranks=1, strategy=f"deepspeed_stage_{stage}", compile=stage == 3)
    assert difference(tmp_path, plain) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_killed_and_resumed_equal_uninterrupted(
    start: Start, plain: Weights, plain_folder: Path, backbone: InternVL, tmp_path: Path, stage: int
) -> None:
    strategy = f"deepspeed_stage_{stage}"
    start(tmp_path / "whole", ranks=2, strategy=strategy)
    start(tmp_path / "killed", ranks=2, strategy=strategy, kill_at=3)
    assert latest(tmp_path / "killed" / "checkpoints")[1] == 2
    start(tmp_path / "killed", ranks=2, strategy=strategy)
    assert difference(tmp_path / "killed", load_file(tmp_path / "whole" / "weights.safetensors")) == 0
    assert difference(tmp_path / "killed", plain) < 1e-5
    shards, file = (checkpoint_weights(folder, backbone) for folder in (tmp_path / "whole", plain_folder))
    for name, weight in file.items():
        torch.testing.assert_close(shards[name], weight, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_cpu", "deepspeed_stage_2", "deepspeed_stage_3"])
def test_one_rank_is_told_and_all_write(start: Start, plain: Weights, tmp_path: Path, strategy: str) -> None:
    """The second hears it in the second of three forward passes of step 2; both write what step 1 has left."""
    start(tmp_path, ranks=2, strategy=strategy, max_tokens=109, told_at=5)
    assert latest(tmp_path / "checkpoints")[1] == 1
    start(tmp_path, ranks=2, strategy=strategy)
    assert difference(tmp_path, plain) < 1e-5


@pytest.fixture(scope="module")
def offload() -> None:
    """DeepSpeed's C++ for it is built here: a rank that its time limit kills while it builds leaves a lock for ever."""
    CPUAdamBuilder().load()


@pytest.mark.slow
@pytest.mark.usefixtures("offload")
@pytest.mark.parametrize(("stage", "before", "after"), [(2, 1, 2), (3, 2, 1)])
def test_resumed_on_other_devices_with_the_optimizer_offloaded(
    start: Start, plain: Weights, tmp_path: Path, stage: int, before: int, after: int
) -> None:
    strategy = f"deepspeed_stage_{stage}"
    start(tmp_path, ranks=before, strategy=strategy, kill_at=3)
    start(tmp_path, ranks=after, strategy=strategy, offload_optimizer=True, max_tokens=400)
    assert difference(tmp_path, plain) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_bfloat16_ends_in_float32_weights(start: Start, plain: Weights, tmp_path: Path, stage: int) -> None:
    """As the optimizer keeps them: rounded to bfloat16, as the model is, most of them would be another number."""
    start(tmp_path, ranks=2, strategy=f"deepspeed_stage_{stage}", precision="bf16-true")
    weights = load_file(tmp_path / "weights.safetensors")
    assert weights.keys() == plain.keys()
    for name, weight in weights.items():
        assert weight.dtype == torch.float32
        assert weight.shape == plain[name].shape
    weight = weights["hf.model.language_model.layers.0.mlp.up_proj.weight"]
    assert (weight != weight.bfloat16().float()).float().mean() > 0.9


@pytest.mark.slow
def test_a_skipped_step_is_the_same_for_every_strategy(start: Start, tmp_path: Path) -> None:
    for strategy in ("ddp_cpu", "deepspeed_stage_2", "deepspeed_stage_3"):
        start(tmp_path / strategy, ranks=2, strategy=strategy, nan_at=3, non_finite="skip")
        lines = [json.loads(line) for line in (tmp_path / strategy / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "train/skipped" in line] == [3]
    weights = load_file(tmp_path / "ddp_cpu" / "weights.safetensors")
    assert all(difference(tmp_path / f"deepspeed_stage_{stage}", weights) < 1e-5 for stage in (2, 3))


@pytest.mark.slow
def test_a_kappa_head_is_sharded(start: Start, train: Any, tmp_path: Path) -> None:
    train(tmp_path / "plain", BetaBinomial())
    start(tmp_path / "whole", ranks=2, objective="BetaBinomial", strategy="deepspeed_stage_3")
    plain = load_file(tmp_path / "plain" / "weights.safetensors")
    assert "kappa.bias" in plain
    assert difference(tmp_path / "whole", plain) < 1e-5


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("offload_optimizer", [False, True])
@pytest.mark.parametrize("stage", [2, 3])
def test_on_cuda_killed_and_resumed_equals_uninterrupted(
    start: Start, plain: Weights, tmp_path: Path, stage: int, offload_optimizer: bool
) -> None:
    ranks = min(2, torch.cuda.device_count())
    strategy = f"deepspeed_stage_{stage}"
    machine = {"accelerator": "gpu", "strategy": strategy, "offload_optimizer": offload_optimizer}
    start(tmp_path / "whole", ranks, **machine)
    start(tmp_path / "killed", ranks, kill_at=3, **machine)
    start(tmp_path / "killed", ranks, **machine)
    assert difference(tmp_path / "killed", load_file(tmp_path / "whole" / "weights.safetensors")) < 1e-4
    assert difference(tmp_path / "killed", plain) < 1e-3


@pytest.mark.slow  # where DeepSpeed's C++ is not built yet
@pytest.mark.usefixtures("offload")
def test_the_offloaded_optimizer_is_adamw() -> None:
    recipe = Recipe(learning_rate=1e-2, weight_decay=0.1)
    sharded = Machine(strategy="deepspeed_stage_2")
    start_N = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    ends = []
    for offloaded in (False, True):
        decayed, free = torch.nn.Parameter(start_N.clone()), torch.nn.Parameter(start_N.clone())
        groups = [{"params": [decayed], "weight_decay": recipe.weight_decay}, {"params": [free], "weight_decay": 0.0}]
        optimizer = build_optimizer(groups, recipe, replace(sharded, offload_optimizer=offloaded))
        gradient = torch.Generator().manual_seed(1)
        for _ in range(20):
            decayed.grad = torch.randn(1000, generator=gradient)
            free.grad = decayed.grad.clone()
            optimizer.step()
        ends.append((decayed.detach(), free.detach()))
    assert not torch.allclose(ends[0][0], ends[0][1], atol=1e-3)
    torch.testing.assert_close(ends[1], ends[0], atol=1e-5, rtol=0)


def test_targets_are_not_rounded_to_bfloat16() -> None:
    targets_M = torch.tensor([1 / 3])
    assert ShardedPrecision("bf16-true").convert_input(targets_M) is targets_M


def test_what_is_no_parameter_stays_float32() -> None:
    """Rotary frequencies in bfloat16 turn a token at place 2,000 by whole radians too far."""
    module = torch.nn.Module()
    module.register_buffer("frequencies", torch.tensor([1 / 3]))
    assert ShardedPrecision("bf16-true").convert_module(module).get_buffer("frequencies").dtype == torch.float32


def test_a_gradient_is_divided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(DeepSpeedPrecision, "backward", lambda self, *args, **kwargs: seen.update(kwargs))
    ShardedPrecision("32-true").backward(torch.tensor(1.0), None, None)
    assert seen == {"scale_wrt_gas": False}


LAUNCHERS = {
    "nobody": {},
    "a notebook server": {"WORLD_SIZE": "1"},
    "a shell inside an allocation": {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "interactive"},
    "torchrun": {"WORLD_SIZE": "8", "LOCAL_RANK": "3"},
    "srun": {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "train"},
    "torchrun, once per node by srun": {"SLURM_NTASKS": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "0"},
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launcher_must_start_as_many_processes_as_there_are_devices(
    monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    check_world_size(Machine(devices=4, num_nodes=2))
    if "8" in LAUNCHERS[launcher].values():
        with pytest.raises(ValueError, match=r"^trainer\.devices=4 x trainer\.num_nodes=1 are 4 .*=8; change"):
            check_world_size(Machine(devices=4))
    else:
        check_world_size(Machine(devices=4))
