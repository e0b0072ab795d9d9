"""A multirun: its points are planned and checked before the first starts, run by a launcher of Hydra's, and counted.

What is known of a point lies in RUNS/sweep (mprm/runs/sweep_folder.py), whatever process runs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mprm.config import Config, bind, validate
from mprm.messages import explain
from mprm.runs.artifacts import read_json
from mprm.runs.run_folder import config_hash
from mprm.runs.sweep_folder import Point, lock_sweep, log_file, read_points, record, write_points
from mprm.stages import point
from mprm.stages.composer import PointComposer
from mprm.stages.grids import expand
from mprm.stages.progress import counts
from mprm.tasks import TASKS

DIED = "its process ended without a word (killed, or out of memory or of time)"


class GridSweeper(Sweeper):
    """The points of several grids beside each other, run by the launcher that is chosen.

    Every point is composed and checked before the first one starts. Points that ask for the same run are one; those
    that are finished are not launched again. It ends the process with exit code 2 if a point's config was refused, 1 if
    another one is not done.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Mapping[str, str] | None = None,
        grids: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.grids = [dict(params or {}) | dict(grid) for grid in grids or [{}]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives, and make the launcher."""
        self.composer = PointComposer(hydra_context.config_loader)
        self.master = config
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        point.in_sweeper = launcher == "basic"
        if point.in_sweeper:
            hydra_context.config_loader = self.composer  # type: ignore[assignment]
        if launcher.startswith("submitit"):
            import submitit

            # Hydra asks its jobs for their results in turn: the first that died would leave the others unheard.
            submitit.Job.results = lambda job: [job.exception()]  # type: ignore[assignment, list-item]
        self.engine = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run all points and report."""
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError(
                "a multirun is one process; leave torchrun out, and give every point its own process group with "
                "hydra/launcher=submitit_local hydra.launcher.tasks_per_node=N"
            )
        runs = Path(self.master.runs)
        with lock_sweep(runs):
            planned = self.plan(runs, arguments)
            refused = [one for one in planned if one.state == "failed"]
            if len(refused) == len(planned) and len({one.reason for one in refused}) == 1:
                raise ValueError(refused[0].reason)
            write_points(runs, planned)
            for one in refused:
                print(f"mprm: {one.label}: {one.reason}", file=sys.stderr)
            self._launch(runs, [one.overrides for one in planned if one.state == "waiting"])
            ended = read_points(runs)
            compared = self.master.task in ("experiment", "evaluate", "egt", "judge")
            if compared and any(one.state == "done" for one in ended):
                from mprm.reporting.tracking import publish_dashboard
                from mprm.stages.comparison import compare_runs

                compare_runs(runs, own=True)
                step_scorers = self.master.task in ("experiment", "evaluate")  # what the dashboard knows
                address = publish_dashboard(bind(self.master.logger), runs) if step_scorers else None
                if address is not None:
                    print(f"W&B dashboard: {address}", flush=True)
        print(f"{counts(ended)} -> {runs}", flush=True)
        if any(one.state != "done" for one in ended):
            sys.exit(2 if refused else 1)

    def plan(self, runs: Path, arguments: list[str]) -> list[Point]:
        """All points: waiting, done before, or failed because their config was refused."""
        expanded = {
            " ".join(overrides): overrides
            for overrides in expand(self.grids, arguments, self.composer.parser.parse_overrides, self.composer.is_group)
        }
        self.typed = [argument for argument in arguments if not argument.startswith("runs=")]  # the sweep's own
        everywhere = set.intersection(*(set(overrides) for overrides in expanded.values()))
        planned = []
        for text, overrides in expanded.items():
            label = " ".join(override for override in overrides if override not in everywhere) or text
            planned.append(self._planned(runs, text, label, overrides))
        self.overrides_of = expanded
        names = [one.name for one in planned]
        return [one for i, one in enumerate(planned) if one.name is None or one.name not in names[:i]]

    def _planned(self, runs: Path, text: str, label: str, overrides: list[str]) -> Point:
        try:
            composed = self.composer.load_sweep_config(self.master, overrides)
            choices = dict(composed.hydra.runtime.choices)
            config = validate(
                OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]), choices, self.typed
            )
            if Path(config.runs) != runs:
                raise ValueError(f"runs={config.runs} differs from the multirun's runs={runs}; it is not swept")
            if config.check:
                raise ValueError("check=true looks at one run; give it to the command of one point, without -m or -cn")
            check_launcher(config, str(choices["hydra/launcher"]), composed.hydra.launcher)
        except Exception as error:
            explained = explain(error)
            if explained is None:
                raise
            return Point(overrides=text, label=label, name=None, state="failed", reason=explained[0])
        if TASKS[config.task].ends is None or config.run is not None:
            return Point(overrides=text, label=label, name=None)
        state = "done" if finished(config) else "waiting"
        return Point(overrides=text, label=label, name=config.name, work=config.selector.ratio or 1.0, state=state)

    def _launch(self, runs: Path, waiting: list[str]) -> None:
        with nullcontext() if point.in_sweeper else _watching(runs):
            size = self.max_batch_size or max(1, len(waiting))
            for start in range(0, len(waiting), size):
                self._launch_batch(runs, waiting[start : start + size])

    def _launch_batch(self, runs: Path, batch: list[str]) -> None:
        """Run these points. One whose process dies has failed; the others are run nevertheless.

        joblib stops all its processes when one dies, and does not say which. If several were at work, each of their
        points is tried once more, alone: perhaps there was not memory enough for all of them at once.
        """
        stopped: Exception | None = None
        try:
            for returned in self.engine.launch([self.overrides_of[text] for text in batch], initial_job_idx=0):
                if isinstance(returned, JobReturn):
                    returned.return_value  # noqa: B018 - raises what run_point() itself raised
        except Exception as error:
            stopped = error
        states = {one.overrides: one.state for one in read_points(runs)}
        running = [text for text in batch if states[text] == "running"]
        waiting = [text for text in batch if states[text] == "waiting"]
        if stopped is None:
            died, again = running + waiting, []
        elif not running:
            raise ValueError(f"the launcher stopped: {' '.join(str(stopped).split())}")
        elif len(running) == 1:
            died, again = running, [waiting]
        else:
            died, again = [], [*([text] for text in running), waiting]
        for text in died:
            record(runs, text, "failed", f"{DIED}; its log: {log_file(runs, text)}")
        for text in running if not died else []:
            record(runs, text, "waiting")
        for points in again:
            if points:
                self._launch_batch(runs, points)


# Hydra takes a sweeper only from its own namespace, and finds it there by name.
GridSweeper.__module__ = "hydra._internal.core_plugins.mprm"
sys.modules[GridSweeper.__module__] = sys.modules[__name__]
Plugins.instance().register(GridSweeper)


def finished(config: Config) -> bool:
    """Has the run that the config asks for ended, so that its task would do nothing?"""
    ends = TASKS[config.task].ends
    assert ends is not None
    stage, file = ends
    folder = Path(config.runs) / str(config.name)
    if config.export is not None or config.redo is not None:
        return False
    try:
        known = read_json(folder / "stages.json")
        return known["config_hash"] == config_hash(config.raw) and stage in known["stages"] and (folder / file).exists()
    except (ValueError, KeyError, TypeError):  # not begun; or damaged, which the point itself will tell
        return False


def check_launcher(config: Config, launcher: str, settings: DictConfig) -> None:
    """Raises ValueError if the launcher's processes are not those that the trainer wants.

    Without submitit Lightning would start the command, and so the multirun, again for the further devices.
    """
    trainer = config.trainer
    if config.task not in ("experiment", "train", "egt", "sft", "curate", "rl"):
        return
    needed = {"tasks_per_node": trainer.devices}
    if launcher != "submitit_slurm" and trainer.accelerator == "gpu":
        needed["gpus_per_node"] = trainer.devices  # submitit_local hides all others
    flags = " ".join(f"hydra.launcher.{key}={value}" for key, value in needed.items())
    if launcher.startswith("submitit"):
        given = {key: settings[key] for key in needed}
        if given != needed:
            raise ValueError(f"trainer.devices={trainer.devices} does not fit hydra/launcher={launcher}; add {flags}")
        if settings.nodes != trainer.num_nodes:
            raise ValueError(
                f"trainer.num_nodes={trainer.num_nodes} differs from hydra.launcher.nodes={settings.nodes}; "
                "give both the same"
            )
    elif trainer.devices * trainer.num_nodes > 1 and trainer.strategy != "ddp_cpu":
        raise ValueError(
            f"trainer.devices={trainer.devices} in a multirun needs a process group for every point; add "
            f"hydra/launcher=submitit_local {flags}, or submitit_slurm"
        )


@contextmanager
def _watching(runs: Path) -> Iterator[None]:
    """Say what becomes of points that run in processes of their own."""
    known = {one.overrides: one.state for one in read_points(runs)}

    def look() -> None:
        for one in read_points(runs):
            if one.state != known[one.overrides]:
                known[one.overrides] = one.state
                news = {"running": "started", "waiting": "stopped with another one; it is tried again alone"}
                line = news.get(one.state) or point.outcome(runs, one.overrides)
                print(f"{one.label}: {line}", flush=True)

    try:
        with point.polling(look):
            yield
    finally:
        look()
