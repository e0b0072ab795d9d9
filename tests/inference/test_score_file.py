"""`task=score`: records in, records with step scores out; the published scores from the published folder."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from program import RUN, run_program

from mprm.inference.score_file import AT_ONCE, open_beside, score_file
from mprm.inference.scoring import Scored, ScoreRequest
from mprm.metrics.predictions import NotScored, StepScores

REPOSITORY = Path(__file__).resolve().parents[2]
ORACLE = REPOSITORY / "tests" / "oracle_data" / "internvl"


SETTINGS = {"backbone": "by length"}


def by_length(solutions: Sequence[ScoreRequest]) -> Scored:
    """A judge that looks at the number of letters, from the last solution to the first, and has no picture of b.png."""
    for solution in reversed(solutions):
        if solution.images[0] == "b.png":
            yield solution.id, NotScored("missing_image_file", "image b.png is not there")
        else:
            yield solution.id, StepScores(tuple(float(len(step)) for step in solution.steps))


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
    target = tmp_path / "out.jsonl"
    scored, skipped = score_file(tmp_path / "in.jsonl", target, by_length, SETTINGS)
    assert scored == 2
    reasons = ["image b.png is not there", "no_question", "no_steps", "bad_step", "no_image"]
    assert skipped == {"missing_image_file": 1, "not_json": 1} | dict.fromkeys(reasons[1:], 1)
    expected = {**good, "step_scores": [pytest.approx(1 / (1 + math.exp(-n))) for n in (3, 5)]}
    without = [{**r, "step_scores": None, "not_scored": why} for r, why in zip(unscored, reasons, strict=True)]
    assert lines(target) == [expected, *without, expected]


def test_a_kappa_head_brings_sigma(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"image": "a.png", "question": "Why?", "steps": ["abc"]}])

    def surely(solutions: Sequence[ScoreRequest]) -> Scored:
        yield solutions[0].id, StepScores((0.0,), (3.0,))

    score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", surely, SETTINGS)
    (line,) = lines(tmp_path / "out.jsonl")
    assert (line["step_scores"], line["step_sigmas"]) == ([0.5], [0.25])


def test_a_killed_scoring_goes_on_behind_what_it_has(tmp_path: Path) -> None:
    records = [{"image": "a.png", "question": "Why?", "steps": ["x" * n]} for n in range(1, 150)]
    write(tmp_path / "in.jsonl", records)
    seen: list[str] = []

    def dies(solutions: Sequence[ScoreRequest]) -> Scored:
        for name, found in by_length(solutions):
            if len(seen) == 100:
                raise KeyboardInterrupt
            seen.append(name)
            yield name, found

    with pytest.raises(KeyboardInterrupt):
        score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", dies, SETTINGS)
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(ValueError, match="other settings or another input"):
        score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", by_length, "another model")
    asked: list[str] = []

    def goes_on(solutions: Sequence[ScoreRequest]) -> Scored:
        asked.extend(solution.id for solution in solutions)
        return by_length(solutions)

    assert score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", goes_on, SETTINGS) == (149, {})
    assert len(asked) == 149 - AT_ONCE
    assert not set(asked) & set(seen[:AT_ONCE])
    score_file(tmp_path / "in.jsonl", tmp_path / "whole.jsonl", by_length, SETTINGS)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_images_lie_beside_the_file_or_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside").mkdir()
    for path in (tmp_path / "beside" / "a.png", tmp_path / "b.png"):
        Image.new("RGB", (len(path.parts), 1)).save(path)
    monkeypatch.chdir(tmp_path)
    pictures = open_beside(tmp_path / "beside" / "in.jsonl")(["a.png", "b.png"])
    assert pictures[0].width == pictures[1].width + 1
    with pytest.raises(ValueError, match=r"^image c.png cannot be read"):
        open_beside(tmp_path / "beside" / "in.jsonl")(["c.png"])


def test_images_of_published_records_are_found_as_annotations_find_them(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("images/Geo/0.png", "images/nlvr2/images/train-0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    opened = open_beside(tmp_path / "annotations" / "nlvr2_en.jsonl")
    assert len(opened(["VisualPRM400K-v1.1-Raw/Geo/0.png", "images/train-0.png"])) == 2


def test_published_records_are_read_as_they_are(tmp_path: Path) -> None:
    asked = {"image": ["a.png"], "question": "<image>\nWhy?"}
    raw = [{"step": " ab ", "score": "?"}, {"step": "abc"}]
    records = [
        asked | {"question": "Why <image1>?", "response": {"steps": ["ab", "abc"], "process_correctness": [1, -1]}},
        asked | {"question_orig": "Why?", "response": "ab\n\nabc", "steps_with_score": raw},
        asked | {"response": "ab\n\nabc", "steps_with_score": raw},
        asked | {"response": {}, "steps_with_score": raw},
        asked | {"steps_with_score": ["ab"]},
    ]
    write(tmp_path / "in.jsonl", records)
    seen: list[ScoreRequest] = []
    score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", lambda s: seen.extend(s) or by_length(s), SETTINGS)
    assert [(s.question, list(s.steps)) for s in seen] == [
        ("Why <image1>?", ["ab", "abc"]),
        ("Why?", ["ab", "abc"]),
        ("Why?", ["ab", "abc"]),
    ]
    assert [r.get("not_scored") for r in lines(tmp_path / "out.jsonl")] == [None, None, None, "no_steps", "bad_step"]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^input=.*nowhere is not a file; give JSON lines with image, question"):
        score_file(tmp_path / "nowhere", tmp_path / "out.jsonl", by_length, SETTINGS)


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
    paths = [f"backbone.path={ORACLE / 'checkpoint'}", "input=rollouts.jsonl", "output=scores.jsonl"]
    done = run_program(RUN, "task=score", "backbone=internvl2_5_8b", *paths, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"scored 6 solutions in \d+\.\d s; wrote scores\.jsonl\n", done.stdout), done.stdout
    for case, line in zip(cases, lines(tmp_path / "scores.jsonl"), strict=True):
        assert line["step_scores"] == pytest.approx(case["train"]["scores"], abs=1e-5)
