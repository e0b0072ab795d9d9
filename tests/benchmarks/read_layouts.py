"""Processor time and memory of a first pass over made corpora in the public layouts, 2 records of 100 malformed, beside
json.loads alone.

    python tests/benchmarks/read_layouts.py                    # 20,000 records of each layout
    python tests/benchmarks/read_layouts.py --records 200000   # ten times as many: the memory is the same

Every layout is read in one fresh process; its memory is the peak above what the process had before.
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mprm.data.benchmarks import JsonSolutions, SolutionFields
from mprm.data.lines import Dropped
from mprm.data.math_shepherd import MathShepherd
from mprm.data.prm800k import PRM800K
from mprm.data.visualprm400k import Fields, JsonLines, VisualPRM400K
from mprm.data.vl_prm300k import VLPRM300K
from mprm.selection import scan

TEXT = "the sum of both numbers is and therefore we find that $x = \\frac{3}{4}$ so each bar has 12 units"


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(TEXT.split(), k=rng.randint(10, 30)))


def prm800k(rng: random.Random, number: int, texts: list[str]) -> dict[str, Any]:
    steps = []
    for place, text in enumerate(texts):
        last = place == len(texts) - 1
        completions = [{"text": text, "rating": -1 if last else rng.choice((0, 1)), "flagged": None}]
        completions += [{"text": sentence(rng), "rating": 1, "flagged": False}] * (2 if last else 0)
        chosen = None if last else 0
        steps.append({"completions": completions, "human_completion": None, "chosen_completion": chosen})
    question = {
        "problem": f"{sentence(rng)} {number}?",
        "ground_truth_solution": sentence(rng),
        "ground_truth_answer": "12",
        "pre_generated_steps": texts,
        "pre_generated_answer": "12",
        "pre_generated_verifier_score": 0.5,
    }
    label = {"steps": steps, "total_time": 278270, "finish_reason": "found_error"}
    return {"labeler": "340d89bc", "timestamp": "2023-01-22", "generation": 9, "question": question, "label": label}


def math_shepherd(rng: random.Random, number: int, texts: list[str]) -> dict[str, Any]:
    begin = f"{sentence(rng)} {number}? "
    steps = [f"Step {place}: {text} " for place, text in enumerate(texts, start=1)]
    first_wrong = rng.randint(1, 2 * len(steps))
    labels = ["+" if place < first_wrong else "-" for place in range(1, len(steps) + 1)]
    marked = begin + "\n".join(f"{step}ки" for step in steps)
    label = begin + "\n".join(f"{step}{sign}" for step, sign in zip(steps, labels, strict=True))
    return {"input": marked, "label": label, "task": "GSM8K"}


def counted(rng: random.Random, texts: list[str]) -> list[dict[str, Any]]:
    k = [rng.randint(0, 16) for _ in texts]
    return [
        {"step": text, "score": c / 16, "num_mc_correct": c, "num_mc_total": 16}
        for text, c in zip(texts, k, strict=True)
    ]


def vl_prm300k(rng: random.Random, number: int, texts: list[str]) -> dict[str, Any]:
    turns = []
    for text in texts:
        for role, said in (("user", f"<step_1>{text}</step_1>"), ("assistant", "+")):
            turns.append({"role": role, "content": [{"type": "text", "text": said}]})
    question = f"{sentence(rng)} {number}?"
    steps = counted(rng, texts)
    return {
        "id": str(number),
        "image": "0.png",
        "question": question,
        "conversations": turns,
        "steps_with_score": steps,
    }


def stepwise(rng: random.Random, number: int, texts: list[str]) -> dict[str, Any]:
    labels = [rng.random() < 0.8 for _ in texts]
    return {"prompt": f"{sentence(rng)} {number}?", "completions": texts, "labels": labels}


def visualprm400k(rng: random.Random, number: int, texts: list[str]) -> dict[str, Any]:
    asked = f"{sentence(rng)} {number}?"
    return {"image": "0.png", "question_orig": asked, "answer": "12", "steps_with_score": counted(rng, texts)}


def processbench(rng: random.Random, number: int, texts: list[str]) -> dict[str, Any]:
    label = rng.randint(-1, len(texts) - 1)
    fields = {"id": f"gsm8k-{number}", "generator": "m", "problem": sentence(rng), "steps": texts}
    return fields | {"final_answer_correct": label == -1, "label": label}


LAYOUTS: dict[str, tuple[Callable[[random.Random, int, list[str]], dict[str, Any]], Callable[[Path], Any]]] = {
    "prm800k": (prm800k, lambda path: PRM800K(path=str(path))),
    "math_shepherd": (math_shepherd, lambda path: MathShepherd(path=str(path))),
    "vl_prm300k": (vl_prm300k, lambda path: VLPRM300K(path=str(path))),
    "stepwise": (
        stepwise,
        lambda path: JsonLines(path=str(path), fields=Fields(question="prompt", steps="completions", score="labels")),
    ),
    "visualprm400k": (visualprm400k, lambda path: VisualPRM400K(annotations=str(path.parent), images=str(path.parent))),
    "processbench": (
        processbench,
        lambda path: JsonSolutions(
            path=str(path), fields=SolutionFields(question="problem", label=None, first_wrong="label")
        ),
    ),
}
FAULTS = (b'{"cut', b"[]", b'{"input": 3, "steps": 3}', b"\xff\xfe{}")


def write_corpus(path: Path, layout: str, records: int) -> None:
    """2 in 100 are malformed."""
    rng = random.Random(0)
    with open(path, "wb") as file:
        for number in range(records):
            if number % 50 == 7:
                file.write(FAULTS[number // 50 % len(FAULTS)] + b"\n")
                continue
            texts = [sentence(rng) for _ in range(rng.randint(3, 9))]
            file.write(json.dumps(LAYOUTS[layout][0](rng, number, texts), ensure_ascii=False).encode() + b"\n")


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def json_alone(path: Path) -> float:
    started = time.process_time()
    with open(path, "rb") as file:
        for line in file:
            with suppress(ValueError):
                json.loads(line)
    return time.process_time() - started


def first_pass(layout: str, path: Path) -> tuple[float, float, float, int, dict[str, int]]:
    """Seconds of the pass and of json alone, each the best of three; MB above the start; records that are used, and the
    others by reason. Everything is imported before."""
    with open(path, "rb") as file, open(path.with_name("few.jsonl"), "wb") as few:
        few.writelines(line for line, _ in zip(file, range(100), strict=False))
    counts_of(layout, path.with_name("few.jsonl"))
    before, seconds = megabytes(), []
    for _ in range(3):
        started = time.process_time()
        used, dropped = counts_of(layout, path)
        seconds.append(time.process_time() - started)
    memory = megabytes() - before
    return min(seconds), min(json_alone(path) for _ in range(3)), memory, used, dropped


def counts_of(layout: str, path: Path) -> tuple[int, dict[str, int]]:
    """Records of a file that are used, and the others by reason: of rollouts their signals are computed."""
    reader = LAYOUTS[layout][1](path)
    if layout == "processbench":
        reasons = [one.reason if isinstance(one, Dropped) else None for one in reader.records()]
    else:
        scan.MAX_PROCESSES = 1
        scan.scan(reader, {path.stem: path}, path.with_suffix(".parquet"))
        reasons = pq.read_table(path.with_suffix(".parquet"), columns=["drop_reason"])["drop_reason"].to_pylist()
    counts = Counter(reasons)
    return counts.pop(None, 0), dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=list(LAYOUTS))
    given = parser.parse_args()
    print("layout            kB/record   records/s   us/record  json.loads alone  MB above start     used dropped")
    for layout in given.layouts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{layout}.jsonl")
            Path(folder, "0.png").touch()
            write_corpus(path, layout, given.records)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds, alone, memory, used, dropped = pool.submit(first_pass, layout, path).result()
            assert used + sum(dropped.values()) == given.records, (used, dropped)
            size = path.stat().st_size / given.records
        print(
            f"{layout:15} {size / 1000:11.1f} {given.records / seconds:11,.0f} {1e6 * seconds / given.records:11.1f} "
            f"{1e6 * alone / given.records:15.1f} us {memory:16.0f} {used:8,} {dropped}"
        )


if __name__ == "__main__":
    main()
