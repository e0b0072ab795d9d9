"""The models that stages use, what their scores depend on, and the entropies of rollouts under them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.runs.artifacts import TRAININGS, weights_written
from mprm.runs.journal import Journal, journal
from mprm.runs.names import model_name, short_names
from mprm.tasks import JUDGE_TASKS, MODEL
from mprm.terminal import listed, say, tracked

if TYPE_CHECKING:
    import pyarrow as pa

    from mprm.inference.local import Sampler
    from mprm.inference.score_file import Score
    from mprm.inference.scoring import OpenImages
    from mprm.inference.server import ServerPolicy
    from mprm.metrics.predictions import NotScored, StepScores
    from mprm.prms.prm import ScoredBy

ENTROPY_VERSION = 1  # enters the key of the cache: raise it when entropies change their meaning
AT_ONCE = 64  # rollouts: what a kill can lose
RESTORABLE = ("missing_image_file", "unreadable_image")  # looked for again the next time

Entropies = dict[str, "float | str"]  # by the rollout's id: its entropy, or why it has none


def check_devices(cfg: Config) -> None:
    """Raises ValueError if the trainer wants more CUDA devices than there are, or DeepSpeed without any."""
    import torch

    if cfg.trainer.accelerator == "gpu" and torch.cuda.device_count() < cfg.trainer.devices:
        count = torch.cuda.device_count()
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}, but this machine has {count} CUDA devices; try trainer=cpu"
        )
    if cfg.trainer.strategy.startswith("deepspeed") and cfg.trainer.accelerator != "gpu":
        raise ValueError(f"trainer.strategy={cfg.trainer.strategy} needs trainer.accelerator=gpu; try trainer=ddp_cpu")


def check_before_selection(cfg: Config) -> None:
    """Raises ValueError for what a training will want and has not: devices, the backbone's folder."""
    if not cfg.check:  # it needs none
        check_devices(cfg)
    cfg.backbone.folder()


def device(cfg: Config) -> str:
    """That of this process."""
    import torch

    on_node = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return f"cuda:{on_node % max(1, torch.cuda.device_count())}" if cfg.trainer.accelerator == "gpu" else "cpu"


def max_tokens(cfg: Config) -> int:
    """Of a forward pass that keeps nothing for a backward pass."""
    return 2 * cfg.trainer.max_tokens


def load_backbone(cfg: Config) -> tuple[Any, Any]:
    """Processor and step model, which writes if it is to judge; what is drawn at random is drawn by the seed."""
    import torch

    torch.manual_seed(cfg.seed)  # adapters, and a mark drawn at random
    processor, model = cfg.backbone.load()
    if cfg.has_judge:
        model.train_generation()
    return processor, model


def load_scorer(cfg: Config, run: str | None) -> ScoredBy:
    """What scores solutions: a judge, or the model of a run or an exported folder; without one model=, or the backbone
    as it lies in its folder."""
    from mprm.inference.score_file import path_beside
    from mprm.judge.compare import tournament
    from mprm.scorer import StepScorer

    if cfg.has_judge:
        writer = replace(responder(cfg, lambda: load_judge(cfg)), temperature=cfg.judge.evaluation_temperature)
        image_path = path_beside(Path(str(cfg.input)))
        return lambda solutions, _: tournament(cfg.judge, writer, image_path, solutions)
    if run is not None:
        return StepScorer.from_pretrained(run, device(cfg), None, max_tokens(cfg), cfg.trainer.num_workers).scored
    machine = max_tokens(cfg), device(cfg), cfg.trainer.num_workers
    if cfg.has_model:
        return cfg.model.scorer(*machine)
    processor, model = load_backbone(cfg)
    return StepScorer(processor, model, cfg.backbone.max_length, *machine).scored


def load_judge(cfg: Config) -> tuple[Any, Any, int]:
    """Processor, model and max_length of run=, or of the backbone as it lies in its folder."""
    from mprm.judging import Judge

    check_devices(cfg)
    if cfg.run is not None:
        judge = Judge.from_pretrained(cfg.run, device(cfg))
        return judge.processor, judge.model, judge.max_length
    processor, model = load_backbone(cfg)
    return processor, model.to(device(cfg)).eval(), cfg.backbone.max_length


def responder(cfg: Config, load: Callable[[], tuple[Any, Any, int]]) -> Sampler | ServerPolicy:
    """Who judges: the model that `load` loads, with its processor and max_length; with judge.engine=server the server
    of policy=server, asked as the judge is."""
    from mprm.judge.judge import sampler_of

    judge = cfg.judge
    if judge.engine == "local":
        return sampler_of(judge, *load(), judge.temperature, cfg.seed)
    return replace(server(cfg), instruction=judge.instruction, max_new_tokens=judge.max_new_tokens, seed=cfg.seed)


def server(cfg: Config) -> ServerPolicy:
    """The one of policy=server. Raises ValueError for another policy."""
    from mprm.inference.server import ServerPolicy

    if not isinstance(cfg.policy, ServerPolicy):
        raise ValueError("judge.engine=server asks the server of policy=; give policy=server policy.model=NAME")
    return cfg.policy


def scoring(cfg: Config, run: str | None, scored_by: ScoredBy, of: str) -> Score:
    """Scores solutions as they come, by load_scorer(cfg, run), with a progress bar; further processes take a share.

    of: what is scored: dataset, benchmark or input; that says where their images lie."""
    from mprm.stages.ranks import shared

    score = shared(cfg, run, of, scored_by)
    return lambda solutions: tracked(score(solutions), len(solutions), f"scoring the {of}")


def check_scored(found: Mapping[str, StepScores | NotScored], what: str, kept: Journal) -> None:
    """Raises ValueError if none is scored; what was kept then does not stand in the way of other options."""
    from mprm.metrics.predictions import NotScored

    unscored = [one for one in found.values() if isinstance(one, NotScored)]
    if unscored and len(unscored) == len(found):
        kept.remove()
        reasons = listed(Counter(one.reason for one in unscored))
        raise ValueError(f"none of {len(found)} {what} is scored ({reasons}), the first: {unscored[0].message}")


def opener(cfg: Config, of: str) -> OpenImages:
    """Opens images of the dataset, the benchmark or the input by their names there."""
    from mprm.batching.examples import open_images
    from mprm.inference.score_file import path_beside

    if of == "input":
        image_path = path_beside(Path(str(cfg.input)))
    else:
        image_path = (cfg.dataset if of == "dataset" else cfg.benchmark).image_folder.path
    return lambda names: open_images([image_path(name) for name in names])


def identity(cfg: Config, run: str | None) -> dict[str, Any]:
    """What the scores depend on: the model's folder, when its weights were written, and its options; of a judge that is
    used also how it is asked and the seed, or its server."""
    how = {}
    if cfg.has_judge and cfg.task not in JUDGE_TASKS:
        how = {"judge": {**asdict(cfg.judge), "max_tokens": None}, "seed": cfg.seed}
        if cfg.judge.engine == "server":
            return how | {"policy": server(cfg).identity()}
    own = cfg.model if cfg.has_model else cfg.backbone
    folder = Path(run or str(own.path)).resolve()
    options = {} if run else asdict(own)
    kind = {"prm": type(own).__name__} if cfg.has_model else {}
    written = max(weights_written(folder / part) for part in TRAININGS)
    return how | kind | {"folder": str(folder), "written": written, "backbone": options or None}


def models_of(cfg: Config) -> dict[str, str | None]:
    """The models by name: that of the server; else the one that run= names, or all trained runs in that folder; without
    run= that of model=, or the backbone."""
    if cfg.has_judge and cfg.judge.engine == "server":
        return {model_name(server(cfg).identity()["model"]): None}
    if cfg.run is None:
        return {model_name(str(cfg.raw[MODEL if cfg.has_model else "backbone"].path)): None}
    folder = Path(cfg.run)
    if (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return {folder.resolve().name: cfg.run}
    runs = [path.parent for path in sorted(folder.glob("*/weights.safetensors"))]
    others = sorted({path.parents[1].name for path in folder.glob("*/*/weights.safetensors")})
    if runs and others:
        say(f"run={cfg.run}: step scorers alone, without {', '.join(others)}")
    if not runs:
        raise ValueError(f"run={cfg.run} is no run and holds none that is trained; give runs/NAME or a folder of runs")
    return dict(zip(short_names([run.name for run in runs]), map(str, runs), strict=True))


def add_entropy(cfg: Config, rows: pa.Table) -> pa.Table:
    """Rows of a signals table with the columns entropy, in nats, and no_entropy, the reason where there is none.

    The entropies are those under the backbone as it lies in its folder, of the rows that are ranked and can be trained
    on; the others have neither. CACHE/entropy/KEY.journal keeps what was computed, by the content of the annotations
    and the backbone: a killed run goes on, and no rollout is computed twice.

    Raises ValueError if the images or the backbone have no folder, or no rollout has an entropy.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from mprm.data.mixture import reading_of

    images = cfg.dataset.image_folder.place
    if images is None and pc.any(pc.greater(pc.list_value_length(rows["image_hashes"]), 0)).as_py():
        raise ValueError("dataset.images is not set, and entropies depend on the images; give the folder of the images")
    cfg.backbone.folder()
    looked_at = rows["ranked"].to_numpy() & ~rows["drop_reason"].is_valid().to_numpy()
    names = zip(rows["source"].to_pylist(), rows["line"].to_pylist(), strict=True)
    ids = [f"{source}:{line}" for source, line in names]
    wanted = {ids[row]: int(row) for row in np.flatnonzero(looked_at)}
    data_hash = rows.schema.metadata[b"data_hash"].decode()
    settings = [ENTROPY_VERSION, data_hash, *reading_of(cfg.dataset), images, identity(cfg, None)]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    with journal(Path(cfg.cache) / "entropy" / key, settings, cache_of="entropies") as kept:
        missing = [row for name, row in wanted.items() if name not in kept.done]
        found = _computed(cfg, rows.take(pa.array(missing)), kept) if missing else {}
        found |= {name: kept.done[name] for name in wanted if name in kept.done}
    reasons = Counter(value for value in found.values() if isinstance(value, str))
    if wanted and reasons.total() == len(wanted):
        counts = listed(dict(reasons.most_common()))
        raise ValueError(
            f"none of {len(wanted)} rollouts has an entropy ({counts}); see dataset.images and backbone.max_length"
        )
    values = [found.get(name) for name in ids]
    entropy = [value if isinstance(value, float) else None for value in values]
    reason = [value if isinstance(value, str) else None for value in values]
    rows = rows.append_column("entropy", pa.array(entropy, pa.float64()))
    return rows.append_column("no_entropy", pa.array(reason, pa.string()).dictionary_encode())


def _computed(cfg: Config, rows: pa.Table, kept: Journal) -> Entropies:
    """Add entropies to the journal, computed on the trainer's device. Returns those that it does not keep."""
    from mprm.inference.scoring import ScoreRequest, Scoring
    from mprm.metrics.predictions import NotScored
    from mprm.selection.examples import read_examples

    check_devices(cfg)
    requests = [
        ScoreRequest(record["id"], record["images"], record["question"], record["steps"])
        for batch in read_examples(cfg.dataset, rows)
        for record in batch.to_pylist()
    ]
    processor, model = load_backbone(cfg)
    machine = max_tokens(cfg), device(cfg), cfg.trainer.num_workers
    by_model = Scoring(model, processor, cfg.backbone.max_length, *machine)
    entropies = by_model.entropies(requests, opener(cfg, "dataset"))
    restorable: Entropies = {}

    def lasting() -> Iterator[tuple[str, float | str]]:
        for name, found in tracked(entropies, len(requests), "computing entropies"):
            value = found.reason if isinstance(found, NotScored) else found
            if value in RESTORABLE:
                restorable[name] = value
            else:
                yield name, value

    kept.add_each(lasting(), AT_ONCE)
    return restorable
