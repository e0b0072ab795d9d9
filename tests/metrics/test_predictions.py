import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.metrics.predictions import Prediction, StepScores, read_predictions, write_predictions

ORACLE = Path(__file__).resolve().parents[1] / "oracle_data" / "metrics"
GOOD: dict[str, Any] = {"id": "a", "source": "MMMU", "labels": [1, -1, 0], "scores": [0.9, 0.2, 0.5]}
PUBLISHED: dict[str, Any] = {"data_source": "MMMU", "labels_per_step": [1, -1], "prm_scores": [[0.9, 0.2]]}


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def test_round_trip_is_exact_and_keeps_the_order(tmp_path: Path) -> None:
    predictions = [
        Prediction("b", "Größe\u2028", (1, 0, -1), (1 / 3, 0.1 + 0.2, 5e-324)),
        Prediction("a", "MMMU", (-1,), (1.0,)),
    ]
    write_predictions(tmp_path / "predictions.jsonl", predictions)
    assert read_predictions(tmp_path / "predictions.jsonl") == predictions


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    predictions = [Prediction("a", "MMMU", (-1,), (1.0,))]
    write_predictions(tmp_path / "p.jsonl", predictions)
    (tmp_path / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "p.jsonl").read_bytes())
    assert read_predictions(tmp_path / "marked.jsonl") == predictions


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [Prediction("a", "MMMU", (1,), (0.5,))])
    before = path.read_bytes()

    def broken() -> Any:
        yield Prediction("b", "MMMU", (1,), (0.5,))
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        write_predictions(path, broken())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_published_list() -> None:
    predictions = read_predictions(ORACLE / "predictions.json")
    assert len(predictions) == 300
    assert predictions[0] == Prediction(
        "1", "MathVerse-VO", (1, 1, 1, -1, 0, -1, 1), (0.72, 0.85, 0.588112, 0.520543, 0.63, 0.45, 0.75)
    )
    assert sum(label != 0 for prediction in predictions for label in prediction.labels) == 2105


def test_both_formats_of_the_same_solutions_agree(tmp_path: Path) -> None:
    published = read_predictions(ORACLE / "predictions.json")
    write_predictions(tmp_path / "predictions.jsonl", published)
    assert read_predictions(tmp_path / "predictions.jsonl") == published


BAD_RECORDS: list[tuple[dict[str, Any], str]] = [
    ({"scores": [0.9, 0.2]}, "3 labels and 2 scores; give one of each per step"),
    ({"labels": [], "scores": []}, "0 labels and 0 scores"),
    ({"labels": [1, 2, 0]}, "label 2 of step 2; give 1 (correct), -1 (incorrect) or 0 (neutral)"),
    ({"labels": [1, True, 0]}, "label True of step 2"),
    ({"labels": [1, None, 0]}, "label None of step 2"),
    ({"scores": [0.9, math.nan, 0.5]}, "score nan of step 2; give a finite number"),
    ({"scores": [0.9, 0.2, math.inf]}, "score inf of step 3"),
    ({"scores": [0.9, 0.2, 10**400]}, "of step 3; give a finite number"),
    ({"scores": [0.9, "0.2", 0.5]}, "score '0.2' of step 2"),
    ({"scores": [0.9, "a\nb", 0.5]}, r"score 'a\nb' of step 2"),
    ({"scores": [0.9, False, 0.5]}, "score False of step 2"),
    ({"scores": [[0.9, 0.2, 0.5]]}, "3 labels and 1 scores"),
    ({"scores": 0.9}, "scores is not a list; give one entry per step"),
    ({"source": 3}, "source is not text; write it in quotes"),
    ({"id": "first"}, "duplicate_id; give id, source, labels, scores, each id once"),
]
BAD_PUBLISHED: list[tuple[dict[str, Any], str]] = [
    ({"prm_scores": [0.9, 0.2]}, "prm_scores is not a list of one list"),
    ({"prm_scores": [[0.9, 0.2], [0.8, 0.1]]}, "prm_scores is not a list of one list"),
    ({"prm_scores": [[0.9]]}, "2 labels and 1 scores"),
    ({"labels_per_step": [1, 3]}, "label 3 of step 2"),
]
BAD_FILES = [
    (b"", "none of its 0 records has a step labelled 1 or -1; give"),
    (b"[]", "none of its 0 records has a step labelled 1 or -1; give"),
    (b'{"id": "a", "source": "s", "labels": [0, 0], "scores": [1, 0]}', "none of its 1 records"),
    (b'{"id": "a", "sour', "p, line 1: not_json; give"),
    (b'[{"data_source": "a"', "p: not JSON"),
    (b"[1]", "p, record 1: not_an_object; give"),
    (b"7", "p, line 1: not_an_object; give"),
    (b"\xff\xfe\x00", "is written in UTF-16; convert it"),
    (b"\xff", "p, line 1: not_utf8; give"),
    (b"[" * 100_000, "not JSON"),
]


def test_a_bad_record_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "p"
    for change, message in BAD_RECORDS:
        said = refusal(write_lines(path, GOOD | {"id": "first"}, GOOD | change))
        assert said is not None
        assert said.startswith(f"{path}, line 2: ")
        assert message in said
        assert "\n" not in said
    for change, message in BAD_PUBLISHED:
        path.write_text(json.dumps([PUBLISHED, PUBLISHED | change]))
        said = refusal(path)
        assert said is not None
        assert said.startswith(f"{path}, record 2: {message}")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    for key in GOOD:
        path = write_lines(tmp_path / "p", {name: value for name, value in GOOD.items() if name != key})
        assert refusal(path) == f"{path}, line 1: no {key}; give id, source, labels, scores"
    for key in PUBLISHED:
        path.write_text(json.dumps([{name: value for name, value in PUBLISHED.items() if name != key}]))
        assert refusal(path) == f"{path}, record 1: no {key}; give data_source, labels_per_step, prm_scores"


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p"
    for content, message in BAD_FILES:
        path.write_bytes(content)
        said = refusal(path)
        assert said is not None
        assert str(path) in said
        assert message in said
        assert "\n" not in said
    for name in ("absent.jsonl", "."):
        assert "give a file" in (refusal(tmp_path / name) or "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, *PUBLISHED]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(json_values | st.fixed_dictionaries(dict.fromkeys(GOOD, json_values)), max_size=4), st.booleans())
def test_any_json_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], as_list: bool
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "p"
    path.write_text(json.dumps(records) if as_list else "\n".join(json.dumps(record) for record in records))
    message = refusal(path)
    assert message is None or (str(path) in message and "\n" not in message)


def refusal(path: Path) -> str | None:
    try:
        read_predictions(path)
    except ValueError as error:
        return str(error)
    return None


def test_scores_are_the_logistic_of_the_log_odds() -> None:
    assert StepScores((0.0, math.log(3), -math.log(3))).scores == pytest.approx([0.5, 0.75, 0.25])
    assert StepScores((1000.0, -1000.0)).scores == [1.0, 0.0]


def test_sigma() -> None:
    assert StepScores((0.0,)).sigmas is None
    assert StepScores((0.0, math.log(3)), (3.0, 2.0)).sigmas == pytest.approx([0.25, math.sqrt(0.75 * 0.25 / 3)])
