"""A selection as whole processes, start-up included, in turn with the published subset builder's own way of doing it.

    python tests/benchmarks/select_start.py                        # 56,012 rollouts: 182 MB in a temporary folder
    python tests/benchmarks/select_start.py --rollouts 560000      # as VisualPRM400K: 1.8 GB

Prints medians of seconds and of peak memory, and fails where the two write other bytes. The file cache is warm.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
RUN = HERE.parents[1] / "run.py"
WRITE = """
import sys
from pathlib import Path
from select_corpus import write_corpus
print(write_corpus(Path(sys.argv[1]), int(sys.argv[2])))
"""


def measured(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds on the clock and of the processors, and peak MiB of the largest process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    assert status == 0, command
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=56012)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        # In a process of its own: what this one imports would count as its children's peak memory.
        write = [sys.executable, "-c", WRITE, str(work / "annotations"), str(args.rollouts)]
        size = int(subprocess.run(write, cwd=HERE, capture_output=True, check=True).stdout)
        print(f"{args.rollouts:,} rollouts, {size / 1e6:.0f} MB, medians of {args.repeats}")

        def published(i: int) -> list[str]:
            script, output = str(HERE / "published_subset.py"), f"published{i}.jsonl"
            return [sys.executable, script, "annotations", "0.2", "0.1", output]

        def select(i: int, alpha: float, *more: str) -> list[str]:
            data = ("dataset=visualprm400k", "dataset.annotations=annotations", "held_out=0", f"cache=cache{i}")
            return [sys.executable, str(RUN), "task=select", *data, f"selector.alpha={alpha}", f"runs=runs{i}", *more]

        def sweep(i: int) -> list[str]:
            grid = ("selector.alpha=0.02,0.05,0.1,0.2,0.4,0.8", "selector.ratio=0.05,0.1,0.15,0.25,0.35,0.5")
            data = ("dataset=visualprm400k", "dataset.annotations=annotations", "held_out=0", f"cache=cold{i}")
            return [sys.executable, str(RUN), "-m", "task=select", *data, *grid, f"runs=sweep{i}"]

        commands: dict[str, Callable[[int], list[str]]] = {
            "published builder": published,
            "first selection": lambda i: select(i, 0.2, f"export=ours{i}.jsonl"),
            "second (alpha, ratio)": lambda i: select(i, 0.05, "selector.ratio=0.25"),
            "the same again": lambda i: select(i, 0.05, "selector.ratio=0.25"),
            "36 selections, no cache": sweep,
            "--help": lambda i: [sys.executable, str(RUN), "--help"],
            "import mprm": lambda i: [sys.executable, "-c", "import mprm"],
        }
        measured(published(0), work)  # everything is read once
        figures: dict[str, list[tuple[float, float, float]]] = {what: [] for what in commands}
        for i in range(args.repeats):
            for what, command in commands.items():
                figures[what].append(measured(command(i), work))
            assert (work / f"published{i}.jsonl").read_bytes() == (work / f"ours{i}.jsonl").read_bytes()
        reference = [seconds for seconds, _, _ in figures["published builder"]]
        for what, found in figures.items():
            seconds, used, peak = (median(column) for column in zip(*found, strict=True))
            ratio = median(one[0] / other for one, other in zip(found, reference, strict=True))
            print(
                f"{what:24}{seconds:7.2f} s{used:8.2f} s of processors{peak:7.0f} MiB{ratio:8.2f} of the builder's time"
            )


if __name__ == "__main__":
    main()
