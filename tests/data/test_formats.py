"""Every example of docs/formats.md is read whole, by the reader that it is shown for."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mprm.data.benchmarks import JsonSolutions, SolutionFields
from mprm.data.lines import Dropped
from mprm.data.math_shepherd import MathShepherd
from mprm.data.prm800k import PRM800K
from mprm.data.questions import PairFile, QuestionFile, read_candidates
from mprm.data.records import VisualProcessBench
from mprm.data.rollouts import Dataset, read_rollout
from mprm.data.visualprm400k import Fields, JsonLines, VisualPRM400K
from mprm.data.vl_prm300k import VLPRM300K
from mprm.inference.score_file import score_file
from mprm.metrics.predictions import StepScores

FORMATS = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```json (\w+)\n(.*?)^```", FORMATS, re.MULTILINE | re.DOTALL))


def _rollouts(dataset: Dataset) -> list[Any]:
    (file,) = dataset.files().values()
    return [read_rollout(dataset, line, file.stem) for line in file.read_bytes().splitlines()]


def _scored(path: Path) -> list[Any]:
    def judge(solutions: Any) -> Any:
        return ((solution.id, StepScores((0.0,) * len(solution.steps))) for solution in solutions)

    return [None] * score_file(path, path.with_name("out.jsonl"), judge, {})[0]


PROCESS = {"question": "problem", "label": None, "first_wrong": "label"}
PRM = {"id": "idx", "source": "classification", "question": "modified_question", "steps": "modified_process"}
PRM |= {"label": None, "wrong": "error_steps"}
STEPWISE = Fields(question="prompt", steps="completions", score="labels")
READERS: dict[str, Callable[[Path], Any]] = {
    "rollouts": lambda path: _rollouts(JsonLines(path=str(path))),
    "visualprm400k": lambda path: _rollouts(VisualPRM400K(annotations=str(path.parent), images=str(path.parent))),
    "prm800k": lambda path: _rollouts(PRM800K(path=str(path))),
    "math_shepherd": lambda path: _rollouts(MathShepherd(path=str(path))),
    "stepwise": lambda path: _rollouts(JsonLines(path=str(path), fields=STEPWISE)),
    "vl_prm300k": lambda path: _rollouts(VLPRM300K(path=str(path))),
    "processbench": lambda path: JsonSolutions(path=str(path), fields=SolutionFields(**PROCESS)).records(),
    "prmbench": lambda path: JsonSolutions(path=str(path), fields=SolutionFields(**PRM)).records(),
    "own_benchmark": lambda path: JsonSolutions(path=str(path)).records(),
    "benchmark": lambda path: VisualProcessBench(path=str(path)).records(),
    "solutions": _scored,
    "questions": lambda path: QuestionFile(path=str(path)).records(),
    "candidates": lambda path: read_candidates(path)[0],
    "preferences": lambda path: PairFile(path=str(path)).records(),
}


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(READERS)


@pytest.mark.parametrize("name", READERS)
def test_examples(name: str, tmp_path: Path) -> None:
    for image in ("a.png", "b.png"):
        (tmp_path / image).touch()
    (tmp_path / "mine.jsonl").write_text(EXAMPLES[name], encoding="utf-8")
    read = list(READERS[name](tmp_path / "mine.jsonl"))
    assert len(read) == len(EXAMPLES[name].splitlines()) == 3
    assert not [record for record in read if isinstance(record, Dropped)]


def test_the_parquet_file_of_vl_prm300k_becomes_json_lines_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"^```python\n(import json\n.*?)^```", FORMATS, re.MULTILINE | re.DOTALL)
    rows = [json.loads(line) for line in EXAMPLES["vl_prm300k"].splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "VL_PRM300K_V2.parquet")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert [json.loads(line) for line in (tmp_path / "vl_prm300k.jsonl").open()] == rows
