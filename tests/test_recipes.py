"""The experiments are the published runs, and every command in a header composes."""

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from mprm.config import Config
from mprm.main import open_loader
from mprm.stages.sweep import Composer, plan

REPOSITORY = Path(__file__).resolve().parents[1]
CONF, SWEEPS = REPOSITORY / "conf", REPOSITORY / "sweeps"
HEADERS = sorted([*CONF.glob("experiment/*.yaml"), *SWEEPS.glob("*.yaml")])
BACKBONES = {"internvl2_5_8b": {"max_tiles": 6}, "qwen2_5_vl_7b": {"min_pixels": 784, "max_pixels": 200_704}}
CLASSES = {"internvl2_5_8b": "InternVL", "qwen2_5_vl_7b": "Qwen2_5_VL"}

# arXiv 2602.04145: optimizer steps of one epoch, and overall scores, by ratio.
STEPS = {0.05: 55, 0.1: 110, 0.15: 165, 0.25: 275, 0.35: 385, 0.5: 550, 1.0: 1100}
SCORES = {
    ("internvl2_5_8b", "full"): [65.12],
    ("internvl2_5_8b", "random"): [63.34, 62.86, 63.27, 63.37, 63.52, 64.02],
    ("internvl2_5_8b", "bis"): [64.51, 65.46, 64.98, 65.46, 64.98, 65.00],
    ("qwen2_5_vl_7b", "full"): [65.57],
    ("qwen2_5_vl_7b", "random"): [53.54, 61.99, 59.82, 64.44, 64.77, 64.54],
    ("qwen2_5_vl_7b", "bis"): [64.42, 64.63, 65.29, 65.53, 65.69, 65.02],
}

Load = Callable[..., Config]


def header(path: Path) -> list[str]:
    """The lines of comment that a file begins with, without the package line."""
    lines = path.read_text(encoding="utf-8").removeprefix("# @package _global_\n").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line[1:] for line in lines[:end]]


def commands(path: Path) -> list[str]:
    """Commands in the header; what follows two blanks is their comment."""
    lines = (line.strip() for line in header(path))
    return [line.split("  ")[0] for line in lines if line.startswith("python run.py ")]


ALL = [(path, command) for path in HEADERS for command in commands(path)]


@pytest.fixture
def published(load: Load, tmp_path: Path) -> Callable[[Path], list[Config]]:
    """published(path): what the commands in that header compose to."""

    def published(path: Path) -> list[Config]:
        words = [shlex.split(command.replace("=DIR", f"={tmp_path}"))[2:] for command in commands(path)]
        assert all(f"experiment={path.stem}" in overrides for overrides in words)
        return [load(*overrides) for overrides in words]

    return published


@pytest.mark.parametrize(("backbone", "selector"), SCORES)
def test_the_published_runs_have_the_published_numbers(
    published: Callable[[Path], list[Config]], backbone: str, selector: str, tmp_path: Path
) -> None:
    configs = published(CONF / "experiment" / f"published_{backbone}_{selector}.yaml")
    assert [c.selector.ratio for c in configs] == ([1.0] if selector == "full" else list(STEPS)[:6])
    for config in configs:
        recipe, trainer, raw = config.recipe, config.trainer, config.raw
        assert (recipe.learning_rate, recipe.weight_decay, recipe.warmup) == (1e-5, 0.05, 0.05)
        assert (recipe.betas, recipe.eps, recipe.epochs, recipe.global_batch_size) == ([0.9, 0.999], 1e-8, 1, 512)
        assert (trainer.accelerator, trainer.devices, trainer.num_nodes) == ("gpu", 4, 1)
        assert (trainer.strategy, trainer.precision) == ("deepspeed_stage_3", "bf16-true")
        assert config.dataset.unsampled == "negative"
        assert raw.backbone._target_.rpartition(".")[2] == CLASSES[backbone]
        parts = (raw.backbone.vision, raw.backbone.projector, raw.backbone.language_model)
        assert parts == ("frozen", "trained", "trained")
        assert (raw.backbone.max_length, raw.backbone.checkpoint_layers) == (8192, 1)
        assert {key: raw.backbone[key] for key in BACKBONES[backbone]} == BACKBONES[backbone]
        assert (raw.objective._target_.rpartition(".")[2], raw.objective.tau) == ("Hard", 0.0)
        assert raw.dataset._target_ == "mprm.data.visualprm400k.VisualPRM400K"
        assert raw.benchmark.path == f"{tmp_path}/test.jsonl"
        assert (raw.dataset.root, raw.backbone.path) == (str(tmp_path), str(tmp_path))
        assert raw.selector.scope == "source"
    if selector == "bis":
        assert [config.raw.selector.alpha for config in configs] == [0.2, 0.2, 0.05, 0.05, 0.05, 0.05]


@pytest.mark.parametrize(("backbone", "selector"), SCORES)
def test_the_header_has_the_published_table(backbone: str, selector: str) -> None:
    path = CONF / "experiment" / f"published_{backbone}_{selector}.yaml"
    text = "\n".join(header(path))
    rows = re.findall(r"ratio (\d\.\d\d) +optimizer steps +(\d+) +overall (\d\d\.\d\d)", text)
    ratios = [1.0] if selector == "full" else list(STEPS)[:6]
    scores = SCORES[backbone, selector]
    expected = [(ratio, STEPS[ratio], score) for ratio, score in zip(ratios, scores, strict=True)]
    assert [(float(ratio), int(steps), float(score)) for ratio, steps, score in rows] == expected
    assert "four GPUs of 80 GB with ZeRO-3" in text
    assert "not timed, by this project" in text
    assert "objective.normalise=micro_batch" in text
    assert ("0.05 above" in text) == (selector == "bis")


def test_the_published_steps_follow_from_the_published_corpus() -> None:
    for ratio, steps in STEPS.items():
        assert steps == pytest.approx(565_096 * ratio / 512, rel=0.01)


def test_one_gpu_trains_adapters(published: Callable[[Path], list[Config]]) -> None:
    (config,) = published(CONF / "experiment" / "lora_internvl2_5_8b.yaml")
    assert (config.trainer.devices, config.trainer.strategy, config.trainer.precision) == (1, "auto", "bf16-mixed")
    backbone = config.raw.backbone
    assert (backbone.vision, backbone.projector, backbone.language_model) == ("frozen", "trained", "lora")
    assert config.recipe.global_batch_size == 512


def test_every_header_has_a_command() -> None:
    assert len(HEADERS) >= 10
    assert all(commands(path) for path in HEADERS)
    assert len(ALL) >= 30
    assert all("python" not in command.removeprefix("python run.py") for _, command in ALL)


def cells(words: list[str]) -> Iterator[list[str]]:
    """Overrides of every run of a command: `key=a,b` is one run each."""
    lists = [[f"{key}={choice}" for choice in value.split(",")] for key, _, value in (w.partition("=") for w in words)]
    return (list(cell) for cell in product(*lists))


def said(path: Path, command: str) -> str:
    """What the header says of the command."""
    (line,) = (line.strip() for line in header(path) if line.strip().split("  ")[0] == command)
    return line.removeprefix(command).strip()


@pytest.mark.parametrize(("path", "command"), ALL, ids=lambda value: getattr(value, "stem", value))
def test_every_command_in_a_header_composes_and_costs_what_it_says(
    load: Load, tmp_path: Path, path: Path, command: str
) -> None:
    cost = said(path, command)
    for place in ("DIR", "FILE"):
        command = command.replace(f"={place}", f"={tmp_path}")
    words = shlex.split(command)[2:]
    if words[0] != "-cd":
        runs = list(cells([word for word in words if word != "-m"]))
        assert len(runs) == 1 or "-m" in words
        assert all(load(*overrides).name for overrides in runs)
        return
    assert words[:2] == ["-cd", "sweeps"]
    assert words[2:4] == ["-cn", path.stem]
    loader = open_loader(CONF, SWEEPS)
    swept = loader.load_configuration(path.stem, [*words[4:], f"runs={tmp_path}"], RunMode.MULTIRUN)
    GlobalHydra.instance().clear()
    assert swept.hydra.mode == RunMode.MULTIRUN
    jobs = plan(Composer(loader, swept))
    assert len(jobs) == len({job.name for job in jobs}) > 1
    assert {job.state for job in jobs} == {"waiting"}, jobs
    if runs_said := re.search(r"(\d+) runs", cost):
        assert len(jobs) == int(runs_said[1])
    if work_said := re.search(r"([\d.]+) times the training on all data", cost):
        assert sum(job.work for job in jobs) == pytest.approx(float(work_said[1]))


def test_the_experiment_of_judges_runs_what_its_three_questions_compare(tmp_path: Path) -> None:
    loader = open_loader(CONF, None)
    composed = loader.load_configuration("config", ["experiment=egt", f"runs={tmp_path}"], RunMode.RUN)
    GlobalHydra.instance().clear()
    assert composed.hydra.mode == RunMode.MULTIRUN
    arms = [
        (type(job.selector).__name__, type(job.order).__name__)
        for job in plan(Composer(loader, composed)).values()
        if job
    ]
    assert arms == [("Entropy", "LowToHigh"), ("Entropy", "Shuffled"), ("Random", "Shuffled")]
