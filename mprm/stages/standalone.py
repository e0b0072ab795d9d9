"""Tasks beside the pipeline: on a model or a file of its own, without a run folder."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from time import monotonic

from omegaconf import DictConfig, OmegaConf

from mprm.config import Config, component, config_of_run
from mprm.runs.config_hash import CHECKOUT
from mprm.runs.sweep_state import read_jobs
from mprm.stages.models import load_backbone
from mprm.stages.outputs import Output, content
from mprm.tasks import GROUPS, JUDGE_TASKS
from mprm.terminal import console, say, say_next


def export(cfg: Config) -> None:
    """A trained run as a folder that other software loads."""
    from mprm.backbones.loading import PROMPT
    from mprm.training.checkpoint import export as write
    from mprm.training.checkpoint import load_checkpoint, load_weights

    folder = Path(str(cfg.run))
    trained = config_of_run(folder)
    weights = sorted(folder.glob("**/weights.safetensors"))
    settings = [*map(content, weights), cfg.checkpoint, content(cfg.checkpoint), cfg.format]
    output = Output(cfg, "output", settings, [cfg.run, cfg.checkpoint, trained.backbone.folder()], mark=PROMPT)
    if output.is_made():
        return
    started = monotonic()
    processor, model = load_backbone(trained)
    if trained.task in JUDGE_TASKS:
        folder /= "rl" if (folder / "rl" / "weights.safetensors").is_file() else "sft"
    if cfg.checkpoint is None:
        load_weights(model, folder / "weights.safetensors")
    else:
        load_checkpoint(model, Path(cfg.checkpoint))
    write(model, processor, trained.backbone, output.target, cfg.format)
    output.remember()
    say(f"wrote {cfg.output} in {monotonic() - started:.1f} s")
    if trained.task in JUDGE_TASKS:
        say_next("task=report", f"runs={folder.parent.parent}")
    else:
        scores = f"{cfg.output}_scores.jsonl"
        read_by_itself = (output.target / "config.json").is_file()  # not a backbone of one's own
        run = cfg.output if read_by_itself else cfg.run
        say_next("task=score", f"run={run}", f"input={trained.benchmark.path}", f"output={scores}")


def choices(cfg: Config) -> None:
    """Print every choice of every group as its file has it, and the fields that the file leaves out."""
    for path in sorted((CHECKOUT / "mprm" / "conf").glob("*/*.yaml")):
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
    started = monotonic()
    compare_runs(Path(cfg.runs))
    say(f"compared in {monotonic() - started:.1f} s")
    say_next("task=sample", "output=candidates.jsonl")


def compare_runs(runs: Path, own: bool = False) -> None:
    """Write the comparison of the finished runs below `runs`, and print it.

    own: of the last sweep's jobs alone, whatever else lies in the folder.
    """
    from mprm.reporting.comparison import write_comparison
    from mprm.reporting.settings import compare, run_folders

    folders, jobs = run_folders(runs), read_jobs(runs)
    if own:
        names = {job.name for job in jobs}
        folders = [folder for folder in folders if folder.name in names]
    say(f"wrote {write_comparison(runs, compare(folders, jobs), console())}")


def measure(cfg: Config) -> None:
    """Metrics of anybody's predictions."""
    from mprm.metrics.evaluate import measure as measured
    from mprm.metrics.predictions import read_predictions
    from mprm.metrics.results import write_results

    output = Output(cfg, "output", [content(cfg.predictions), cfg.threshold], [cfg.predictions])
    if output.is_made():
        return
    results = measured(read_predictions(str(cfg.predictions)), cfg.threshold)
    write_results(output.target, results)
    output.remember()
    (at,) = results.thresholds.values()
    say(
        f"{results.n_solutions} solutions at threshold {at.threshold:.4f}: overall_step_weighted_macro_f1 "
        f"{at.overall_step_weighted_macro_f1.value:.4f}, pooled_macro_f1 {at.pooled_macro_f1.value:.4f}, "
        f"auc {at.auc_words()}; wrote {cfg.output}"
    )
