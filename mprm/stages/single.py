"""Tasks beside the pipeline: on a model or a file of its own, without a run folder."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from time import monotonic

from omegaconf import DictConfig, OmegaConf

from mprm.config import Config, component, config_of_run
from mprm.runs.run_folder import CHECKOUT
from mprm.stages.devices import load_backbone
from mprm.stages.judgements import RL, SFT
from mprm.stages.outputs import content, is_made, remember
from mprm.tasks import GROUPS, JUDGE_TASKS
from mprm.terminal import say, say_next


def export(cfg: Config) -> None:
    """A trained run as a folder that other software loads."""
    from mprm.backbones.loading import PROMPT
    from mprm.training.checkpoint import load_checkpoint, load_weights
    from mprm.training.export import export as write

    if cfg.run is None or cfg.output is None:
        raise ValueError("task=export needs run=runs/NAME and output=DIR; format=hf or original")
    trained = config_of_run(Path(cfg.run))
    weights = sorted(Path(cfg.run).glob("**/weights.safetensors"))
    settings = [*map(content, weights), cfg.checkpoint, content(cfg.checkpoint), cfg.format]
    if is_made(cfg, "output", settings, [cfg.run, cfg.checkpoint, trained.backbone.folder()], mark=PROMPT):
        return
    started = monotonic()
    processor, model = load_backbone(trained)
    folder = Path(cfg.run)
    if trained.task in JUDGE_TASKS:
        model.speak()
        folder = folder / (RL if (folder / RL / "weights.safetensors").is_file() else SFT)
    if cfg.checkpoint is None:
        load_weights(model, folder / "weights.safetensors")
    else:
        load_checkpoint(model, Path(cfg.checkpoint))
    write(model, processor, trained.backbone, Path(cfg.output), cfg.format)
    remember(cfg, "output", settings)
    say(f"wrote {cfg.output} in {monotonic() - started:.1f} s")
    if trained.task in JUDGE_TASKS:
        say_next("task=report", f"runs={folder.parent.parent}")
    else:
        scores = f"{cfg.output}_scores.jsonl"
        say_next("task=score", f"run={cfg.output}", f"input={trained.benchmark.path}", f"output={scores}")


def choices(cfg: Config) -> None:
    """Print every choice of every group as its file has it, and the fields that the file leaves out."""
    for path in sorted((CHECKOUT / "conf").glob("*/*.yaml")):
        print(f"\n{path.parent.name}={path.stem}")
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "_target_" not in line]
        print("".join(f"    {line}\n" for line in lines if not line.startswith("# @package")), end="")
        root = OmegaConf.load(path)
        assert isinstance(root, DictConfig)
        written = {path.parent.name: root} if "_target_" in root else root
        for group, node in written.items():
            if group in GROUPS and "_target_" in node:
                left_out = [field for field in fields(component(node._target_, str(group))) if field.name not in node]
                for field in left_out:
                    default = field.default if field.default_factory is MISSING else field.default_factory()
                    print(f"    +{group}.{field.name}={default}")


def report(cfg: Config) -> None:
    """Compare all finished runs below `runs`."""
    from mprm.stages.comparison import compare_runs

    started = monotonic()
    compare_runs(Path(cfg.runs))
    say(f"compared in {monotonic() - started:.1f} s")
    say_next("task=sample", "output=candidates.jsonl")


def measure(cfg: Config) -> None:
    """Metrics of anybody's predictions."""
    from mprm.metrics.evaluate import measure as measured
    from mprm.metrics.predictions import read_predictions
    from mprm.metrics.results import write_results

    if cfg.predictions is None or cfg.output is None:
        raise ValueError("task=measure needs predictions=FILE and output=FILE.json; threshold=0.5 or searched")
    settings = [content(cfg.predictions), cfg.threshold]
    if is_made(cfg, "output", settings, [cfg.predictions]):
        return
    results = measured(read_predictions(cfg.predictions), cfg.threshold)
    write_results(cfg.output, results)
    remember(cfg, "output", settings)
    (at,) = results.thresholds.values()
    say(
        f"{results.n_solutions} solutions at threshold {at.threshold:.4f}: overall_step_weighted_macro_f1 "
        f"{at.overall_step_weighted_macro_f1.value:.4f}, pooled_macro_f1 {at.pooled_macro_f1.value:.4f}, "
        f"auc {at.auc_words()}; wrote {cfg.output}"
    )
