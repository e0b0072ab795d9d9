"""Where metrics go beside the run folder. metrics.jsonl is always written by the training; W&B mirrors it."""

import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mprm.reporting.tables import component
from mprm.runs.artifacts import write_text
from mprm.runs.sweep_folder import FOLDER as SWEEP

log = logging.getLogger(__name__)

ONLINE_TIMEOUT = 30.0  # seconds to wait for the W&B server before a run goes on offline
UPLOAD_TIMEOUT = 120.0  # seconds to wait at the end of a run for what is not uploaded yet; it stays on disk

Mode = Literal["online", "offline"]


class Tracker:
    """One run's mirror. A failure in it is told once, ends the mirroring, and never reaches the training.

    A `with` block that an exception leaves marks the W&B run as failed; finish() marks it as finished. It can be
    pickled into a process that the training spawns, and mirrors from there.
    """

    def __init__(self, run: Any = None) -> None:
        self.run = run  # a wandb run; None mirrors nothing

    def log(self, metrics: Mapping[str, float]) -> None:
        """Mirror one line of metrics.jsonl; its "step" (optimizer steps) is the horizontal axis."""
        self._try(lambda run: run.log(dict(metrics)))

    def finish(self, summary: Mapping[str, Any], evaluated: Path | None = None) -> None:
        """Store the numbers of a stage and close the mirror.

        evaluated: the folder of an evaluated run, of which the results, figures and manifest are stored too.
        """
        self._try(lambda run: run.summary.update(dict(summary)))
        if evaluated is not None:
            from mprm.reporting.tracked import store_results  # matplotlib

            self._try(lambda run: store_results(run, evaluated))
        self._close(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close(0 if error is None else 1)

    def _close(self, exit_code: int) -> None:
        self._try(lambda run: run.finish(exit_code=exit_code))
        self.run = None

    def _try(self, action: Callable[[Any], object]) -> None:
        if self.run is None:
            return
        try:
            action(self.run)
        except Exception as error:  # whatever W&B raises, hours of training are worth more
            log.warning("W&B stopped (%s); the run goes on, all numbers are in its run folder", one_line(error))
            self.run = None


@dataclass(frozen=True, kw_only=True)
class Local:
    """The files of the run folder and nothing more."""

    def start(self, folder: Path, config: dict[str, Any], job_type: str = "train") -> Tracker:
        """Start mirroring the run in `folder`."""
        return Tracker()

    def publish_dashboard(self, runs: Path) -> str | None:
        """Publish a comparison of the runs below `runs`; the address, or None where there is none."""
        return None


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases. Without a login or a network the run is kept offline; `wandb sync` uploads it later.

    project, entity, tags: as in wandb.init; tags for selector, backbone, ratio and seed come by themselves. offline:
    never talk to the server. group: None stands for the name of the runs folder if that is a sweep's.
    """

    project: str = "mprm"
    entity: str | None = None
    offline: bool = False
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("logger.project='' names no project; give a name, e.g. logger.project=mprm")

    def start(self, folder: Path, config: dict[str, Any], job_type: str = "train") -> Tracker:
        """Start mirroring the run in `folder`, or continue the mirror that the folder already has.

        config: the plain, resolved config. job_type: groups runs on the dashboard, e.g. the selector's name.
        """
        # What is waiting for `wandb sync` and what follows it are uploaded together, in their order.
        offline = self.offline or waits_for_sync(folder)
        failures = {
            "online": ("is offline for this run", f"`wandb sync {folder}/wandb/offline-run-*` uploads it later"),
            "offline": ("could not start", "the run goes on, all numbers are in its run folder"),
        }
        modes: tuple[Mode, ...] = ("offline",) if offline else ("online", "offline")
        for mode in modes:
            try:
                return Tracker(self._init(folder, config, job_type, mode))
            except Exception as error:  # no login, no network, no rights: the training must still start
                what, then = failures[mode]
                log.warning("W&B %s (%s); %s", what, one_line(error), then)
                _tear_down()  # the failed attempt still holds the run's id
        return Tracker()

    def publish_dashboard(self, runs: Path) -> str | None:
        """Publish a comparison of the runs below `runs`; the address, or None where there is none."""
        if self.offline:
            return None
        from mprm.reporting.dashboard import publish

        return publish(self.entity, self.project, self.group or sweep_name(runs), runs)

    def _init(self, folder: Path, config: dict[str, Any], job_type: str, mode: Mode) -> Any:
        import wandb

        if wandb.run is not None:
            _tear_down()  # of a run that failed; W&B would write this one into it
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ValueError("no login: run `wandb login` or set WANDB_API_KEY")
        settings = wandb.Settings(
            init_timeout=ONLINE_TIMEOUT, finish_timeout=UPLOAD_TIMEOUT, silent=True, console="off", disable_git=True
        )
        run = wandb.init(
            mode=mode,
            settings=settings,
            project=self.project,
            entity=self.entity,
            group=self.group or sweep_name(folder.parent),
            tags=list(dict.fromkeys([*tags_of(config), *self.tags])),
            name=folder.name,
            id=run_id(folder),
            resume="allow",
            job_type=job_type,
            config=config,
            dir=str(folder),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run


def run_id(folder: Path) -> str:
    """The W&B id of a run folder, kept in it: a resumed run continues its curve, an emptied one starts anew."""
    path = folder / "wandb_id.txt"
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def waits_for_sync(folder: Path) -> bool:
    """Does the folder hold an offline part of its W&B run that `wandb sync` has not marked as uploaded?"""
    parts = folder.glob("wandb/offline-run-*/*.wandb")
    return any(not part.with_name(f"{part.name}.synced").exists() for part in parts)


def sweep_name(runs: Path) -> str | None:
    """The name of a folder of runs that a multirun made; None for another one."""
    return runs.resolve().name if (runs / SWEEP).is_dir() else None


def tags_of(config: dict[str, Any]) -> list[str]:
    """Selector, backbone, share of the rollouts and seed, e.g. BIS, InternVL, 10%, seed0."""
    selector = config.get("selector") or {}
    ratio, count = selector.get("ratio"), selector.get("count")
    kept = f"{100 * ratio:g}%" if ratio is not None else f"{count} rollouts" if count is not None else ""
    seed = f"seed{config['seed']}" if "seed" in config else ""
    return [tag for tag in (component(config, "selector"), component(config, "backbone"), kept, seed) if tag]


def _tear_down() -> None:
    """End W&B's service with all that it holds, even if it is broken; the next run starts it anew."""
    with suppress(Exception):
        import wandb

        wandb.teardown()


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
