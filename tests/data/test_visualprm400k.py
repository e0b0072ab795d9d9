"""Reading and cleaning of annotated rollouts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.data.lines import MAX_LINE_BYTES, numbered_lines
from mprm.data.rollouts import question_hash, read_rollout
from mprm.data.visualprm400k import VisualPRM400K

from .conftest import Read, Step, read_line

STEP = {"step": "Read the bars.", "score": 0.5, "num_mc_correct": 8, "num_mc_total": 16}


def record(**changes: Any) -> dict[str, Any]:
    fields = {"image": "set/0.png", "question": "<image>\nHow many?", "question_orig": " How many? ", "answer": "2"}
    return fields | {"steps_with_score": [STEP]} | changes


def read(fields: dict[str, Any], **settings: Any) -> Read | str:
    return read_line(VisualPRM400K(annotations="unused", **settings), json.dumps(fields))


def read_step(**settings: Any) -> Any:
    """What becomes of a rollout whose second step has these fields."""
    result = read(record(steps_with_score=[STEP, {"step": "Then.", **settings}]))
    return result if isinstance(result, str) else result.steps[1]


def test_a_record_becomes_a_rollout() -> None:
    rollout = read(record(steps_with_score=[STEP, STEP | {"step": " Add them.\n", "score": 1, "num_mc_correct": 16}]))
    assert rollout == Read(
        ("set/0.png",), "How many?", (Step("Read the bars.", 0.5, 8, 16), Step("Add them.", 1.0, 16, 16))
    )
    assert isinstance(rollout.steps[1].score, float)


@pytest.mark.parametrize("fields", [{"image": ["a.png", "b.png"]}, {"image": None, "images": ["a.png", "b.png"]}])
def test_images_may_be_a_list(fields: dict[str, Any]) -> None:
    rollout = read(record(**fields))
    assert isinstance(rollout, Read)
    assert rollout.images == ("a.png", "b.png")


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": []}], ids=["absent", "null", "empty"])
def test_a_record_without_an_image_field_is_text(image: dict[str, Any], tmp_path: Path) -> None:
    fields = {key: value for key, value in record().items() if key != "image"} | image
    for folder in ({}, {"images": str(tmp_path)}):
        assert read(fields, **folder) == Read((), "How many?", (Step("Read the bars.", 0.5, 8, 16),))
        assert read(fields, cleaning="published", **folder) == "no_image", "as the published subset builder does"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": " "}, "no_image"),
        ({"image": 3}, "no_image"),
        ({"image": [""]}, "no_image"),
        ({"image": ["a.png", 3]}, "no_image"),
        ({"question": None, "question_orig": None}, "no_question"),
        ({"question": "<image>\n", "question_orig": ""}, "no_question"),
        ({"question_orig": ["How many?"]}, "no_question"),
        ({"steps_with_score": None}, "no_steps"),
        ({"steps_with_score": []}, "no_steps"),
        ({"steps_with_score": {"step": "a"}}, "no_steps"),
        ({"steps_with_score": ["a"]}, "bad_step"),
        ({"steps_with_score": [STEP | {"step": " \n"}]}, "empty_step"),
        ({"steps_with_score": [STEP | {"step": 7}]}, "empty_step"),
        ({"steps_with_score": [{"step": "a", "score": None}]}, "no_usable_score"),
        ({"steps_with_score": [STEP | {"num_mc_total": 0, "num_mc_correct": 0, "score": 0}]}, "no_usable_score"),
        ({"question_orig": "half a pair \ud800"}, "not_utf8"),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str) -> None:
    assert read(record(**changes)) == reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"image": "a', "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"answer": ' + b"9" * 5000 + b"}", "not_json"),
        (b"[]", "not_an_object"),
        (b"NaN", "not_an_object"),
        (b'{"image": "\xff"}', "not_utf8"),
        (b" " * MAX_LINE_BYTES + b"{}", "line_too_long"),
    ],
    ids=range(7),
)
def test_unreadable_lines(line: bytes, reason: str) -> None:
    assert read_line(VisualPRM400K(annotations="unused"), line) == reason


@pytest.mark.parametrize(
    ("fields", "step"),
    [
        ({"score": 0.25}, Step("Then.", 0.25, None, None)),  # bare score
        ({"num_mc_correct": 4, "num_mc_total": 16}, Step("Then.", 0.25, 4, 16)),  # counts only
        ({"score": None, "num_mc_correct": 4, "num_mc_total": 16}, Step("Then.", 0.25, 4, 16)),
        ({"score": 0.25, "num_mc_correct": 4, "num_mc_total": None}, Step("Then.", 0.25, None, None)),
        ({}, Step("Then.", None, None, None)),  # never measured
        ({"score": 0.0, "num_mc_correct": 0, "num_mc_total": 0}, Step("Then.", None, 0, 0)),
        ({"score": None, "num_mc_total": 0}, Step("Then.", None, 0, 0)),
        ({"score": "0.875"}, Step("Then.", 0.875, None, None)),
        ({"score": "8.75e-1", "num_mc_correct": 14, "num_mc_total": 16}, Step("Then.", 0.875, 14, 16)),
        ({"score": 0.5, "num_mc_correct": 8.0, "num_mc_total": 16.0}, Step("Then.", 0.5, 8, 16)),
        ({"score": 0.5, "num_mc_correct": "8", "num_mc_total": "16"}, Step("Then.", 0.5, 8, 16)),
        ({"score": 0.06, "num_mc_correct": 1, "num_mc_total": 16}, Step("Then.", 0.06, 1, 16)),  # two decimals
        ({"score": "half"}, "bad_score"),
        ({"score": "1_0"}, "bad_score"),
        ({"score": "1e400"}, "bad_score"),
        ({"score": True}, "bad_score"),
        ({"score": float("nan")}, "bad_score"),
        ({"score": float("inf")}, "bad_score"),
        ({"score": 1.5}, "bad_score"),
        ({"score": 10**400}, "bad_score"),
        ({"score": [0.5]}, "bad_score"),
        ({"score": float("nan"), "num_mc_total": 0}, "bad_score"),
        ({"score": "n/a", "num_mc_correct": 0, "num_mc_total": 0}, "bad_score"),
        ({"score": 0.5, "num_mc_correct": 0, "num_mc_total": 0}, "score_contradicts_counts"),
        ({"score": 0.9, "num_mc_correct": 0, "num_mc_total": 16}, "score_contradicts_counts"),
        ({"score": 1e-320, "num_mc_correct": 0, "num_mc_total": 16}, "score_contradicts_counts"),
        ({"score": 0.0, "num_mc_correct": 1, "num_mc_total": 1000}, "score_contradicts_counts"),
        ({"score": 0.501, "num_mc_correct": 500, "num_mc_total": 1000}, "score_contradicts_counts"),
        ({"score": 0.5, "num_mc_correct": 17, "num_mc_total": 16}, "bad_counts"),
        ({"score": 0.5, "num_mc_correct": -1, "num_mc_total": 16}, "bad_counts"),
        ({"score": 0.5, "num_mc_correct": 8.5, "num_mc_total": 16}, "bad_counts"),
        ({"score": 0.5, "num_mc_correct": True, "num_mc_total": 16}, "bad_counts"),
        ({"score": 0.5, "num_mc_correct": 1, "num_mc_total": 10**12}, "bad_counts"),
        ({"score": 0.5, "num_mc_total": 2**40}, "bad_counts"),
        ({"score": 0.5, "num_mc_total": "many"}, "bad_counts"),
        ({"score": 0.5, "num_mc_total": False}, "bad_counts"),
        ({"score": 0.5, "num_mc_correct": -3}, "bad_counts"),
        ({"score": 0.5, "num_mc_correct": [8]}, "bad_counts"),
    ],
)
def test_measurements(fields: dict[str, Any], step: Step | str) -> None:
    assert read_step(**fields) == step


@pytest.mark.parametrize("text", ['"answer": "2"', '"image": "set/0.png"', '"score": 0.5', '"num_mc_total": 16'])
def test_a_key_that_is_there_twice(text: str) -> None:
    line = json.dumps(record()).replace(text, f"{text}, {text}")
    for cleaning, kept in (("strict", False), ("published", True)):
        read = read_line(VisualPRM400K(annotations="unused", cleaning=cleaning), line)
        assert isinstance(read, Read) if kept else read == "duplicate_key"


@pytest.mark.parametrize(
    ("counts", "scores"),
    [
        # K and N of every step -> the scores for implied, negative, ignore
        ([(8, 16), (0, 16), (0, 0), (0, 0)], ([0.5, 0, 0, 0], [0.5, 0, 0, 0], [0.5, 0, None, None])),
        ([(0, 0), (8, 16), (0, 0)], ([None, 0.5, None], [0, 0.5, 0], [None, 0.5, None])),
        ([(0, 0), (0, 16), (0, 0)], ([None, 0, 0], [0, 0, 0], [None, 0, None])),
        ([(0, 16), (3, 16), (0, 0)], ([0, 3 / 16, 0], [0, 3 / 16, 0], [0, 3 / 16, None])),
        ([(None, None), (0, 16), (None, 0)], ([None, 0, 0], [None, 0, 0], [None, 0, None])),
        ([(0, 0), (0, 0)], ("no_usable_score", [0, 0], "no_usable_score")),
    ],
)
def test_what_steps_that_were_never_continued_are(counts: Any, scores: Any) -> None:
    steps = [{"step": "a", "num_mc_correct": k, "num_mc_total": n} for k, n in counts]
    fields = record(steps_with_score=steps)
    for unsampled, expected in zip(("implied", "negative", "ignore"), scores, strict=True):
        rollout = read(fields, unsampled=unsampled)
        found = rollout if isinstance(rollout, str) else [step.score for step in rollout.steps]
        assert found == expected
    assert read(fields) == read(fields, unsampled="implied")


def test_the_last_step_may_be_left_out() -> None:
    fields = record(steps_with_score=[STEP, STEP | {"step": "The answer is 2."}])
    for cleaning in ("strict", "published"):
        whole, cut = (read(fields, cleaning=cleaning, final_step=final) for final in ("keep", "drop"))
        assert isinstance(whole, Read)
        assert isinstance(cut, Read)
        assert cut.steps == whole.steps[:1]
    assert read(record(), final_step="drop") == "no_steps"
    assert read(record(steps_with_score=[STEP, STEP | {"score": 7}]), final_step="drop") == "bad_score"


def test_a_score_of_zero_without_counts_implies_negatives_too() -> None:
    never = {"step": "b", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 0}
    rollout = read(record(steps_with_score=[never, {"step": "a", "score": 0}, never]))
    assert isinstance(rollout, Read)
    assert [step.score for step in rollout.steps] == [None, 0.0, 0.0]


def test_question_falls_back_to_the_one_with_placeholders() -> None:
    fields = record(question="<image>\n<image> Which <image>?", question_orig=None)
    rollout, published = read(fields), read(record(question="<image>\nWhich?"), cleaning="published")
    assert isinstance(rollout, Read)
    assert rollout.question == "Which <image>?"
    assert isinstance(published, Read)
    assert published.question == "How many?"
    del fields["question_orig"]
    published = read(fields, cleaning="published")
    assert isinstance(published, Read)
    assert published.question == "<image>\n<image> Which <image>?"


def test_published_cleaning_takes_what_float_takes() -> None:
    steps = [{"step": "a", "score": "1.0"}, {"step": "b", "score": 0, "num_mc_correct": 9, "num_mc_total": 0}]
    rollout = read(record(steps_with_score=steps), cleaning="published")
    assert isinstance(rollout, Read)
    assert rollout.steps == (Step("a", 1.0, None, None), Step("b", 0.0, None, None))


def test_published_cleaning_ranks_before_it_drops() -> None:
    dataset = VisualPRM400K(annotations="unused", cleaning="published")
    for changes, reason in (
        ({"image": ""}, "no_image"),
        ({"image": None}, "no_image"),
        ({"steps_with_score": [STEP, STEP | {"step": " "}]}, "empty_step"),
        ({"steps_with_score": [STEP, STEP | {"score": "n/a"}]}, "bad_score"),
    ):
        line = json.dumps(record(**changes))
        assert read_rollout(dataset, line.encode(), "set").fault == reason


def test_missing_files_are_a_reason_when_a_folder_is_given(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").touch()
    (tmp_path / "set" / "folder.png").mkdir()
    assert isinstance(read(record(), images=str(tmp_path)), Read)
    assert isinstance(read(record(image="Archive-v1.1/set/0.png"), images=str(tmp_path)), Read)
    for image in ("set/1.png", "set/folder.png", ["set/0.png", "set/1.png"], "set/\0.png", "no/" * 3000 + "0.png", "."):
        assert read(record(image=image), images=str(tmp_path)) == "missing_image_file"


def test_image_path_finds_what_was_checked(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").touch()
    dataset = VisualPRM400K(root=str(tmp_path))
    assert dataset.image_folder.path("set/0.png") == tmp_path / "set" / "0.png"
    assert dataset.image_folder.path("Archive-v1.1/set/0.png") == tmp_path / "set" / "0.png"
    with pytest.raises(ValueError, match=r"set/1.png is not under .*; restore it, or select again"):
        dataset.image_folder.path("set/1.png")
    with pytest.raises(ValueError, match=r"dataset.images is not set"):
        VisualPRM400K(annotations="unused").image_folder.path("set/0.png")


def test_files_are_sorted_by_name(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (tmp_path / "annotations" / name).touch()
    assert [file.name for file in VisualPRM400K(root=str(tmp_path)).files().values()] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "dataset.root is not set"),
        ({"annotations": "nowhere"}, "dataset.annotations: nowhere is not a folder"),
        ({"annotations": "."}, "holds no"),
        ({"root": "nowhere"}, "dataset.root=nowhere is not a folder"),
        ({"annotations": ".", "images": "nowhere"}, "dataset.images=nowhere is not a folder"),
    ],
)
def test_folders_that_are_not_there(settings: Any, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        VisualPRM400K(**settings).files()


@pytest.mark.parametrize("settings", [{"cleaning": "none"}, {"unsampled": "positive"}, {"final_step": "cut"}])
def test_settings_are_checked(settings: Any) -> None:
    with pytest.raises(ValueError, match="is unknown; choose"):
        VisualPRM400K(**settings)


def test_a_huge_line_is_dropped_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    path.write_bytes(b"x" * (3 * MAX_LINE_BYTES) + b"\n\n{}")
    with open(path, "rb") as stream:
        lines = list(numbered_lines(stream))
    assert [line[:3] for line in lines] == [
        (0, 0, 3 * MAX_LINE_BYTES + 1),
        (1, 3 * MAX_LINE_BYTES + 1, 1),
        (2, 3 * MAX_LINE_BYTES + 2, 2),
    ]
    assert len(lines[0][3]) == MAX_LINE_BYTES + 1


def test_question_hash_is_stable() -> None:
    """A change would break the caches and the splits that others made."""
    assert question_hash("How many?", ("set/0.png",)) == QUESTION_HASH
    assert question_hash("How many?", ("set/1.png",)) != QUESTION_HASH
    assert question_hash("How many", ("?set/0.png",)) != QUESTION_HASH


QUESTION_HASH = 7623217228053885414

scores = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=4), st.just(0.5))
counts = st.one_of(st.none(), st.integers(-1, 20), st.floats(), st.booleans(), st.just(10**30))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
texts = st.one_of(st.text(st.characters(codec=None), max_size=6), json_values)
steps = st.fixed_dictionaries(
    {}, optional={"step": texts, "score": scores, "num_mc_correct": counts, "num_mc_total": counts}
)
records = st.fixed_dictionaries(
    {},
    optional={
        "image": st.one_of(texts, st.lists(texts, max_size=2)),
        "question": texts,
        "question_orig": texts,
        "steps_with_score": st.one_of(json_values, st.lists(st.one_of(steps, json_values), max_size=3)),
    },
)
lines = st.one_of(
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.tuples(records, st.booleans()).map(
        lambda pair: json.dumps(pair[0], ensure_ascii=pair[1]).encode(errors="surrogatepass")
    ),
)


@given(
    lines, st.sampled_from(["strict", "published"]), st.sampled_from(["implied", "negative", "ignore"]), st.booleans()
)
def test_any_line_is_a_rollout_or_a_counted_drop(line: bytes, cleaning: str, unsampled: str, check: bool) -> None:
    images = str(Path(__file__).parent) if check else None
    read = read_line(VisualPRM400K(annotations="unused", images=images, cleaning=cleaning, unsampled=unsampled), line)
    if isinstance(read, str):
        assert read in REASONS
    else:
        assert read.images or cleaning == "strict"
        assert all(step.text.strip() for step in read.steps)
        assert any(step.score is not None for step in read.steps)
        assert all(step.score is None or 0 <= step.score <= 1 for step in read.steps)
        "".join((read.question, *read.images, *(step.text for step in read.steps))).encode()


REASONS = {
    "line_too_long",
    "not_utf8",
    "not_json",
    "not_an_object",
    "duplicate_key",
    "no_image",
    "missing_image_file",
    "no_question",
    "no_steps",
    "bad_step",
    "empty_step",
    "bad_counts",
    "bad_score",
    "score_contradicts_counts",
    "no_usable_score",
}
