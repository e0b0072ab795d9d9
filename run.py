"""The one entry point: compose the config, check it, run its task. `python run.py` is the whole job."""

import argparse
import os
import sys
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path

os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to report() below, which says them in one line

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.completion_plugin import CompletionPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mprm.config import validate
from mprm.messages import explain, refuse_flags
from mprm.runs.artifacts import is_rank_zero
from mprm.stages.point import run_point
from mprm.stages.sweep import GridSweeper as GridSweeper  # Hydra finds it when it is imported
from mprm.tasks import TASKS

HERE = Path(__file__).resolve().parent

exit_codes = [0]  # of the run; hydra.main returns none


@hydra.main(version_base="1.3", config_path=str(HERE / "conf"), config_name="config")
def run(raw: DictConfig) -> None:
    """One run, or one point of a multirun, whose failure is recorded there and does not stop the others."""
    chosen = HydraConfig.get()
    if chosen.mode == RunMode.MULTIRUN:
        overrides = OmegaConf.to_container(chosen.overrides.task)  # as typed: ${...} in one is not resolved
        assert isinstance(overrides, list)
        run_point(Path(raw.runs), " ".join(overrides), partial(attempt, raw))
    else:
        exit_codes.append(attempt(raw)[0])


def attempt(raw: DictConfig) -> tuple[int, str]:
    """Run the task: exit code, and the line that explains it where it is not 0."""
    try:
        chosen = HydraConfig.get()
        typed = chosen.overrides.task if chosen.mode == RunMode.RUN else []  # a multirun's were looked at before
        config = validate(raw, chosen.runtime.choices, typed)
        if raw.run == "latest" and is_rank_zero():
            print(f"run=latest is {config.run}")
        if is_rank_zero() or TASKS[config.task].every_rank:
            module, _, name = TASKS[config.task].function.partition(".")
            exit_code = getattr(import_module(f"mprm.stages.{module}"), name)(config) or 0
            return exit_code, f"task={config.task} ended with exit code {exit_code}" if exit_code else ""
    except Exception as error:
        return report(error, debug=raw.get("debug") is True)
    return 0, ""


def report(error: Exception, debug: bool) -> tuple[int, str]:
    """Print the line that explains the error, or the traceback of a bug; return the exit code and the line."""
    explained = explain(error)
    if explained is None or debug:
        traceback.print_exception(error)
    if explained is None:
        return 1, f"{type(error).__name__}: {' '.join(str(error).split())}"
    print(f"mprm: {explained[0]}", file=sys.stderr)
    return explained[1], explained[0]


def complete_task(
    self: CompletionPlugin, word: str, config_name: str | None, words: list[str]
) -> tuple[list[str], bool]:
    """What Hydra's completion offers for a word, and for task= all tasks: to Hydra it is a key with one value."""
    if word.startswith("task="):
        return [f"task={name}" for name in TASKS if f"task={name}".startswith(word)], True
    return complete(self, word, config_name, words)


complete = CompletionPlugin._query_config_groups


def main() -> int:
    argparse.ArgumentParser.error = refuse_flags  # type: ignore[assignment, method-assign]
    CompletionPlugin._query_config_groups = complete_task  # type: ignore[method-assign]
    for number, flag in enumerate(sys.argv[:-1]):  # -cd sweeps from any folder
        beside = HERE / sys.argv[number + 1]
        if flag in ("-cd", "--config-dir") and not Path(sys.argv[number + 1]).is_dir() and beside.is_dir():
            sys.argv[number + 1] = str(beside)
    try:
        run()
    except KeyboardInterrupt:
        print("mprm: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except Exception as error:
        exit_codes.append(report(error, debug="debug=true" in sys.argv)[0])
    return max(exit_codes)


if __name__ == "__main__":
    sys.exit(main())
