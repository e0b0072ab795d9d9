"""A sweep: its jobs are planned and checked before the first starts, run here or by a launcher of Hydra's, and counted.

What is known of a job lies in RUNS/sweep (mprm/runs/journal.py), whatever process runs it.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mprm.config import Config, bind, validate
from mprm.runs.artifacts import read_json
from mprm.runs.journal import State, SweepJob, begin_sweep, lock_sweep, read_jobs
from mprm.runs.run_folder import config_hash
from mprm.stages.sweep_job import Launcher, counts, run_here
from mprm.tasks import TASKS
from mprm.terminal import explain


def sweep(
    master: DictConfig,
    loader: ConfigLoader,
    attempt: Callable[[Config], tuple[int, str]],
    in_launcher: TaskFunction,
) -> int:
    """Run all jobs of a sweep and report; returns 0, or 2 if the config of one was refused, 1 if another is not done.

    Jobs that ask for the same run are one; those that are finished are not started again.

    master: the composed config of the command, whose hydra.sweeper holds the grids (conf/hydra/sweeper/grids.yaml);
    attempt: runs a checked config in this process: exit code, and the reason in one line where it is not 0;
    in_launcher: what a launcher's process is to do with a job's config.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            "a sweep is one process; leave torchrun out, and give every job its own process group with "
            "hydra/launcher=submitit_local hydra.launcher.tasks_per_node=N"
        )
    runs, composer = Path(master.runs), Composer(loader, master)
    with lock_sweep(runs):
        jobs = plan(composer)
        refused = [job for job in jobs if job.state == "failed"]
        if len(refused) == len(jobs) and len({job.reason for job in refused}) == 1:
            raise ValueError(refused[0].reason)
        begin_sweep(runs, list(jobs))
        for job in refused:
            print(f"mprm: {job.label}: {job.reason}", file=sys.stderr)
        waiting = {job.overrides: config for job, config in jobs.items() if job.state == "waiting"}
        if master.hydra.runtime.choices["hydra/launcher"] == "basic":
            for overrides, config in waiting.items():
                assert config is not None, overrides
                run_here(runs, overrides, partial(attempt, config))
        else:
            Launcher(master, loader, in_launcher).launch(list(waiting))
        ended = read_jobs(runs)
        compared = master.task in ("experiment", "evaluate", "egt", "judge")
        if compared and any(job.state == "done" for job in ended):
            from mprm.reporting.tracking import publish_dashboard
            from mprm.stages.standalone import compare_runs

            compare_runs(runs, own=True)
            step_scorers = master.task in ("experiment", "evaluate")  # what the dashboard knows
            address = publish_dashboard(bind(master.logger), runs) if step_scorers else None
            if address is not None:
                print(f"W&B dashboard: {address}", flush=True)
    print(f"{counts(ended)} -> {runs}", flush=True)
    return 0 if all(job.state == "done" for job in ended) else 2 if refused else 1


class Composer:
    """Gives the configs of a sweep's jobs that Hydra's loader would give, and reads the files once for all jobs that
    choose the same options of the groups: Hydra reads some twenty of them for every job, and applies the values last.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parse = OverridesParser.create(config_loader=loader).parse_overrides
        self.is_group = cache(lambda key: bool(loader.get_group_options(key)))
        # Pickled: OmegaConf is slow at copying.
        self._chosen = cache(lambda choices: pickle.dumps(loader.load_sweep_config(master, list(choices))))

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a job. Raises as Hydra's loader does."""
        parsed = self.parse(list(overrides))
        values = [one for one in parsed if not self.is_group(one.key_or_group)]
        config: DictConfig = pickle.loads(self._chosen(tuple(o.input_line for o in parsed if o not in values)))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        config.hydra.overrides.task = list(overrides)
        return config


def expand(
    grids: Sequence[Mapping[str, str]],
    arguments: Sequence[str],
    parse: Callable[[list[str]], list[Override]],
    is_group: Callable[[str], bool],
) -> list[tuple[str, ...]]:
    """The overrides of every job, grid by grid, each job once.

    A grid is the product of its keys' values, e.g. {selector: bis, selector.alpha: "0.05,0.2"}. An argument whose key
    no grid has applies to all of them. One whose key some have replaces the values there, and leaves the others alone;
    if the key is a config group, the grids keep those of their choices that it names.

    Raises ValueError if one of them is left without a job.
    """
    given = {override.get_key_element(): _values(override) for override in parse(list(arguments))}
    in_a_grid = {key for grid in grids for key in grid}
    jobs: dict[tuple[str, ...], None] = {}
    for grid in grids or [{}]:
        parsed = parse([f"{key}={value}" for key, value in grid.items()])
        values = {override.get_key_element(): _values(override) for override in parsed}
        for key, asked in given.items():
            if key in values and is_group(key):
                values[key] = [value for value in values[key] if value in asked]
            elif key in values or key not in in_a_grid:
                values[key] = asked
        jobs |= dict.fromkeys(product(*([f"{key}={value}" for value in found] for key, found in values.items())))
    chosen = [f"{key}={value}" for key, asked in given.items() if key in in_a_grid and is_group(key) for value in asked]
    if lost := [choice for choice in chosen if not any(choice in job for job in jobs)]:
        raise ValueError(f"{' '.join(lost)} leaves no job of this sweep; hydra.mode=RUN makes a single run of any")
    return list(jobs)


def _values(override: Override) -> list[str]:
    """The values of an override as texts, one if it is no sweep. Raises ValueError for a sweep without an end."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ValueError(f"'{override.input_line}' has no list of values; give key=a,b,c or key=range(first,end,step)")
    return list(override.sweep_string_iterator())


def plan(composer: Composer) -> dict[SweepJob, Config | None]:
    """All jobs with their checked configs: waiting, done before, or failed because their config was refused."""
    hydra, runs = composer.master.hydra, Path(composer.master.runs)
    arguments = OmegaConf.to_container(hydra.overrides.task)  # as typed: ${...} in one is not resolved
    assert isinstance(arguments, list)
    grids = [dict(hydra.sweeper.get("params") or {}) | dict(grid) for grid in hydra.sweeper.get("grids") or [{}]]
    expanded = expand(grids, arguments, composer.parse, composer.is_group)
    if composer.master.name is not None and len(expanded) > 1:
        raise ValueError(f"name={composer.master.name} is of one run, not of {len(expanded)} jobs; leave it out")
    typed = [argument for argument in arguments if not argument.startswith("runs=")]  # the sweep's own
    everywhere = set.intersection(*map(set, expanded))
    jobs: dict[SweepJob, Config | None] = {}
    for overrides in expanded:
        label = " ".join(override for override in overrides if override not in everywhere) or " ".join(overrides)
        job, config = SweepJob(overrides=overrides, label=label, name=None), None
        try:
            composed = composer.compose(overrides)
            choices, launcher = dict(composed.hydra.runtime.choices), composed.hydra.launcher
            with open_dict(composed):
                del composed["hydra"]
            config = validate(composed, choices, typed)
            if Path(config.runs) != runs:
                raise ValueError(f"runs={config.runs} differs from the sweep's runs={runs}; it is not swept")
            if config.check:
                raise ValueError("check=true looks at one run; give it to the command of one job, without -m or -cn")
            check_launcher(config, str(choices["hydra/launcher"]), launcher)
            if TASKS[config.task].leaves is not None and config.run is None:
                state: State = "done" if finished(config) else "waiting"
                job = replace(job, name=config.name, work=config.selector.ratio or 1.0, state=state)
        except Exception as error:
            explained = explain(error)
            if explained is None:
                raise
            job = replace(job, state="failed", reason=explained[0])
        if job.name is None or job.name not in [other.name for other in jobs]:
            jobs[job] = config
    return jobs


def finished(config: Config) -> bool:
    """Has the run that the config asks for ended, so that its task would do nothing?"""
    task, folder = TASKS[config.task], Path(config.runs) / str(config.name)
    assert task.leaves is not None
    if config.export is not None or config.redo is not None or not (folder / task.leaves).exists():
        return False
    try:
        known = read_json(folder / "stages.json")
        return known["config_hash"] == config_hash(config.raw) and task.stages[-1] in known["stages"]
    except (ValueError, KeyError, TypeError):  # not begun; or damaged, which the job itself will tell
        return False


def check_launcher(config: Config, launcher: str, settings: DictConfig) -> None:
    """Raises ValueError if the launcher's processes are not those that the trainer wants.

    Without submitit Lightning would start the command, and so the sweep, again for the further devices.
    """
    trainer = config.trainer
    if config.task not in ("experiment", "train", "egt", "sft", "curate", "rl", "reward_model"):
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
            f"trainer.devices={trainer.devices} in a sweep needs a process group for every job; add "
            f"hydra/launcher=submitit_local {flags}, or submitit_slurm"
        )
