"""README.md of an exported model, the card that the hub shows: what it was made of, how good it is, how it is used.

Repositories stand there by their id, files and folders by their last part: no card tells where they lay on a disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mprm.metrics.results import JudgeResults, Results, StepResults, read_results
from mprm.runs.artifacts import read_json, reading
from mprm.runs.hub import PINNED
from mprm.runs.manifest import read_manifest

OF_BACKBONE = ("license", "license_name", "license_link", "pipeline_tag")  # in the front matter of its README.md
DATA = ("dataset", "benchmark", "preferences", "reward_benchmark")


def model_card(
    run: Path, config: Mapping[str, Any], backbone: Path | None, prompt: Any, use: str, finished: bool
) -> str:
    """The card. Raises ValueError if a file of the run, or the README.md of its backbone, cannot be read.

    run: the run's folder; config: what it was made with; backbone: the folder of its backbone; prompt: the options that
    the model must be used with; use: in Markdown, how; finished: False of a checkpoint, which was not measured.
    """
    import yaml

    base, kept, judge = str(config["backbone"].get("path")), front_matter(backbone), "judge" in config
    rates_answers = "preferences" in config and not judge
    read = {name: config[name] for name in DATA if name in config}
    read |= {f"dataset {name}": part for name, part in read.get("dataset", {}).get("parts", {}).items()}
    paths = {name: one.get("root") or one.get("path") for name, one in read.items()}
    data = {name: str(path) for name, path in paths.items() if path}  # a reader of one's own may have others
    ids = [path.partition("@")[0] for path in data.values() if PINNED.fullmatch(path)]
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", **kept}
    tags = ["llm-as-a-judge"] if judge else [] if rates_answers else ["process-reward-model"]
    front["tags"] = ["mprm", "reward-model", *tags]
    front |= {"base_model": base.partition("@")[0]} if PINNED.fullmatch(base) else {}
    front |= {"datasets": ids} if ids else {}
    rows = {"backbone": named(base), "its licence": kept.get("license_name", kept.get("license", "see the backbone"))}
    rows |= {name.replace("_", " "): named(path) for name, path in data.items()} | made_of(run)
    results = read_results(run / "results.json") if finished and (run / "results.json").is_file() else None
    told = "which of two answers is better" if judge else "of every step of a solution how probably it is right"
    told = "how good an answer is, in one number" if rates_answers else told
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {run.resolve().name}

A reward model: it says {told}. Trained with mprm.

## What it was made of

{table(rows)}
## Results

{table(measured(results)) if results else "It has not been measured."}
## Prompt

The options that it was trained with; others make it wrong.

```json
{json.dumps(prompt, indent=2, ensure_ascii=False)}
```

{use}"""


def front_matter(backbone: Path | None) -> dict[str, str]:
    """What the README.md of a backbone says of its licence and its kind; empty where it says nothing."""
    import yaml

    if backbone is None or not (backbone / "README.md").is_file():
        return {}
    with reading(backbone / "README.md", "restore it, or delete it"):
        text = (backbone / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else None
    return {key: str(front[key]) for key in OF_BACKBONE if key in front} if isinstance(front, dict) else {}


def made_of(run: Path) -> dict[str, str]:
    """What was selected, and what was learnt from it."""
    rows = {}
    if (run / "subset" / "manifest.json").is_file():
        manifest = read_manifest(run / "subset" / "manifest.json")
        kept, eligible = manifest.totals.kept, manifest.totals.eligible
        share = f"{kept.rollouts / max(1, eligible.rollouts):.2%}"
        rows["selector"] = manifest.selector.label
        rows["kept"] = f"{kept.rollouts:,} of {eligible.rollouts:,} rollouts ({share}), {kept.steps:,} steps"
        rows["content of the annotations"] = f"SHA-256 {manifest.data_hash}"
    stages = read_json(run / "stages.json")["stages"] if (run / "stages.json").is_file() else {}
    for stage, done in stages.items():
        if "optimizer_steps" in done:
            objective = f", objective {done['objective']}" if "objective" in done else ""
            rows[f"training ({stage})"] = f"{done['optimizer_steps']:,} optimizer steps{objective}"
    return rows


def measured(results: Results) -> dict[str, str]:
    """The numbers, with their 95 % intervals."""
    if isinstance(results, JudgeResults):
        rows = {f"accuracy (%), {stage}": one.accuracy.points() for stage, one in results.judges.items()}
        return rows | {"content of the benchmark": f"SHA-256 {results.reward_benchmark_hash}"}
    assert isinstance(results, StepResults)
    at = results.main
    return {
        "AUC": at.auc_words(),
        "macro-F1 (%)": at.overall_step_weighted_macro_f1.points(),
        "at the threshold": f"{at.threshold:.3f}, {at.threshold_from}",
        "first errors found (%)": at.first_error_accuracy.points(),
        "measured on": f"{results.n_solutions:,} solutions with {results.n_steps:,} labelled steps",
        "content of the benchmark": f"SHA-256 {results.benchmark_hash}",
    }


def named(path: str) -> str:
    return path.replace("@", ", ") if PINNED.fullmatch(path) else Path(path).name


def table(rows: Mapping[str, str]) -> str:
    return "| | |\n| --- | --- |\n" + "".join(f"| {name} | {text} |\n" for name, text in rows.items())
