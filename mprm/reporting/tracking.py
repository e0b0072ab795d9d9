"""Where a run's numbers go beside its folder: the Logger Protocol, and Weights & Biases.

metrics.jsonl is always written by the training; a logger mirrors it.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from mprm.runs.artifacts import write_text
from mprm.runs.journal import SWEEP
from mprm.runs.run_folder import CHECKOUT

log = logging.getLogger(__name__)

GOES_ON = "the run goes on, all numbers are in its run folder"
NO_LOGIN = "no login: run `wandb login` or set WANDB_API_KEY"
BEST = {"val/auc": "max", "val/step_accuracy": "max", "val/loss": "min"}  # of a curve what the table of runs shows
ONLINE_TIMEOUT = 30.0  # seconds to wait for the W&B server before a run goes on offline
UPLOAD_TIMEOUT = 120.0  # seconds to wait at the end of a run for what is not uploaded yet; it stays on disk


class Mirror(Protocol):
    """The mirror of one run. It may raise: the run then goes on without it. A training that spawns processes pickles
    it, and logs from there."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Mirror one line of metrics.jsonl. Its "step" counts optimizer steps and is the horizontal axis."""

    def store(self, summary: Mapping[str, Any], evaluated: Path | None) -> None:
        """Keep the numbers of a stage that has ended. evaluated: the run folder once it holds results, else None."""

    def close(self, failed: bool) -> None:
        """End the mirror; nothing follows. failed: an exception ended the run."""


class Logger(Protocol):
    """A choice of conf/logger: a frozen dataclass with these two methods."""

    def start(self, folder: Path, config: dict[str, Any], selector: str) -> Mirror | None:
        """Start mirroring the run in `folder`, or continue the mirror it has; None mirrors nothing.

        config: the plain, resolved config. selector: its label, e.g. BIS.
        """

    def publish_dashboard(self, runs: Path) -> str | None:
        """Publish a comparison of a sweep's runs, which lie below `runs`; returns its address, None for none."""


class Tracker:
    """Passes a run's numbers on to its mirror. A failure there is told once, ends the mirroring, and never reaches the
    training. A `with` block that an exception leaves closes the mirror as failed."""

    def __init__(self, mirror: Mirror | None = None) -> None:
        self.mirror = mirror

    def log(self, metrics: Mapping[str, float]) -> None:
        self._try(lambda mirror: mirror.log(metrics))

    def finish(self, summary: Mapping[str, Any], evaluated: Path | None = None) -> None:
        """Store the numbers of a stage, and what an evaluated run's folder holds; close the mirror as finished."""
        self._try(lambda mirror: mirror.store(summary, evaluated))
        self._close(failed=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close(failed=error is not None)

    def _close(self, failed: bool) -> None:
        self._try(lambda mirror: mirror.close(failed))
        self.mirror = None

    def _try(self, action: Callable[[Mirror], None]) -> None:
        if self.mirror is None:
            return
        try:
            action(self.mirror)
        except Exception as error:  # whatever it is, hours of training are worth more
            log.warning("the logger stopped (%s); %s", one_line(error), GOES_ON)
            self.mirror = None


def start(logger: Logger, folder: Path, config: dict[str, Any], selector: str) -> Tracker:
    """Start the logger's mirror of a run; where that fails, one line says so and nothing is mirrored."""
    try:
        return Tracker(logger.start(folder, config, selector))
    except Exception as error:
        log.warning("the logger did not start (%s); %s", one_line(error), GOES_ON)
        return Tracker()


def publish_dashboard(logger: Logger, runs: Path) -> str | None:
    """The address of the logger's dashboard of the runs; where it fails, one line says so and None is returned."""
    try:
        return logger.publish_dashboard(runs)
    except Exception as error:  # the runs are done, and task=report compares them without it
        log.warning("no dashboard (%s); task=report runs=%s compares the runs", one_line(error), runs)
        return None


@dataclass(frozen=True, kw_only=True)
class Local:
    """The files of the run folder and nothing more."""

    def start(self, folder: Path, config: dict[str, Any], selector: str) -> Mirror | None:
        return None

    def publish_dashboard(self, runs: Path) -> str | None:
        return None


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases. Without a login or a network the run is kept offline; `wandb sync` uploads it later."""

    project: str = "mprm"
    # None: the login's own
    entity: str | None = None
    # never talk to the server
    offline: bool = False
    # None: the name of the runs folder if a sweep made it
    group: str | None = None
    # beside those for selector, backbone, ratio and seed
    tags: list[str] = field(default_factory=list)
    # benchmark solutions in the table of predictions, with pictures
    predictions: int = 64
    # upload the trained weights as an artifact
    log_model: bool = False

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("logger.project='' names no project; give a name, e.g. logger.project=mprm")

    def start(self, folder: Path, config: dict[str, Any], selector: str) -> Mirror | None:
        """Start or continue the mirror of the run in `folder`, online if that works."""
        # What is waiting for `wandb sync` and what follows it are uploaded together, in their order.
        if not self.offline and not waits_for_sync(folder):
            try:
                return self._init(folder, config, selector, "online")
            except Exception as error:  # no login, no network, no rights: the training must still start
                later = f"`wandb sync {folder}/wandb/offline-run-*` uploads it later"
                log.warning("W&B is offline for this run (%s); %s", one_line(error), later)
        return self._init(folder, config, selector, "offline")

    def publish_dashboard(self, runs: Path) -> str | None:
        if self.offline:
            return None
        from mprm.reporting.dashboard import publish

        return publish(self.entity, self.project, self.group or sweep_name(runs), runs)

    def _init(self, folder: Path, config: dict[str, Any], selector: str, mode: Literal["online", "offline"]) -> Mirror:
        import wandb

        if wandb.run is not None:
            _tear_down()  # of a run that failed; W&B would write this one into it
        try:
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                raise ValueError(NO_LOGIN)
            quiet: dict[str, Any] = {"silent": True, "console": "off", "git_root": str(CHECKOUT)}
            run = wandb.init(
                mode=mode,
                settings=wandb.Settings(**quiet, init_timeout=ONLINE_TIMEOUT, finish_timeout=UPLOAD_TIMEOUT),
                project=self.project,
                entity=self.entity,
                group=self.group or sweep_name(folder.parent),
                tags=list(dict.fromkeys([*tags_of(config, selector), *self.tags])),
                name=folder.name,
                id=run_id(folder),
                resume="allow",
                job_type="evaluate" if config.get("run") else "train",  # of a model that was trained elsewhere
                config=config | ({"selector": config["selector"] | {"label": selector}} if selector else {}),
                dir=str(folder),
            )
        except Exception:
            _tear_down()  # the failed attempt still holds the run's id
            raise
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        for name, best in BEST.items():
            run.define_metric(name, step_metric="step", summary=best)
        return WandBRun(run, self.predictions, self.log_model)


@dataclass(frozen=True)
class WandBRun:
    """The Mirror that WandB starts."""

    run: Any  # a wandb.Run
    predictions: int = 0
    log_model: bool = False

    def log(self, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics))

    def store(self, summary: Mapping[str, Any], evaluated: Path | None) -> None:
        self.run.summary.update(dict(summary))
        if evaluated is not None:
            from mprm.reporting.dashboard import store_files, store_results  # matplotlib

            store_results(self.run, evaluated, self.predictions)
            store_files(self.run, evaluated, self.log_model)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


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
    """The name of a folder of runs that a sweep made; None for another one."""
    return runs.resolve().name if (runs / SWEEP).is_dir() else None


def tags_of(config: dict[str, Any], selector: str) -> list[str]:
    """For example BIS, InternVL, 10%, seed0."""
    asked = config.get("selector") or {}
    ratio, count = asked.get("ratio"), asked.get("count")
    kept = f"{100 * ratio:g}%" if ratio is not None else f"{count} rollouts" if count is not None else ""
    backbone = str((config.get("backbone") or {}).get("_target_", "")).rpartition(".")[2]
    seed = f"seed{config['seed']}" if "seed" in config else ""
    return [tag for tag in (selector, backbone, kept, seed) if tag]


def _tear_down() -> None:
    """End W&B's service with all that it holds, even if it is broken; the next run starts it anew."""
    with suppress(Exception):
        import wandb

        wandb.teardown()


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
