"""One job of a sweep, in the sweep's own process or in one of a launcher's; and how far the sweep is, in words."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, linear_regression
from threading import Event, Thread
from time import monotonic

from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mprm.runs.artifacts import is_rank_zero, read_json
from mprm.runs.journal import SweepJob, log_file, read_jobs, record
from mprm.terminal import silence

Overrides = tuple[str, ...]  # of a job, by which it is known
Attempt = Callable[[], tuple[int, str]]  # runs the job: exit code, and the reason in one line where it is not 0

POLL_SECONDS = 1.0
DIED = "its process ended without a word (killed, or out of memory or of time)"


def run_here(runs: Path, overrides: Overrides, attempt: Attempt) -> None:
    """Run a job in the sweep's process, with one line before it and one after, and record what became of it."""
    jobs = read_jobs(runs)
    number = [job.overrides for job in jobs].index(overrides)
    print(f"{number + 1} of {len(jobs)}: {jobs[number].label}", flush=True)
    with silence():
        _recorded(runs, overrides, attempt)
    print(outcome(runs, overrides), flush=True)


def run_in_launcher(runs: Path, overrides: Overrides, attempt: Attempt) -> None:
    """Run a job in a process of a launcher's, where what it says goes to a log file, and record what became of it."""

    def end_with_other_ranks() -> None:
        """This process would wait for a rank that has failed, and no launcher ends it."""
        if _state(runs, overrides) == "failed":
            os._exit(1)

    join_process_group()
    with _into(log_file(runs, overrides)), polling(end_with_other_ranks):
        if is_rank_zero():
            _recorded(runs, overrides, attempt)
            return
        exit_code, reason = attempt()
    if exit_code and _state(runs, overrides) != "failed":
        record(runs, overrides, "failed", reason)


def join_process_group() -> None:
    """Tell the training which of several processes of submitit's on one machine this is; SLURM itself tells in its
    jobs."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        import submitit

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


@contextmanager
def polling(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` every second, in a thread of its own, until the block ends."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            look()

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Launcher:
    """Runs jobs in processes of a launcher's of Hydra's (hydra/launcher=joblib, submitit_local, submitit_slurm)."""

    def __init__(self, master: DictConfig, loader: ConfigLoader, task: TaskFunction) -> None:
        self.runs = Path(master.runs)
        self.name = str(master.hydra.runtime.choices["hydra/launcher"])
        self.batch_size: int | None = master.hydra.sweeper.get("max_batch_size")
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        self.engine = Plugins.instance().instantiate_launcher(context, task, master)

    def launch(self, waiting: Sequence[Overrides]) -> None:
        """Run these jobs, and say what becomes of them. One whose process dies has failed; the others are run."""
        size = self.batch_size or max(1, len(waiting))
        known = {job.overrides: job.state for job in read_jobs(self.runs)}

        def look() -> None:
            for job in read_jobs(self.runs):
                if job.state != known[job.overrides]:
                    known[job.overrides] = job.state
                    news = {"running": "started", "waiting": "stopped with another one; it is tried again alone"}
                    print(f"{job.label}: {news.get(job.state) or outcome(self.runs, job.overrides)}", flush=True)

        with polling(look):
            for start in range(0, len(waiting), size):
                batch = waiting[start : start + size]
                if self.name.startswith("submitit"):
                    self._launch_apart(batch)
                else:
                    self._launch_together(batch)
        look()

    def _launch_apart(self, batch: Sequence[Overrides]) -> None:
        """Every job in a launch of its own: submitit's launcher asks the jobs of one for their results in turn, and
        behind one that died nobody is heard."""
        stopped: list[ValueError] = []

        def launch(job: Overrides) -> None:
            try:
                self._launch_together([job])
            except ValueError as error:
                stopped.append(error)

        threads = [Thread(target=launch, args=(job,), daemon=True) for job in batch]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if stopped:
            raise stopped[0]

    def _launch_together(self, batch: Sequence[Overrides]) -> None:
        """joblib stops all its processes when one dies, and does not say which. If several were at work, each of their
        jobs is tried once more, alone: perhaps there was not memory enough for all of them at once.
        """
        stopped: Exception | None = None
        try:
            for returned in self.engine.launch(batch, initial_job_idx=0):
                if isinstance(returned, JobReturn):
                    returned.return_value  # noqa: B018 - raises what run_in_launcher() itself raised
        except Exception as error:
            stopped = error
        states = {job.overrides: job.state for job in read_jobs(self.runs)}
        running = [job for job in batch if states[job] == "running"]
        waiting = [job for job in batch if states[job] == "waiting"]
        died, again = running, [waiting]
        # submitit's word for a process that died, whose state tells how far it came
        if stopped is None or type(stopped).__name__ == "UncompletedJobError":
            died, again = running + waiting, []
        elif not running:
            raise ValueError(f"the launcher stopped: {' '.join(str(stopped).split())}")
        elif len(running) > 1:
            died, again = [], [*([job] for job in running), waiting]
            for job in running:
                record(self.runs, job, "waiting")
        for job in died:
            record(self.runs, job, "failed", f"{DIED}; its log: {log_file(self.runs, job)}")
        for jobs in again:
            if jobs:
                self._launch_together(jobs)


def outcome(runs: Path, overrides: Overrides) -> str:
    """What became of a job and how far the sweep is, in one line."""
    jobs = read_jobs(runs)
    job = next(job for job in jobs if job.overrides == overrides)
    run = runs / str(job.name)
    became = job.reason if job.state == "failed" else result(run) if (run / "stages.json").exists() else job.label
    took = "" if job.seconds is None else f" in {job.seconds:.0f} s"
    left = time_left(jobs)
    return f"{job.state}{took}: {became} [{counts(jobs)}{f'; {left}' if left else ''}]"


def counts(jobs: Sequence[SweepJob]) -> str:
    """'17 jobs: 3 done, 1 running, 13 waiting'."""
    found = Counter(job.state for job in jobs)
    words = [f"{found[state]} {state}" for state in ("done", "running", "failed", "waiting", "interrupted")]
    return f"{len(jobs)} jobs: {', '.join(text for text in words if not text.startswith('0 '))}"


def time_left(jobs: Sequence[SweepJob]) -> str:
    """'about 9 min left', from the seconds of the jobs done in this sweep; '' as long as there are none.

    Seconds are a line over the jobs' work; half of a running job is taken as done.
    """
    done = [(job.work, job.seconds) for job in jobs if job.state == "done" and job.seconds is not None]
    running = sum(job.state == "running" for job in jobs)
    share = {"waiting": 1.0, "running": 0.5}
    left = [(job.work, share[job.state]) for job in jobs if job.state in share]
    if not done or not left:
        return ""
    work, seconds = zip(*done, strict=True)
    slope, base = linear_regression(work, seconds) if len(set(work)) > 1 else (0.0, fmean(seconds))
    expected = sum(part * max(min(seconds) / 2, base + slope * amount) for amount, part in left)
    minutes = expected / max(1, running) / 60
    return "less than a minute left" if minutes < 1 else f"about {minutes:.0f} min left"


def result(run: Path) -> str:
    """The outcome of a run in a few words: AUC and F1, or what was kept."""
    try:
        stages = read_json(run / "stages.json")["stages"]
    except (ValueError, KeyError, TypeError):  # damaged: the run itself will say so
        return "done"
    if "evaluate" in stages and stages["evaluate"]["auc"] is not None:
        f1 = stages["evaluate"]["f1"]  # None where no rollouts are held out
        return f"AUC {stages['evaluate']['auc']:.3f}" + ("" if f1 is None else f", F1 {100 * f1:.1f}")
    if "train" in stages:
        return f"trained in {stages['train']['optimizer_steps']:,} steps"
    if "judge" in stages:
        accuracies = {name: value for name, value in stages["judge"].items() if name != "seconds"}
        return ", ".join(f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in accuracies.items())
    return f"{stages['select']['kept']:,} rollouts kept" if "select" in stages else "done"


def _recorded(runs: Path, overrides: Overrides, attempt: Attempt) -> None:
    record(runs, overrides, "running")
    started = monotonic()
    exit_code, reason = attempt()
    record(runs, overrides, "failed" if exit_code else "done", reason, round(monotonic() - started, 1))


def _state(runs: Path, overrides: Overrides) -> str:
    return next(job.state for job in read_jobs(runs) if job.overrides == overrides)


@contextmanager
def _into(path: Path) -> Iterator[None]:
    """Everything that this process writes to its output goes to the file, its bars and its libraries' lines too."""
    before = [os.dup(1), os.dup(2)]
    with path.open("a", encoding="utf-8") as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(before, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
