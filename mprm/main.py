"""The one entry point: compose the config, check it, run its task. `python run.py` and `mprm` are the whole job."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from string import Template

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.completion_plugin import CompletionPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mprm.config import Config, validate
from mprm.runs.artifacts import is_rank_zero
from mprm.stages.ranks import together
from mprm.tasks import TASKS
from mprm.terminal import command, explain, refuse_flags

PACKAGE = Path(__file__).resolve().parent
VERSION_BASE = "1.3"  # of Hydra, whose defaults are taken


def main() -> int:
    """Do what the command line says; returns the exit code."""
    for number, flag in enumerate(sys.argv[:-1]):  # -cd sweeps from any folder
        if flag in ("-cd", "--config-dir") and not Path(sys.argv[number + 1]).is_dir():
            beside = PACKAGE / sys.argv[number + 1]
            sys.argv[number + 1] = str(beside if beside.is_dir() else sys.argv[number + 1])
    try:
        parser = get_args_parser()
        parser.error = partial(refuse_flags, parser)  # type: ignore[method-assign]
        flags = parser.parse_args()
        if flags.help:
            print(help_text(PACKAGE / "conf", *([Path(flags.config_dir)] if flags.config_dir else [])), end="")
        elif flags.hydra_help or flags.cfg or flags.info or flags.shell_completion:
            show()
        else:
            return run(flags)
        return 0
    except KeyboardInterrupt:
        print("mprm: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except Exception as error:
        return report(error, debug="debug=true" in sys.argv)[0]
    finally:
        GlobalHydra.instance().clear()  # for whoever composes in this process after it


def run(flags: argparse.Namespace) -> int:
    """Run the task, or the sweep, that is asked for; returns the exit code."""
    loader = open_loader(flags.config_path or PACKAGE / "conf", flags.config_dir)

    def compose(mode: RunMode) -> DictConfig:
        return loader.load_configuration(flags.config_name or "config", flags.overrides, mode)

    swept = any(override.is_sweep_override() for override in OverridesParser.create().parse_overrides(flags.overrides))
    config = compose(RunMode.MULTIRUN if swept or flags.multirun else RunMode.RUN)
    if flags.multirun or config.hydra.mode == RunMode.MULTIRUN:
        from mprm.stages.sweep import sweep

        HydraConfig.instance().set_config(config)  # launchers read it
        return sweep(config, loader, run_checked, run_launched)
    if swept:
        compose(RunMode.RUN)  # raises Hydra's error, which says how to sweep
    HydraConfig.instance().set_config(config)
    return run_task(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), flags.overrides)[0]


def open_loader(configs: str | Path, more: str | Path | None) -> ConfigLoader:
    """Hydra's loader of a folder of configs, and of another one with more choices for the groups, and sweeps."""
    hydra.version.setbase(VERSION_BASE)
    path = create_config_search_path(os.path.abspath(configs))
    if more is not None:
        if not Path(more).is_dir():
            raise ValueError(f"-cd {more} is not a folder; give the one that your configs are in")
        path.prepend("command-line", f"file://{os.path.abspath(more)}", "schema")
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2("mprm", path).config_loader


def run_launched(raw: DictConfig) -> None:
    """One job of a sweep in a launcher's process; its failure is recorded there and does not stop the others."""
    from mprm.stages.sweep_job import run_in_launcher

    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task)  # as typed: ${...} in one is not resolved
    assert isinstance(overrides, list)
    run_in_launcher(Path(raw.runs), tuple(map(str, overrides)), partial(run_task, raw))


def run_task(raw: DictConfig, typed: Sequence[str] = ()) -> tuple[int, str]:
    """Run the task: exit code, and the line that explains it where it is not 0.

    typed: the overrides of which the task must use every one.
    """
    try:
        config = validate(raw, HydraConfig.get().runtime.choices, typed)
        if raw.run == "latest" and is_rank_zero():
            print(f"run=latest is {config.run}")
    except Exception as error:
        return report(error, debug=raw.get("debug") is True)
    return run_checked(config)


def run_checked(config: Config) -> tuple[int, str]:
    """run_task() with a config that was checked before."""
    try:
        task = TASKS[config.task]
        with together(config) if task.scores else nullcontext():
            exit_code = (task.load()(config) if is_rank_zero() or task.every_rank else 0) or 0
    except Exception as error:
        return report(error, debug=config.debug)
    return exit_code, f"task={config.task} ended with exit code {exit_code}" if exit_code else ""


def report(error: Exception, debug: bool) -> tuple[int, str]:
    """Print the line that explains the error, or the traceback of a bug; return the exit code and the line."""
    explained = explain(error)
    if explained is None or debug:
        traceback.print_exception(error)
    if explained is None:
        return 1, f"{type(error).__name__}: {' '.join(str(error).split())}"
    print(f"mprm: {explained[0]}", file=sys.stderr)
    return explained[1], explained[0]


def help_text(*folders: Path) -> str:
    """What --help prints; the choices of every group are the files in these folders of configs."""
    choices: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            choices.setdefault(path.parent.name, set()).add(path.stem)
    groups = "".join(f"{group}: {', '.join(sorted(choices[group]))}\n" for group in sorted(choices))
    tasks = "\n".join(f"    {name:13}  {task.does}" for name, task in TASKS.items())
    text = Template((PACKAGE / "help.txt").read_text(encoding="utf-8"))
    return text.substitute(command=command(), tasks=tasks, groups=groups)


def show() -> None:
    """What Hydra shows, and completes: --hydra-help, --cfg, --info, --shell-completion."""
    complete = CompletionPlugin._query_config_groups

    def complete_task(
        self: CompletionPlugin, word: str, config_name: str | None, words: list[str]
    ) -> tuple[list[str], bool]:
        """For a word that begins with task= all tasks: to Hydra it is a key with one value."""
        if word.startswith("task="):
            return [f"task={name}" for name in TASKS if f"task={name}".startswith(word)], True
        return complete(self, word, config_name, words)

    CompletionPlugin._query_config_groups = complete_task  # type: ignore[method-assign]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, and main() says them in one line
    hydra.main(version_base=VERSION_BASE, config_path=str(PACKAGE / "conf"), config_name="config")(run_task)()
