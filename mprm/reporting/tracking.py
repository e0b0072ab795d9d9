"""Where metrics go beside the run folder. metrics.jsonl is always written by the training; W&B mirrors it."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mprm.artifacts import write_text

log = logging.getLogger(__name__)

ONLINE_TIMEOUT = 30.0  # seconds to wait for the W&B server before a run goes on offline
UPLOAD_TIMEOUT = 120.0  # seconds to wait at the end of a run for what is not uploaded yet; it stays on disk


class Tracker:
    """One run's mirror. A failure in it is told once, ends the mirroring, and never reaches the training."""

    def __init__(self, run: Any = None) -> None:
        self.run = run  # a wandb run; None mirrors nothing

    def log(self, metrics: Mapping[str, float]) -> None:
        """Mirror one line of metrics.jsonl; its "step" (optimizer steps) is the horizontal axis."""
        self._try(lambda run: run.log(dict(metrics)))

    def finish(self, summary: Mapping[str, Any], manifest: Path | None = None) -> None:
        """Store the final numbers and the subset manifest, and close the mirror."""
        self._try(lambda run: run.summary.update(dict(summary)))
        if manifest is not None:
            self._try(lambda run: run.log_artifact(manifest, name=f"subset-{run.id}", type="subset-manifest"))
        self._try(lambda run: run.finish())
        self.run = None

    def _try(self, action: Any) -> None:
        if self.run is None:
            return
        try:
            action(self.run)
        except Exception as error:  # whatever W&B raises, hours of training are worth more
            log.warning("W&B stopped (%s); the run goes on, its metrics are in metrics.jsonl", one_line(error))
            self.run = None


@dataclass(frozen=True, kw_only=True)
class Local:
    """The files of the run folder and nothing more."""

    def start(self, folder: Path, config: Mapping[str, Any], job_type: str = "train") -> Tracker:
        """Start mirroring the run in `folder`."""
        return Tracker()


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases. Without a login or a network the run is kept offline; `wandb sync` uploads it later.

    project, entity, group, tags: as in wandb.init. offline: never talk to the server.
    """

    project: str = "mprm"
    entity: str | None = None
    offline: bool = False
    group: str | None = None
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.project:
            raise ValueError("logger.project='' names no project; give a name, e.g. logger.project=mprm")

    def start(self, folder: Path, config: Mapping[str, Any], job_type: str = "train") -> Tracker:
        """Start mirroring the run in `folder`, or continue the mirror that the folder already has.

        config: the plain, resolved config. job_type: groups runs on the dashboard, e.g. the selector's name.
        """
        import wandb

        options: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "group": self.group,
            "tags": self.tags,
            "name": folder.name,
            "id": run_id(folder),
            "resume": "allow",
            "job_type": job_type,
            "config": dict(config),
            "dir": str(folder),
        }
        if not self.offline:
            try:
                if not wandb.login(prompt=False, verify=False):
                    raise ValueError("no login: run `wandb login` or set WANDB_API_KEY")
                return _tracker(wandb.init(mode="online", settings=_settings(), **options))
            except Exception as error:  # no login, no network, no rights: the training must still start
                log.warning("W&B is offline for this run (%s); `wandb sync` uploads it later", one_line(error))
                wandb.teardown()  # the failed attempt still holds the run's id
        try:
            return _tracker(wandb.init(mode="offline", settings=_settings(), **options))
        except Exception as error:
            log.warning("W&B could not start (%s); the run goes on, its metrics are in metrics.jsonl", one_line(error))
            return Tracker()


def run_id(folder: Path) -> str:
    """The W&B id of a run folder, kept in it: a resumed run continues its curve, an emptied one starts anew."""
    path = folder / "wandb_id.txt"
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _settings() -> Any:
    import wandb

    return wandb.Settings(
        init_timeout=ONLINE_TIMEOUT, finish_timeout=UPLOAD_TIMEOUT, silent=True, console="off", disable_git=True
    )


def _tracker(run: Any) -> Tracker:
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return Tracker(run)
