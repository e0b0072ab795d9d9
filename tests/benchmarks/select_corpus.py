"""Time and memory of a selection on a generated corpus, against a plain loop that parses each line with json twice.

    python tests/benchmarks/select_corpus.py                    # 20,000 rollouts, seconds
    python tests/benchmarks/select_corpus.py --rollouts 560000  # as VisualPRM400K: 1.8 GB in a temporary folder

Every measurement runs in a fresh process. The file cache is warm for all of them: the corpus has just been written.
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.examples import write_examples
from mprm.selection.selectors import BIS
from mprm.selection.signals import build_signals
from mprm.selection.subset import write_subset

TEXT = (
    "the value of bar angle triangle we see that sum and therefore equals area from chart line is to find first which "
    "total difference between height label reading image shows \\frac{1}{2} $x+y$ 12 45 degrees so answer"
)
SOURCES = 38


def write_corpus(folder: Path, rollouts: int) -> int:
    """Write `rollouts` records of about 3.2 kB into 38 files; returns the bytes written."""
    rng = random.Random(0)
    words = TEXT.split()
    texts = [" ".join(rng.choices(words, k=rng.randint(18, 50))) for _ in range(5000)]
    texts[::10] = [f"{text} 45° √2 π 图" for text in texts[::10]]
    folder.mkdir()
    for source in range(SOURCES):
        with open(folder / f"source_{source:02d}.jsonl", "w", encoding="utf-8") as file:
            for i in range(source, rollouts, SOURCES):
                file.write(json.dumps(_record(rng, texts, source, i), ensure_ascii=i % 2 == 0) + "\n")
    return sum(file.stat().st_size for file in folder.iterdir())


def _record(rng: random.Random, texts: list[str], source: int, i: int) -> dict[str, object]:
    correct = rng.randint(8, 16)
    steps = []
    for n in range(rng.randint(3, 8)):
        correct = 0 if rng.random() < 0.03 or correct == 0 else min(16, max(1, correct + rng.randint(-2, 2)))
        text = f"Step {n + 1}: {rng.choice(texts)}"
        steps.append({"step": text, "score": correct / 16, "num_mc_correct": correct, "num_mc_total": 16})
    return {
        "image": f"VisualPRM400K-v1.1-Raw/source_{source:02d}/{i}.png",
        "question": f"<image>\n{rng.choice(texts)} {i}",
        "question_orig": f"{rng.choice(texts)} {i}",
        "answer": "42",
        "response": "\n\n".join(str(step["step"]) for step in steps),
        "steps_with_score": steps,
    }


def parse_twice(folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                json.loads(line)
                json.loads(line)
    return {"seconds": time.perf_counter() - start}


def select(folder: Path) -> dict[str, float]:
    """A first selection without a cache, a second (alpha, ratio), and the examples that a training would read."""
    dataset = VisualPRM400K(annotations=str(folder))
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        start = time.perf_counter()
        signals = build_signals(dataset, work)
        scanned = time.perf_counter()
        write_subset(Path(work, "first"), dataset, signals, BIS(alpha=0.2, ratio=0.1), {})
        first = time.perf_counter()
        write_subset(Path(work, "second"), dataset, build_signals(dataset, work), BIS(alpha=0.05, ratio=0.1), {})
        second = time.perf_counter()
        write_examples(Path(work, "examples"), dataset, pq.read_table(Path(work, "second", "kept.parquet")))
        written = time.perf_counter()
    return {
        "signals": scanned - start,
        "first": first - start,
        "second": second - first,
        "examples": written - second,
        "peak_mib": _peak_mib(resource.RUSAGE_SELF),
        "worker_mib": _peak_mib(resource.RUSAGE_CHILDREN),
    }


def _peak_mib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def in_fresh_process(measure: Callable[[Path], dict[str, float]], folder: Path) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, folder).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=1, help="measure this often and take the fastest of each")
    args = parser.parse_args()
    measure(args.rollouts, args.repeats)


def measure(rollouts: int, repeats: int) -> float:
    """Print the table; returns how much of the loop's time the first selection takes."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "annotations")
        size = write_corpus(folder, rollouts)
        print(f"{rollouts:,} rollouts, {size / 1e9:.2f} GB")
        loops, runs = [], []
        for _ in range(repeats):  # they take turns
            loops.append(in_fresh_process(parse_twice, folder)["seconds"])
            runs.append(in_fresh_process(select, folder))
    best = {key: min(run[key] for run in runs) for key in runs[0]}
    loop = min(loops)
    peak, worker = (max(run[key] for run in runs) for key in ("peak_mib", "worker_mib"))
    print(f"loop, json twice        {loop:8.2f} s")
    for name, key, whole, unit in (
        ("first selection", "first", loop, "the loop"),
        ("  of that the signals", "signals", loop, "the loop"),
        ("second selection", "second", best["first"], "the first selection"),
        ("examples of 10 %", "examples", best["first"], "the first selection"),
    ):
        print(f"{name:24}{best[key]:8.2f} s   {best[key] / whole:.3f} of {unit}")
    print(f"peak memory             {peak:8.0f} MiB, and {worker:.0f} MiB in the largest process of the scan")
    return best["first"] / loop


if __name__ == "__main__":
    main()
