"""How Lightning spreads a training over devices: strategies, DeepSpeed's settings and optimizer, launchers, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from mprm.runs.artifacts import atomic_folder, write_text
from mprm.training.recipe import Machine, Recipe

# By SLURM, and the last one by submitit, which starts a job again.
SIGNALS_TO_END = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
INTERRUPTED = 130  # exit code
SUB_GROUP = 1_000_000_000  # numbers that ZeRO-3 updates at a time (DeepSpeed's default)


class ShardedPrecision(DeepSpeedPrecision):
    """DeepSpeed's precision, but targets and weights of the loss stay float32 (the tower casts its pixels itself).

    So do buffers: Lightning would cast the rotary frequencies and the metrics. The gradient is divided by the
    accumulated micro-batches once, by Lightning, and not by the engine again.
    """

    def convert_module(self, module: torch.nn.Module) -> torch.nn.Module:
        return module

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, tensor: Any, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """The engine's step, which leaves all as it is where the gradient is not finite."""
        taken = super().optimizer_step(optimizer, model, closure, **kwargs)
        if (norm := model.trainer.model.get_global_grad_norm()) is not None:
            model.note_gradient(float(norm))
        return taken


class Sharded(DeepSpeedStrategy):
    """DeepSpeed ZeRO as Lightning sets it up. A checkpoint is a folder of shards that is whole or not there. Activation
    checkpointing is the backbone's own."""

    def __init__(self, stage: int, offload_optimizer: bool) -> None:
        # Lightning's sub_group_size puts all parameters into one group, for whose step ZeRO-3 casts all gradients to
        # float32 at once; DeepSpeed's own default bounds that copy.
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            sub_group_size=SUB_GROUP,
            exclude_frozen_parameters=True,
        )
        assert isinstance(self.config, dict)
        # bfloat16 has 8 bits: in a sum of 32 micro-batches the last ones would be rounded away.
        self.config["data_types"] = {"grad_accum_dtype": "fp32"}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        # DeepSpeed's last file, `latest`, says nothing: rank 0 writes it while others may still write their shards.
        # Lightning takes rank 0's folder on every rank and ends in a barrier, so that the folder is whole when renamed.
        with atomic_folder(filepath) if self.is_global_zero else nullcontext(filepath) as folder:
            super().save_checkpoint(checkpoint, folder, storage_options)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        if len(list(Path(checkpoint_path).glob("checkpoint/*_optim_states.pt"))) != self.world_size:  # by rank
            if self.is_global_zero:
                make_universal(Path(checkpoint_path))
            self.barrier()
            self.deepspeed_engine._config.load_universal_checkpoint = True
        optimizer = self.optimizers[0]
        settings = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
        client_state = super().load_checkpoint(checkpoint_path, weights_only)
        for group, before in zip(optimizer.param_groups, settings, strict=True):
            # Universal ZeRO-3 gives every group the first one's weight decay; AdamW and its C++ twin have keys of their
            # own, which the other's checkpoint has not.
            group.update({**before, **group, "weight_decay": before["weight_decay"]})
        for state in optimizer.state.values():
            # Universal ZeRO-3 lets all groups share one step counter, which AdamW would raise once for each of them.
            state["step"] = deepcopy(state["step"])
        return client_state


def make_universal(checkpoint: Path) -> None:
    """Write the shards a second time, by parameter, which DeepSpeed loads on any number of devices.

    In a process of its own, as the conversion forks. Raises ValueError if it fails.
    """
    universal = checkpoint / "universal"
    if not universal.is_dir():
        with atomic_folder(universal) as folder:
            command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
            command += ["--input_folder", str(checkpoint / "checkpoint"), "--output_folder", str(folder)]
            converted = subprocess.run(command, capture_output=True, text=True)
            if converted.returncode:
                reason = (converted.stderr.strip() or "killed").splitlines()[-1]
                raise ValueError(f"{checkpoint} cannot be converted for other devices ({reason}); resume on as many")
    write_text(checkpoint / "latest_universal", universal.name)


def disconnect_ranks(strategy: Strategy | None) -> None:
    """Wait for the other ranks, then end the connections to them: a process that just exits with them may abort."""
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    n_groups = torch.distributed.distributed_c10d._world.group_count
    if isinstance(strategy, Sharded):
        import deepspeed

        deepspeed.comm.destroy_process_group()
    else:
        torch.distributed.destroy_process_group()
    # torchrun keeps one store for all groups of its processes, by their number, which begins at 0 again: the next
    # training would find the addresses of this one.
    torch.distributed.distributed_c10d._world.group_count = n_groups


def build_strategy(machine: Machine) -> str | Strategy:
    """The strategy by name. DDP on CPUs spawns its processes, also in a sweep, unless a launcher started them."""
    if machine.strategy == "ddp_cpu":
        if launched() is not None:
            return DDPStrategy(process_group_backend="gloo")
        return DDPStrategy(process_group_backend="gloo", start_method="spawn")
    if machine.is_deepspeed:
        return Sharded(int(machine.strategy[-1]), machine.offload_optimizer)
    return machine.strategy


def build_optimizer(groups: list[dict[str, Any]], recipe: Recipe, machine: Machine) -> torch.optim.Optimizer:
    """AdamW. Where its states are in CPU memory the update runs there too, in DeepSpeed's C++, built at first use."""
    betas = (recipe.betas[0], recipe.betas[1])
    if machine.is_deepspeed and machine.offload_optimizer:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=recipe.learning_rate, betas=betas, eps=recipe.eps, adamw_mode=True)
    fused = machine.is_fused or None  # None: as torch chooses
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, eps=recipe.eps, fused=fused)


def launched() -> tuple[str, int] | None:
    """The variable in which torchrun or srun says how many processes it started, and their number; None without one.

    torchrun goes first: it may have been started by srun, once for each node.
    """
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return "WORLD_SIZE", int(os.environ["WORLD_SIZE"])
    # Lightning's rule for a shell inside an allocation, where nobody started processes yet.
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return "SLURM_NTASKS", int(os.environ["SLURM_NTASKS"])
    return None


def cluster() -> list[SLURMEnvironment]:
    """Lightning's plugin under SLURM: without its own checkpoints, from which any later training would go on."""
    started = launched()
    return [SLURMEnvironment(auto_requeue=False)] if started is not None and started[0] == "SLURM_NTASKS" else []


def in_main_thread() -> bool:
    """The only one that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def forwarding_signals(trainer: pl.Trainer) -> Iterator[None]:
    """Pass signals on to ranks that this process spawns: it waits for them and trains nothing itself."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _MultiProcessingLauncher) or not in_main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, _: launcher.kill(number)) for number in SIGNALS_TO_END}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_world_size(machine: Machine) -> None:
    """Raises ValueError if a launcher started another number of processes than the machine has devices."""
    started = launched()
    if started is not None and started[1] != machine.world_size:
        raise ValueError(
            f"trainer.devices={machine.devices} x trainer.num_nodes={machine.num_nodes} are {machine.world_size} "
            f"processes, but the launcher started {started[0]}={started[1]}; change the launcher's number or the "
            "trainer's"
        )


def check_checkpoint(checkpoint: Path | None, machine: Machine) -> None:
    """Raises ValueError if the machine's strategy cannot load the checkpoint: DeepSpeed's stages have their own."""
    if checkpoint is None:
        return
    written = "no deepspeed strategy"
    if checkpoint.is_dir():
        written = f"deepspeed_stage_{2 if (checkpoint / 'checkpoint' / 'mp_rank_00_model_states.pt').is_file() else 3}"
    wanted = machine.strategy if machine.is_deepspeed else "no deepspeed strategy"
    if written != wanted:
        raise ValueError(
            f"trainer.strategy={machine.strategy} cannot resume {checkpoint}, which was written with {written}; "
            "resume with that, or remove the checkpoints folder to start again"
        )
