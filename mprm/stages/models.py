"""The models that stages use: where they run, where they come from, and what their scores depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import weights_written
from mprm.tasks import JUDGE_TASKS
from mprm.terminal import tracked

if TYPE_CHECKING:
    from mprm.inference.score_file import Score
    from mprm.inference.scoring import OpenImages
    from mprm.scorer import StepScorer


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


def device(cfg: Config) -> str:
    """As torch names it, the trainer's."""
    return "cuda" if cfg.trainer.accelerator == "gpu" else "cpu"


def max_tokens(cfg: Config) -> int:
    """Of a forward pass that keeps nothing for a backward pass."""
    return 2 * cfg.trainer.max_tokens


def load_backbone(cfg: Config) -> tuple[Any, Any]:
    """Processor and step model, which writes if it is a judge; what is drawn at random is drawn by the seed."""
    import torch

    torch.manual_seed(cfg.seed)  # adapters, and a mark drawn at random
    processor, model = cfg.backbone.load()
    if cfg.task in JUDGE_TASKS:
        model.speak()
    return processor, model


def load_scorer(cfg: Config, run: str | None) -> StepScorer:
    """The model of a run or an exported folder; without one, the backbone as it lies in its folder."""
    from mprm.scorer import StepScorer

    if run is not None:
        return StepScorer.from_pretrained(run, device(cfg), max_tokens=max_tokens(cfg))
    return StepScorer(*load_backbone(cfg), cfg.backbone.max_length, max_tokens(cfg), device(cfg))


def scoring(scorer: StepScorer, open_images: OpenImages, doing: str) -> Score:
    """Scores solutions as they come, with a progress bar."""
    return lambda solutions: tracked(scorer.scored(solutions, open_images), len(solutions), doing)


def open_by(image_path: Callable[[str], Path]) -> OpenImages:
    """Opens images by the names that a reader's image_path knows."""
    from mprm.batching.examples import open_images

    return lambda names: open_images([image_path(name) for name in names])


def identity(cfg: Config, run: str | None) -> dict[str, Any]:
    """What the scores depend on: the model's folder, when its weights were written, and the options of the backbone."""
    folder = Path(run or str(cfg.backbone.path)).resolve()
    backbone = None if run else asdict(cfg.backbone)
    return {"folder": str(folder), "written": weights_written(folder), "backbone": backbone}


def models_of(cfg: Config) -> dict[str, str | None]:
    """The models by name: the one that run= names, or all trained runs in that folder; without run= the backbone."""
    if cfg.run is None:
        return {Path(str(cfg.backbone.path)).name: None}
    folder = Path(cfg.run)
    if (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return {folder.resolve().name: cfg.run}
    runs = [path.parent for path in sorted(folder.glob("*/weights.safetensors"))]
    if not runs:
        raise ValueError(f"run={cfg.run} is no run and holds none that is trained; give runs/NAME or a folder of runs")
    return dict(zip(short_names([run.name for run in runs]), map(str, runs), strict=True))


def short_names(names: list[str]) -> list[str]:
    """Names of run folders without the parts that all have, and without the hash where they differ without it."""
    parts = [name.split("-") for name in names]
    common = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    short = [[part for part in of_one if part not in common] for of_one in parts]
    without_hash = ["-".join(of_one[:-1]) for of_one in short]
    unique = len(set(without_hash)) == len(names) and all(without_hash)
    return without_hash if unique and len(names) > 1 else ["-".join(of_one) for of_one in short]
