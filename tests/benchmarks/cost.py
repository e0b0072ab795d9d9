"""What every task costs on this machine: wall time, CPU time and peak memory of whole processes, as a Markdown table.

    python tests/benchmarks/cost.py            all tasks on chartworld at their default sizes: about half an hour
    python tests/benchmarks/cost.py --small    the same on a hundredth of it: half a minute a task

The tasks follow each other in a folder of their own, as a user types them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ("dataset.rollouts=96", "held_out=8", "benchmark.size=20")
TASKS = {  # command -> what it works on
    "task=select": "32,000 rollouts",
    "task=train": "3,200 rollouts, 1 epoch",
    "task=evaluate": "1,500 solutions",
    "task=score run=latest input=solutions.jsonl output=scores.jsonl": "1,500 solutions",
    "task=export run=latest output=exported": "InternVL, 1.7 million parameters",
    "task=measure predictions=predictions.jsonl output=metrics.json": "1,500 solutions",
    "task=report": "one run",
    "task=contamination output=shared": "32,000 rollouts, 8,000 pictures, 1,500 solutions",
    "task=sample solutions=16 questions.size=100 output=candidates.jsonl": "100 questions, 16 solutions each",
    "task=rerank run=latest input=candidates.jsonl output=best_of_16": "100 questions, 16 candidates each",
    "task=annotate questions.size=100 solutions=2 questions.path=q/q.jsonl output=annotated.jsonl": (
        "100 questions, 2 solutions, 16 continuations of every prefix"
    ),
    "experiment=egt hydra.mode=RUN task=sft": "1,945 traces",
    "experiment=egt hydra.mode=RUN task=curate": "3,013 pairs",
    "experiment=egt hydra.mode=RUN task=rl": "1,505 pairs, groups of responses",
    "experiment=egt hydra.mode=RUN task=judge": "400 pairs in both orders, three judges",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a hundredth of the data, to see that it runs")
    small = parser.parse_args().small
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| command | on | minutes | CPU minutes | memory (GiB) |\n| --- | --- | ---: | ---: | ---: |", flush=True)
        for command, work in TASKS.items():
            if "input=solutions" in command:
                write_solutions(folder)
            words = command.split()
            if small and words[0] in ("task=select", "task=train", "task=evaluate"):
                words += SMALL
            if small and words[0] == "task=contamination":
                words += [SMALL[0], SMALL[2]]
            if small and "experiment=egt" in words:
                words += ["preferences.size=48", "preferences.traced=0.7", "reward_benchmark.size=6"]
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, str(REPOSITORY / "run.py"), *words], cwd=folder, stdout=subprocess.DEVNULL
            )
            _, status, used = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
            minutes = [(time.monotonic() - started) / 60, (used.ru_utime + used.ru_stime) / 60]
            memory = used.ru_maxrss / 2**20
            print(f"| `{command}` | {work} | {minutes[0]:.1f} | {minutes[1]:.1f} | {memory:.1f} |", flush=True)


def write_solutions(folder: Path) -> None:
    """The benchmark's solutions as task=score reads them, and the predictions of the run for task=measure."""
    (benchmark,) = folder.glob("data/*benchmark*/test.jsonl")
    records = [json.loads(line) for line in benchmark.read_text(encoding="utf-8").splitlines()]
    for record in records:
        images = record["image"] if isinstance(record["image"], list) else [record["image"]]
        record["image"] = [str(benchmark.parent / image) for image in images]
        record["steps"] = record.pop("response")["steps"]
    lines = [json.dumps({key: record[key] for key in ("image", "question", "steps")}) for record in records]
    (folder / "solutions.jsonl").write_text("\n".join(lines) + "\n")
    (run,) = folder.glob("runs/*/predictions.jsonl")
    (folder / "predictions.jsonl").write_bytes(run.read_bytes())


if __name__ == "__main__":
    main()
