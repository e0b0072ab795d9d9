"""What a training can use: found by the first rank, and listed for the others, for a resumed run, and for people."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mprm.config import Config
from mprm.runs.artifacts import is_rank_zero, reading, redo_remedy, write_json_lines
from mprm.runs.stage_records import RunFolder
from mprm.stages.judgements import listed
from mprm.terminal import say

if TYPE_CHECKING:
    from datasets import Dataset

    from mprm.backbones.base import Processor
    from mprm.batching.examples import Examples
    from mprm.training.lengths import Measured, Pictured


def split(cfg: Config, subset: Dataset, held_out: Dataset, processor: Processor) -> list[Examples]:
    """The kept rollouts that are not held out, and those that are.

    Raises ValueError if there are none of the former.
    """
    from mprm.batching.examples import Examples

    never_trained_on = set(held_out["id"])  # with every rollout that shares a question or an image with one of them
    chosen = [i for i, rollout in enumerate(subset["id"]) if rollout not in never_trained_on]
    if not chosen:
        raise ValueError(
            f"no rollout is left to train on beside the {len(held_out)} of held_out={cfg.held_out}; lower it, or raise "
            "selector.ratio"
        )
    return [
        Examples(records, cfg.dataset.image_folder.path, processor) for records in (subset.select(chosen), held_out)
    ]


def usable(cfg: Config, run: RunFolder, stage: str, file: Path, *parts: Pictured) -> list[Measured]:
    """The parts with their lengths; what is left out of them stands in `file`, one JSON line each with the reason.

    The file is written before `stage` is finished, and from then on holds: another rank and a resumed run train on the
    same, whatever has been repaired since.

    Raises ValueError if nothing is left of the first part, or an image that was sound before is not any more.
    """
    from mprm.training.lengths import measure, measure_again

    workers, longest = cfg.trainer.num_workers, cfg.backbone.max_length
    if run.finished(stage) or not is_rank_zero():
        with reading(file, redo_remedy(stage)):
            records = [json.loads(line) for line in file.read_bytes().splitlines()]
            reasons = {record["id"]: record["reason"] for record in records}
        found = []
        for part in parts:
            left_out = {position: reasons[name] for position, name in enumerate(part.ids) if name in reasons}
            found.append(measure_again(part, left_out, workers))
        return found
    found, records = [], []
    for part in parts:
        measured, faults = measure(part, longest, workers, cfg.cache)
        found.append(measured)
        records += [{**part.origin(position), **fault._asdict()} for position, fault in faults.items()]
    write_json_lines(file, records)
    if records:
        counts = listed(Counter(record["reason"] for record in records))
        say(f"left out before the training: {counts} -> {file}")
        if not len(found[0].usable):
            raise ValueError(
                f"none of {len(found[0].lengths)} rollouts can be trained on ({counts}); {file} tells what is "
                "wrong with each: restore the images, or raise backbone.max_length"
            )
    return found
