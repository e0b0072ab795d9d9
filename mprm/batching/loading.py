"""Loader workers: processes that decode, tile and tokenise what comes next while the device computes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

SHARED_MEMORY = Path("/dev/shm")
AHEAD = 2  # items that every worker makes ready before they are asked for, torch's own number

Item = TypeVar("Item")
Made = TypeVar("Made")


def loaded(items: Sequence[Item], make: Callable[[Item], Made], num_workers: int) -> Iterator[Made]:
    """What `make` gives for every item, in order; made ahead by so many workers, or here and now with none."""
    loader: Any = DataLoader(
        items,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(num_workers, len(items), os.cpu_count() or 1),  # a machine that only checks may have few cores
        collate_fn=make,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),  # of its own, so that nothing is drawn from the global one
    )
    return iter(loader)


def check_shared_memory(n_bytes: int, num_workers: int, loaders: int = 1) -> None:
    """Raises ValueError if what so many loaders with so many workers make ready, n_bytes an item, does not fit into the
    memory that processes share; a worker that writes beyond it is killed."""
    if not (n_bytes and num_workers and SHARED_MEMORY.is_dir()):
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    # One more is on its way to the device.
    need, fitting = loaders * (AHEAD * num_workers + 1) * n_bytes, (free // (loaders * n_bytes) - 1) // AHEAD
    if need > free:
        raise ValueError(
            f"trainer.num_workers={num_workers}: pixels on their way take about {_mib(need)} of {SHARED_MEMORY}, which "
            f"has {_mib(free)} free; give trainer.num_workers={max(0, fitting)}, or more shared memory (docker run "
            f"--shm-size={-(-2 * need // 2**30)}g)"
        )


def pixel_bytes(visions: Iterable[dict[str, torch.Tensor]]) -> int:
    """Of the image tensors of a row; examples that share theirs count once."""
    return sum(tensor.nbytes for vision in {id(one): one for one in visions}.values() for tensor in vision.values())


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
