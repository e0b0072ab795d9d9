"""Examples in the published training format, which the original trainer reads."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mprm.runs.artifacts import atomic_file


def export_published(
    path: str | Path, examples: Iterable[Mapping[str, Any]], target: Callable[[float], float]
) -> dict[str, int]:
    """Write one JSON line per example: `image`, and `conversations` of question and marked steps with their targets.

    Args:
        path: the file, written atomically.
        examples: rows of a subset's examples.
        target: what the objective trains a step of the given MC score towards, e.g. float(score > 0).

    Returns:
        How many were `written`, and how many `skipped`: the format has no place for a step that was never measured.
    """
    counts = {"written": 0, "skipped": 0}
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for example in examples:
            if None in example["scores"]:
                counts["skipped"] += 1
                continue
            file.write(json.dumps(_published(example, target), ensure_ascii=False) + "\n")
            counts["written"] += 1
    return counts


def _published(example: Mapping[str, Any], target: Callable[[float], float]) -> dict[str, Any]:
    images = example["image_names"]
    process = "\n\n".join(f"{step}<prm>" for step in example["steps"])
    return {
        "image": images[0] if len(images) == 1 else list(images),
        "conversations": [
            {"from": "human", "value": f"Question: {example['question']}\nProcess: {process}"},
            {"from": "gpt", "value": [float(target(score)) for score in example["scores"]]},
        ],
    }
