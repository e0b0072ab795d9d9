"""What several tasks need: the console, the devices and the backbone."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

from mprm.config import Config

console = Console(width=None if sys.stdout.isatty() else 120)  # a log file has no width of its own


def device_of(cfg: Config) -> str:
    return "cuda" if cfg.trainer.accelerator == "gpu" else "cpu"


def check_devices(cfg: Config) -> None:
    """Raises ValueError if the trainer wants more CUDA devices than there are."""
    import torch

    if cfg.trainer.accelerator == "gpu" and torch.cuda.device_count() < cfg.trainer.devices:
        count = torch.cuda.device_count()
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}, but this machine has {count} CUDA devices; try trainer=cpu"
        )


def load_backbone(cfg: Config) -> tuple[Any, Any]:
    """Processor and step model, without transformers' progress bars."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(cfg.seed)  # adapters, and a mark drawn at random
    return cfg.backbone.load()
