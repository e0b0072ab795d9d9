"""`task=score`: records in, records with step scores out; the published scores from the published folder."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mprm.evaluation.predict import Scorable
from mprm.evaluation.score_file import score_file

REPOSITORY = Path(__file__).resolve().parents[2]
ORACLE = REPOSITORY / "tests" / "oracle_data" / "internvl"


def by_length(
    scored: list[Scorable], image_path: Callable[[str], Path]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """A judge that looks at the number of letters, and at whether there is an image."""
    found = [solution for solution in scored if image_path(solution.images[0]).is_file()]
    scores = {solution.id: [len(step) / 10 for step in solution.steps] for solution in found}
    return scores, {"image": len(scored) - len(found)}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, records: Sequence[object]) -> None:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n", encoding="utf-8")


def test_records_come_back_in_order_with_scores(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    good = {"image": "a.png", "question": "Why?", "steps": ["abc", "abcde"], "kept": "图"}
    unscored = [
        {"image": "b.png", "question": "Why?", "steps": ["abc"]},
        {"image": "a.png", "question": " ", "steps": ["abc"]},
        {"image": "a.png", "question": "Why?", "steps": []},
        {"image": "a.png", "question": "Why?", "steps": ["abc", 3]},
        {"question": "Why?", "steps": ["abc"]},
    ]
    write(tmp_path / "in.jsonl", [good, "", "{broken", *unscored, good])
    scored, skipped = score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", by_length)
    assert scored == 2
    assert skipped == {"image": 1, "not_json": 1, "no_question": 1, "no_steps": 1, "bad_step": 1, "no_image": 1}
    expected = {**good, "step_scores": [0.3, 0.5]}
    assert lines(tmp_path / "out.jsonl") == [expected, *({**r, "step_scores": None} for r in unscored), expected]


def test_images_lie_beside_the_file_or_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside").mkdir()
    for path in (tmp_path / "beside" / "a.png", tmp_path / "b.png"):
        path.touch()
    monkeypatch.chdir(tmp_path)
    records = [{"image": name, "question": "Why?", "steps": ["abc"]} for name in ("a.png", "b.png", "c.png")]
    write(tmp_path / "beside" / "in.jsonl", records)
    scored, skipped = score_file(tmp_path / "beside" / "in.jsonl", tmp_path / "out.jsonl", by_length)
    assert (scored, skipped) == (2, {"image": 1})


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^input=.*nowhere is not a file; give JSON lines with image, question"):
        score_file(tmp_path / "nowhere", tmp_path / "out.jsonl", by_length)


@pytest.mark.slow
def test_the_original_folder_gives_the_published_scores(tmp_path: Path) -> None:
    cases = json.loads((ORACLE / "cases.json").read_text())
    records = [
        {
            "image": case["record"]["image"],
            "question": case["record"]["question_orig"],
            "steps": [step["step"] for step in case["record"]["steps_with_score"]],
        }
        for case in cases
    ]
    (tmp_path / "images").symlink_to(ORACLE / "images")
    write(tmp_path / "rollouts.jsonl", records)
    command = [sys.executable, str(REPOSITORY / "run.py"), "task=score", "backbone=internvl2_5_8b"]
    paths = [f"backbone.path={ORACLE / 'checkpoint'}", "input=rollouts.jsonl", "output=scores.jsonl"]
    done = subprocess.run([*command, *paths], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "scored 6 solutions; wrote scores.jsonl" in done.stdout
    for case, line in zip(cases, lines(tmp_path / "scores.jsonl"), strict=True):
        assert line["step_scores"] == pytest.approx(case["train"]["scores"], abs=1e-5)
