"""Scoring with loader workers and without, side by side: `python tests/benchmarks/load_images.py`.

A tiny InternVL scores a solution of each of many pictures: chartworld's own, 56 pixels wide, and photographs of a
megapixel, of which decoding and tiling cost far more than such a model does, as on a GPU. Printed are solutions per
second, the best of some rounds that take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from mprm.backbones.internvl import InternVL
from mprm.batching.examples import open_images
from mprm.inference.scoring import ScoreRequest, Scoring

WEIGHTS = Path(__file__).resolve().parents[2] / "mprm" / "chartworld" / "weights" / "internvl"


def pictures(folder: Path, side: int, count: int) -> list[str]:
    """Smooth noise as JPEG: it compresses as a photograph does."""
    paths = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        paths.append(str(folder / f"{side}-{number}.jpg"))
        Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(paths[-1], quality=92)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solutions", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    given = parser.parse_args()
    processor, model = InternVL(path=str(WEIGHTS), max_tiles=12).load()
    with tempfile.TemporaryDirectory() as folder:
        for side in (56, 1024):
            names = pictures(Path(folder), side, given.solutions)
            steps = ["red is 4.", "blue is 7.", "The answer is 11."]
            requests = [ScoreRequest(name, [name], "What is red plus blue?", steps) for name in names]
            best, scores = dict.fromkeys(given.workers, np.inf), {}
            for _ in range(given.rounds):
                for workers in given.workers:
                    scoring = Scoring(model, processor, 2048, 8192, "cpu", workers)
                    started = perf_counter()
                    found = list(scoring.scores(requests, lambda paths: open_images(list(map(Path, paths)))))
                    best[workers] = min(best[workers], perf_counter() - started)
                    assert scores.setdefault("first", found) == found, "workers change nothing"
            rates = {workers: len(requests) / seconds for workers, seconds in best.items()}
            told = ", ".join(f"{workers} workers {rate:.0f}/s" for workers, rate in rates.items())
            print(f"{side} x {side} pixels: {told}; {rates[given.workers[-1]] / rates[given.workers[0]]:.2f} times")


if __name__ == "__main__":
    main()
