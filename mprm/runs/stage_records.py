"""What the stages of a run have left in its folder, and of what they were made: whether one is finished, or stale."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from mprm.runs.artifacts import (
    STAGES,
    FileState,
    file_hash,
    file_states,
    read_json,
    redo_name,
    redo_remedy,
    remove,
    write_json,
)

AFTER = ("untrained", "sft", "rl")  # when a judge is measured

# What redo=STAGE does again, in the order of work, for either line: the stages it forgets, and the files they leave.
LINES: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "select": ("select", "subset", "held_out.parquet", "subset_examples", "held_out_examples"),
        "train": ("train", "examples", "checkpoints", "metrics.jsonl", "left_out.jsonl", "weights.safetensors"),
        "evaluate": ("evaluate", "predictions.jsonl", "validation_predictions.jsonl", "results.json"),
    },
    {
        "sft": ("sft", "pairs"),
        "curate": ("curate", "responses", "responses.jsonl", "responses.jsonl.journal", "curated"),
        "rl": ("rl",),
        "judge": (
            "judge",
            "results.json",
            *(f"judged_{after}{end}" for after in AFTER for end in ("", ".jsonl", ".jsonl.journal")),
        ),
    },
)
TRAININGS = ("train", "sft", "rl")  # dear: never done again unasked

NEW = {".lock", "config.yaml", STAGES, "versions.json"}  # what opening a run makes

START_AGAIN = "restore it, or give overwrite=true to empty the folder and start again"


@dataclass(frozen=True)
class RunFolder:
    """An open run: `path` holds its files. Locked against other processes until closed, or until the process ends."""

    path: Path
    config_hash: str
    lock: IO[str] | None = field(repr=False)  # None: a further rank of a distributed run, which reads and never writes

    def finished(self, stage: str) -> bool:
        """Has `stage` ended with this config, and is all that it left still there?

        A stage that lost a file is forgotten, which is said, and so done again; what follows it is kept, and found
        again if its inputs come out the same. Sizes are looked at here, contents where a file is read (reading()).

        Raises ValueError instead for a training, which nobody wants to pay twice unasked.
        """
        record = self._record()
        if stage not in record["stages"] or self.lock is None:
            return stage in record["stages"]
        fault = self._fault(record["files"].get(stage, {}))
        if fault is None:
            return True
        if stage in TRAININGS:
            raise ValueError(f"{fault}; {redo_remedy(stage)}")
        print(f"{fault}: {redo_name(stage)} is done again", flush=True)
        for part in ("stages", "inputs", "files"):
            record[part].pop(stage, None)
        write_json(self.path / STAGES, record)
        return False

    def intact(self, stage: str, inputs: Mapping[str, str]) -> bool:
        """Has `stage` ended with these inputs, and are its files what it left, to the bit?"""
        record = self._record()
        states = record["files"].get(stage, {})
        return record["inputs"].get(stage) == dict(inputs) and file_states(self.path, states) == states

    def content_hash(self, name: str) -> str:
        """SHA-256, in hex, of a file that a stage left, as it was then: nothing large is read twice."""
        recorded = [states[name][1] for states in self._record()["files"].values() if name in states]
        return recorded[0] if recorded else file_hash(self.path / name)

    def check_inputs(self, stage: str, inputs: Mapping[str, str]) -> None:
        """Raise ValueError that names what changed if the finished stage was computed from other inputs.

        One of an earlier version, which did not record them, is taken as it is.
        """
        before = self._record()["inputs"].get(stage, dict(inputs))
        changed = [f"{name} changed" for name in inputs if before.get(name, inputs[name]) != inputs[name]]
        changed += [f"{name} added" for name in inputs if name not in before]
        changed += [f"{name} gone" for name in before if name not in inputs]
        # What images lack is counted by record: other annotations change it, too.
        changed = [change for change in changed if not change.startswith("the images")] or changed
        if changed:
            shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            name = redo_name(stage)
            raise ValueError(
                f"{self.path}: {shown} since task={name} was done; add task={name} redo={name} to do it and what "
                "follows again, or another name="
            )

    def summary(self, stage: str) -> dict[str, Any]:
        """What `stage` handed to finish(); KeyError when it has not finished."""
        summary: dict[str, Any] = self._record()["stages"][stage]
        return summary

    def finish(
        self,
        stage: str,
        summary: dict[str, Any],
        files: Mapping[str, FileState] | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        """Record that `stage` is done. Call it after the stage's files are in place: from now on it is skipped.

        files: what it left, as file_states() gives it. inputs: what it was computed from, by name: a content hash each.
        """
        if self.lock is not None:
            record = self._record()
            record["stages"][stage] = summary
            record["inputs"][stage] = dict(inputs or {})
            record["files"][stage] = dict(files or {})
            write_json(self.path / STAGES, record)

    def forget(self, stage: str) -> None:
        """Undo a stage and all that follow it, with their files: what redo=STAGE begins with."""
        line = next(line for line in LINES if stage in line)
        for follower in reversed(list(line)[list(line).index(stage) :]):
            for name in line[follower]:
                remove(self.path / name)
            record = self._record()
            for name in line[follower]:
                for part in ("stages", "inputs", "files"):
                    record[part].pop(name, None)
            write_json(self.path / STAGES, record)

    def close(self) -> None:
        """Let go of the lock."""
        if self.lock is not None:
            self.lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        refused = self.lock is not None and isinstance(error, ValueError) and not self._record()["stages"]
        if refused and {entry.name for entry in self.path.iterdir()} <= NEW:
            remove(self.path)  # there is nothing to go on with
        self.close()

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self.path / STAGES, START_AGAIN)
        return {"inputs": {}, "files": {}} | record

    def _fault(self, states: Mapping[str, FileState]) -> str | None:
        """Which of these files is missing, or has another size."""
        for name, (size, _) in states.items():
            path = self.path / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != size:
                return f"{path} has {path.stat().st_size} bytes instead of {size}"
        return None
