"""The one entry point: compose the config, check it, run its task. `python run.py` is the whole job."""

import os
import sys
import traceback

os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to report() below, which says them in one line

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mprm import stages
from mprm.artifacts import is_rank_zero
from mprm.config import validate
from mprm.messages import explain

TASKS = {
    "experiment": stages.experiment,
    "select": stages.select,
    "train": stages.train,
    "evaluate": stages.evaluate,
    "score": stages.score,
    "export": stages.export,
    "measure": stages.measure,
    "report": stages.report,
    "pretrain": stages.pretrain,
}

BY_EVERY_RANK = ("experiment", "select", "train")  # the other tasks are the first rank's alone

exit_codes = [0]  # one for each run of a sweep; hydra.main returns none


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def run(raw: DictConfig) -> None:
    """One run. A failed run of a sweep is reported and the sweep goes on."""
    try:
        config = validate(raw, HydraConfig.get().runtime.choices)
        if is_rank_zero() or config.task in BY_EVERY_RANK:
            exit_codes.append(TASKS[config.task](config) or 0)
    except Exception as error:
        sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
        where = " ".join(HydraConfig.get().overrides.task) + ": " if sweeping else ""
        exit_codes.append(report(error, where, debug=raw.get("debug") is True))


def report(error: Exception, where: str, debug: bool) -> int:
    """Print the line that explains the error, or the traceback of a bug; return the exit code."""
    explained = explain(error)
    if explained is None or debug:
        traceback.print_exception(error)
    if explained is None:
        return 1
    print(f"mprm: {where}{explained[0]}", file=sys.stderr)
    return explained[1]


def main() -> int:
    try:
        run()
    except KeyboardInterrupt:
        print("mprm: interrupted; the same command resumes", file=sys.stderr)
        return 130
    except Exception as error:
        exit_codes.append(report(error, "", debug="debug=true" in sys.argv))
    return max(exit_codes)


if __name__ == "__main__":
    sys.exit(main())
