"""How many tokens every rollout has, before any of it is computed: from its text and the headers of its images."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from mprm.data.collate import Example, common_prefix
from mprm.data.packing import Lengths

CHUNK = 256  # rollouts that a loader worker measures at a time


class LaidOut(Protocol):
    """What can be measured. question: an integer per example, the same for the same images and question."""

    @property
    def question(self) -> np.ndarray: ...

    def layout(self, position: int) -> Example:
        """The example without its pixels."""
        ...


def token_lengths(examples: LaidOut, num_workers: int) -> Lengths:
    """Lengths by position; `shared` is over the rollouts of a question that are in `examples`.

    Raises ValueError if an image file is missing or broken.
    """
    question = examples.question
    by_question = np.argsort(question, kind="stable")
    borders = np.flatnonzero(np.diff(question[by_question])) + 1
    cuts = borders[np.diff(borders // CHUNK, prepend=0) > 0]
    chunks = np.split(by_question, cuts)
    loader = DataLoader(_Chunks(examples, chunks), batch_size=None, num_workers=num_workers)
    measured = np.empty((2, len(question)), dtype=np.int64)
    for chunk, lengths in zip(chunks, track(loader, "reading lengths", len(chunks), transient=True), strict=True):
        measured[:, chunk] = lengths
    return Lengths(tokens=measured[0], shared=measured[1], question=question)


class _Chunks(Dataset):
    """Tokens and shared tokens of the rollouts of a chunk, (2, rollouts); a chunk holds whole questions."""

    def __init__(self, examples: LaidOut, chunks: list[np.ndarray]) -> None:
        self.examples = examples
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> np.ndarray:
        laid_out = [self.examples.layout(int(position)) for position in self.chunks[number]]
        groups: dict[int, list[int]] = {}
        for i, example in enumerate(laid_out):
            assert example.group is not None
            groups.setdefault(example.group, []).append(i)
        lengths = np.empty((2, len(laid_out)), dtype=np.int64)
        for members in groups.values():
            lengths[0, members] = [len(laid_out[i].input_ids) for i in members]
            lengths[1, members] = common_prefix([laid_out[i].input_ids for i in members])
        return lengths
