"""What the light tasks import, one after the other in one fresh process: start-up is most of what they take."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ANNOTATIONS = REPOSITORY / "tests" / "oracle_data" / "selection" / "annotations"
SELECT = ("task=select", "dataset=visualprm400k", f"dataset.annotations={ANNOTATIONS}", "held_out=0")

# Command -> what it may have imported of WATCHED when it ends, and those after it.
LIGHT = (
    ((), ()),  # import mprm
    (("--help",), ("hydra", "omegaconf")),
    ((*SELECT, "export=subset.jsonl"), ("numpy", "pyarrow", "xxhash")),
    (("-m", *SELECT, "seed=0,1"), ()),
    (("task=measure", "predictions=scores.jsonl", "output=measured.json"), ("scipy",)),
)
WATCHED = (
    *("PIL", "asyncio", "datasets", "httpx", "hydra", "jinja2", "joblib", "matplotlib", "numpy", "omegaconf", "pandas"),
    *("peft", "pyarrow", "pydantic", "pytorch_lightning", "requests", "rich", "safetensors", "scipy", "submitit"),
    *("sympy", "tokenizers", "torch", "torchmetrics", "transformers", "wandb", "xxhash"),
)
PROGRAM = f"""
import contextlib, json, sys

import mprm

for words in json.loads(sys.argv[1]):
    sys.argv = ["run.py", *words]
    with contextlib.redirect_stdout(sys.stderr):
        if words:
            from mprm.main import main
            assert main() == 0, words
    print(json.dumps([name for name in {WATCHED} if name in sys.modules]))
"""


def test_a_light_task_imports_only_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"id": "1", "source": "s", "labels": [1, -1], "scores": [0.9, 0.45]}\n')
    commands = json.dumps([words for words, _ in LIGHT])
    finished = subprocess.run([sys.executable, "-c", PROGRAM, commands], cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    allowed: set[str] = set()
    for (words, more), loaded in zip(LIGHT, map(json.loads, finished.stdout.splitlines()), strict=True):
        allowed |= set(more)
        assert set(loaded) == allowed, words
