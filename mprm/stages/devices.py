"""What several tasks need: the devices, the backbone and its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.terminal import tracked

if TYPE_CHECKING:
    from mprm.backbones.base import Processor, StepModel
    from mprm.inference.scoring import ScoreRequest
    from mprm.metrics.step_scores import NotScored, StepScores


def check_devices(cfg: Config) -> None:
    """Raises ValueError if the trainer wants more CUDA devices than there are, or DeepSpeed without any."""
    import torch

    if cfg.trainer.accelerator == "gpu" and torch.cuda.device_count() < cfg.trainer.devices:
        count = torch.cuda.device_count()
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}, but this machine has {count} CUDA devices; try trainer=cpu"
        )
    if cfg.trainer.strategy.startswith("deepspeed") and cfg.trainer.accelerator != "gpu":
        raise ValueError(f"trainer.strategy={cfg.trainer.strategy} needs trainer.accelerator=gpu; try trainer=ddp_cpu")


def check_before_selection(cfg: Config) -> None:
    """Raises ValueError for what a training will want and has not: devices, the backbone's folder."""
    if not cfg.check:  # it needs none
        check_devices(cfg)
    cfg.backbone.folder()


def load_backbone(cfg: Config) -> tuple[Any, Any]:
    """Processor and step model; what is drawn at random is drawn by the seed."""
    import torch

    torch.manual_seed(cfg.seed)  # adapters, and a mark drawn at random
    return cfg.backbone.load()


def predict(
    cfg: Config,
    model: StepModel,
    processor: Processor,
    solutions: Sequence[ScoreRequest],
    image_path: Callable[[str], Path],
    description: str,
) -> dict[str, StepScores | NotScored]:
    """Step scores by solution id, or why there are none, on the trainer's device."""
    from mprm.batching.examples import open_images
    from mprm.inference.scoring import score

    scored = score(
        model,
        processor,
        solutions,
        lambda names: open_images([image_path(name) for name in names]),
        cfg.backbone.max_length,
        2 * cfg.trainer.max_tokens,  # nothing is kept for a backward pass
        "cuda" if cfg.trainer.accelerator == "gpu" else "cpu",
    )
    return dict(tracked(scored, len(solutions), description))
