"""What a mixture reads, what it calls it, and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from mprm.config import Config, bind
from mprm.data.image_folder import ImageFolder
from mprm.data.mixture import Mixture, PartFolders
from mprm.data.prm800k import PRM800K
from mprm.data.visualprm400k import JsonLines, VisualPRM400K
from mprm.main import open_loader
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import held_out, keep, remarks, write_subset

Load = Callable[..., Config]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "select.md"


def write(path: Path, *questions: str, image: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"image": image, "question": q, "steps": ["One.", "Two."], "score": [1, 0]} for q in questions]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_part_is_chosen_by_command_line_and_by_a_yaml_with_defaults(load: Load, tmp_path: Path) -> None:
    """docs/select.md shows both; tests/test_docs.py runs the command."""
    (text,) = re.findall(r"^```yaml\n(# conf/dataset/both.yaml\n.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "both.yaml").write_text(text)
    (tmp_path / "small.yaml").write_text("defaults:\n  - dataset: both\n")
    loader = open_loader(PAGE.parents[1] / "conf", tmp_path)
    made = loader.load_configuration("small", ["dataset.parts.text.neutral=ignore"], RunMode.RUN)
    GlobalHydra.instance().clear()
    both = bind(made.dataset)
    assert both.weights == {"visual": 2, "text": 1}
    assert both.parts["visual"] == VisualPRM400K(root="/data/VisualPRM400K-v1.1-Raw")
    assert both.parts["text"] == PRM800K(path="/data/prm800k/phase2_train.jsonl", neutral="ignore")

    config = load("dataset=mixture", "+dataset@dataset.parts.text=prm800k", "dataset.parts.text.neutral=wrong")
    assert config.dataset == Mixture(parts={"text": PRM800K(neutral="wrong")})
    assert "mixture" in str(config.name)
    other = load("dataset=mixture", "+dataset@dataset.parts.text=prm800k", "dataset.parts.text.neutral=right")
    assert other.name != config.name


def test_sources_and_images_carry_the_part(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.jsonl", "Why?", image="x.png")
    write(tmp_path / "b" / "one.jsonl", "Why?", image="x.png")
    for name in ("a", "b"):
        (tmp_path / name / "x.png").touch()
    text = write(tmp_path / "c" / "text.jsonl", "Why?", "What?")
    parts = {"a": JsonLines(path=str(tmp_path / "a")), "b": JsonLines(path=str(tmp_path / "b"))}
    mixture = Mixture(parts=parts | {"c": JsonLines(path=str(text)), "d": JsonLines(path=str(text))})
    signals = build_signals(mixture, tmp_path / "cache")
    assert signals["source"].to_pylist() == ["a/one", "b/one", "c/text", "c/text", "d/text", "d/text"]
    assert list(mixture.files()) == ["a/one", "b/one", "c/text", "d/text"]
    assert mixture.image_folder.names(["x.png"], "b/one") == ("b/x.png",)
    assert mixture.image_folder.path("b/x.png") == tmp_path / "b" / "x.png"
    first, second = signals["question_hash"].to_pylist()[:2]
    assert first != second  # another picture of the same name
    assert signals["question_hash"].to_pylist()[2:4] == signals["question_hash"].to_pylist()[4:]
    chosen = held_out(signals, 1)["source"].to_pylist()
    assert chosen in (["a/one"], ["b/one"])  # a question of text is in both parts, and would be two
    only = Mixture(parts=parts, sources=["a/one", "b/one"], exclude_sources=None)
    assert list(only.files()) == ["a/one", "b/one"]


def test_a_file_has_one_name_in_all_parts(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").touch()
    places = {"in": f"{tmp_path}/images", "same": f"{tmp_path}/images/", "over": str(tmp_path), "none": None}
    found = PartFolders({part: ImageFolder(place) for part, place in places.items()})
    assert {found.names(["x.png"], f"{part}/s") for part in ("in", "same")} == {("over/images/x.png",)}
    assert found.names(["images/x.png"], "over/s") == ("over/images/x.png",)
    assert found.names(["x.png"], "none/s") == ("none/x.png",)
    assert found.path("over/images/x.png") == tmp_path / "images" / "x.png"
    with pytest.raises(ValueError, match=r"^dataset\.parts\.none\.images is not set"):
        found.path("none/x.png")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("dataset.weights={a:1}", r"^dataset\.weights has none for b; give every part one, or dataset\.weights=null$"),
        (
            "dataset.weights={a:1,b:1,c:1}",
            r"^dataset\.weights: c is not one of the parts a, b; .* ~dataset\.weights\.c$",
        ),
        ("dataset.weights={a:1,b:0}", r"^dataset\.weights\.b=0 is not positive; .* add ~dataset\.parts\.b$"),
        ("dataset.weights={a:1,b:-2}", r"^dataset\.weights\.b=-2 is not positive"),
        ("dataset.weights={a:1,b:inf}", r"^dataset\.weights\.b=inf is not positive"),
        ("dataset.weights=3", r"^dataset\.weights=3 has the wrong type; give a number by name, {a: 2, b: 1}, or null"),
        ("+dataset@dataset.parts.c=mixture", r"^dataset\.parts\.c is a mixture, too; give its parts"),
        ("+dataset.parts.c.path=x", r"^dataset\.parts\.c has no reader; add \+dataset@dataset\.parts\.c=NAME$"),
        ("dataset.parts.a=prm800k", r"^dataset\.parts\.a=prm800k is no data set; write \+dataset@dataset\.parts\.a="),
        ("dataset.parts.a=null", r"^dataset\.parts\.a=None is no data set; write \+dataset@dataset\.parts\.a="),
        ("dataset.parts=null", r"^dataset\.parts=null has the wrong type; give keys with values, or leave it out$"),
        (
            "dataset.parts.b.neutral=maybe",
            r"^dataset\.parts\.b\.neutral=maybe is unknown; choose right, wrong, ignore$",
        ),
        ("+dataset.parts.b.natural=x", r"^dataset\.parts\.b\.natural is not a known key \(did you mean neutral\?\)"),
        ("+dataset.parts.c._target_=x.y", r"^dataset\.parts\.c\._target_=x\.y names no component"),
    ],
)
def test_mistakes_are_one_line(load: Load, overrides: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("dataset=mixture", "+dataset@dataset.parts.a=jsonl", "+dataset@dataset.parts.b=prm800k", overrides)


def test_what_is_not_there_is_said_of_its_part(tmp_path: Path) -> None:
    good = JsonLines(path=str(write(tmp_path / "good.jsonl", "Why?")))
    for mixture, message in (
        (Mixture(), r"^dataset\.parts is empty; add a data set, such as \+dataset@dataset\.parts\.text=prm800k$"),
        (Mixture(parts={"a": good, "b": JsonLines()}), r"^dataset\.parts\.b\.path is not set; "),
        (
            Mixture(parts={"a": good, "b": JsonLines(path="no.jsonl")}),
            r"^dataset\.parts\.b\.path=no\.jsonl is not there",
        ),
        (Mixture(parts={"a": good}, sources=["good"]), r"^dataset\.sources: good is not one of the sources a/good$"),
        (
            Mixture(parts={"a": good, "b": good}, exclude_sources=["b/good"]),
            r"leave no source of b; add ~dataset\.parts",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            mixture.files()
    wrong = Mixture(parts={"a": good, "b": PRM800K(path=good.path)})
    signals = build_signals(wrong, tmp_path / "cache")
    assert keep(signals, Full()).num_rows == 1
    message = (
        r"^dataset\.parts\.b: none of 1 records is left to train on \(dropped: no_question 1\): line 1 .*; wanted are "
    )
    with pytest.raises(ValueError, match=message + r"question\.problem"):
        write_subset(tmp_path / "subset", wrong, signals, Full(), seed=0)
    empty = Mixture(parts={"a": good, "b": JsonLines(path=str(write(tmp_path / "no_question.jsonl", "")))})
    signals = build_signals(empty, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"^dataset\.parts\.b: .* \(dataset\.parts\.b\.fields\)$"):
        write_subset(tmp_path / "subset", empty, signals, Full(), seed=0)


def test_what_is_wrong_with_a_list_is_said_of_its_part(tmp_path: Path) -> None:
    file, listed = write(tmp_path / "good.jsonl", "Why?"), tmp_path / "list.jsonl"
    listed.write_text('{"source": "b/good", "line": 0}')  # a part's own list has the names without the part
    mixture = Mixture(parts={"a": JsonLines(path=str(file)), "b": JsonLines(path=str(file), exclude=str(listed))})
    said = remarks(mixture, build_signals(mixture, tmp_path / "cache"))
    assert said[0] == f"dataset.parts.b.exclude={listed}: 1 of 1 lines match no record"
    listed.write_text("{}")
    with pytest.raises(ValueError, match=r"^dataset\.parts\.b\.exclude: line 0 \(from 0\) of .* names no record"):
        build_signals(mixture, tmp_path / "cache")
