"""Reading of the public reward benchmarks, each in a small file of its layout."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mprm.data.lines import Dropped
from mprm.data.questions import Pair
from mprm.data.reward_benchmarks import MMRLHFRewardBench, MultimodalRewardBench, RewardBenchmark, VLRewardBench


def png(grey: int) -> bytes:
    buffer = BytesIO()
    Image.new("L", (2, 2), grey).save(buffer, "PNG")
    return buffer.getvalue()


def vl_row(**changes: Any) -> dict[str, Any]:
    fields = {"id": "RLAIF-V-14", "query": "How?", "response": ["10", "11"], "human_ranking": [0, 1]}
    return fields | {"image": {"bytes": png(0), "path": "RLAIF-V-14.png"}, "query_source": "COCO"} | changes


def vl_file(folder: Path, *rows: dict[str, Any]) -> VLRewardBench:
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "test.parquet")
    return VLRewardBench(path=str(folder / "test.parquet"))


def test_vl_rewardbench(tmp_path: Path) -> None:
    ids = ("wildvision-battle-5808", "hallucination_pair-1942", "RLHF-V-3", "mathverse_2028", "mmmu_pro_test_Art_3")
    same = vl_row(id="LRVInstruction-000000007746", human_ranking=[1, 0])
    rows = [vl_row(), same, *(vl_row(id=name, image={"bytes": png(9), "path": None}) for name in ids)]
    benchmark = vl_file(tmp_path, *rows)
    pairs = list(benchmark.records())
    assert all(isinstance(pair, Pair) for pair in pairs)
    assert [(pair.id, pair.source, pair.label) for pair in pairs if isinstance(pair, Pair)] == [
        ("RLAIF-V-14:0", "hallucination", "a"),
        ("LRVInstruction-000000007746:1", "general", "b"),
        ("wildvision-battle-5808:2", "general", "a"),
        ("hallucination_pair-1942:3", "hallucination", "a"),
        ("RLHF-V-3:4", "hallucination", "a"),
        ("mathverse_2028:5", "reasoning", "a"),
        ("mmmu_pro_test_Art_3:6", "reasoning", "a"),
    ]
    first, again, other = (pair for pair in pairs[:3] if isinstance(pair, Pair))
    assert first == Pair("RLAIF-V-14:0", "hallucination", first.images, "How?", "10", "11", "a")
    assert first.images == again.images != other.images
    assert benchmark.image_folder.path(*first.images).read_bytes() == png(0)
    assert benchmark.image_folder.path(*first.images).parent == tmp_path / "test.parquet.images"
    assert benchmark.image_folder.path(*first.images).suffix == ".png"
    assert benchmark.image_folder.path(*other.images).read_bytes() == png(9)


def test_vl_rewardbench_shows_no_placeholder_of_the_image(tmp_path: Path) -> None:
    """As its inference.py; "<image>" within a line stands."""
    (pair,) = vl_file(tmp_path, vl_row(query="<image>\nIs <image> red?", response=["<image>\nYes", "No"])).records()
    assert isinstance(pair, Pair)
    assert (pair.prompt, pair.answer_a, pair.answer_b) == ("Is <image> red?", "Yes", "No")


def test_images_inside_a_file_are_written_once_and_found_by_their_content(tmp_path: Path) -> None:
    (pair,) = vl_file(tmp_path, vl_row()).records()
    assert isinstance(pair, Pair)
    path = tmp_path / "test.parquet.images" / pair.images[0]
    written = path.stat().st_mtime_ns
    # Another edition of the file at the same path, and an object that has not read any pairs.
    edition = vl_file(tmp_path, vl_row(image={"bytes": png(9), "path": None}), vl_row())
    assert edition.image_folder.path(*pair.images) == path
    assert path.stat().st_mtime_ns == written
    changed, same = edition.records()
    assert isinstance(changed, Pair)
    assert isinstance(same, Pair)
    assert same.images == pair.images != changed.images
    assert {file.name for file in path.parent.iterdir()} == {*changed.images, *same.images}
    elsewhere = VLRewardBench(path=edition.path, images=str(tmp_path / "mine"))
    assert list(elsewhere.records()) == [changed, same]
    assert elsewhere.image_folder.path(*changed.images).parent == tmp_path / "mine"


@pytest.mark.parametrize("path", ["shards", "shards/*.parquet", "*/test-*-of-00002.parquet"])
def test_shards_are_one_benchmark(tmp_path: Path, path: str) -> None:
    """A folder, or a glob; pictures under images, too."""
    (tmp_path / "shards").mkdir()
    pq.write_table(pa.Table.from_pylist([vl_row(), vl_row()]), tmp_path / "shards" / "test-00000-of-00002.parquet")
    several = {"images": [{"bytes": png(9), "path": None}, {"bytes": png(0), "path": None}]}
    row = {name: value for name, value in vl_row().items() if name != "image"} | several
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "shards" / "test-00001-of-00002.parquet")
    benchmark = VLRewardBench(path=str(tmp_path / path))
    pairs = [pair for pair in benchmark.records() if isinstance(pair, Pair)]
    assert [pair.id for pair in pairs] == ["RLAIF-V-14:0", "RLAIF-V-14:1", "RLAIF-V-14:2"]
    assert [len(pair.images) for pair in pairs] == [1, 1, 2]
    assert benchmark.image_folder.path(pairs[2].images[0]).read_bytes() == png(9)
    assert benchmark.image_folder.path(pairs[0].images[0]).parent == tmp_path / "shards.images"


def test_vl_rewardbench_as_chosen_and_rejected(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "0.jpg").touch()
    record = {"id": "hallucination_pair-0", "prompt": "How?", "chosen": "10", "rejected": "11", "image": "img/0.jpg"}
    records = (record, record | {"id": "mmmu-1"}, record | {"prompt": "<image>\nHow?", "rejected": "<image>\n10"})
    (tmp_path / "vl.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    benchmark = VLRewardBench(path=str(tmp_path / "vl.jsonl"))
    assert list(benchmark.records()) == [
        Pair("hallucination_pair-0:0", "hallucination", ("img/0.jpg",), "How?", "10", "11", "a"),
        Pair("mmmu-1:1", "reasoning", ("img/0.jpg",), "How?", "10", "11", "a"),
        Dropped("vl", 2, "same_answers"),
    ]
    assert benchmark.image_folder.path("img/0.jpg") == tmp_path / "img" / "0.jpg"


def test_no_shard_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "test-*.parquet"):
        with pytest.raises(ValueError, match=r"\Areward_benchmark\.path=\S+ is and holds no parquet file; give .*\Z"):
            list(VLRewardBench(path=str(path)).records())


def test_vl_rewardbench_reasons(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"image": None}, "no_image"),
        ({"image": {"bytes": None, "path": "0.png"}}, "no_image"),
        ({"query": " "}, "no_question"),
        ({"query": "<image>\n"}, "no_question"),
        ({"response": ["10"]}, "no_answer"),
        ({"response": None}, "no_answer"),
        ({"response": ["10", None]}, "no_answer"),
        ({"response": ["10", "10"]}, "same_answers"),
        ({"response": ["10", "<image>\n10"]}, "same_answers"),
        ({"response": ["10", "<image>\n"]}, "no_answer"),
        ({"human_ranking": [0, 0]}, "tie"),
        ({"human_ranking": [1, 1]}, "tie"),
        ({"human_ranking": [0, 2]}, "bad_label"),
        ({"human_ranking": [0]}, "bad_label"),
        ({"human_ranking": None}, "bad_label"),
        ({"id": None}, "bad_id"),
        ({"id": ""}, "bad_id"),
    ]
    benchmark = vl_file(tmp_path, *(vl_row(**changes) for changes, _ in cases))
    assert list(benchmark.records()) == [Dropped("test", row, reason) for row, (_, reason) in enumerate(cases)]


def test_vl_rewardbench_messages(tmp_path: Path) -> None:
    wanted = r"; give the test parquet file of VL-RewardBench$"
    vl_file(tmp_path, vl_row())
    with pytest.raises(ValueError, match=rf"^reward_benchmark\.path is not set{wanted}"):
        list(VLRewardBench().records())
    (tmp_path / "no.parquet").write_text("{}")
    with pytest.raises(
        ValueError, match=rf"^reward_benchmark\.path=.*no\.parquet cannot be read \(Parquet .*\){wanted}"
    ):
        list(VLRewardBench(path=str(tmp_path / "no.parquet")).records())
    whole = bytearray((tmp_path / "test.parquet").read_bytes())
    middle = slice(8, len(whole) // 3)
    whole[middle] = bytes(len(whole[middle]))
    (tmp_path / "torn.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match=rf"^reward_benchmark\.path=.*torn\.parquet cannot be read \(.*\){wanted}"):
        list(VLRewardBench(path=str(tmp_path / "torn.parquet")).records())
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=rf"other\.parquet cannot be read \(no column human_ranking\){wanted}"):
        list(VLRewardBench(path=str(tmp_path / "other.parquet")).records())
    inside = str(tmp_path / "no.parquet" / "images")
    with pytest.raises(ValueError, match=r"^reward_benchmark\.images=.*/images cannot be written \(Not a directory\);"):
        list(VLRewardBench(path=str(tmp_path / "test.parquet"), images=inside).records())


def multimodal(folder: Path, *records: object) -> list[Pair | Dropped]:
    (folder / "images" / "nocaps").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "nocaps" / "1.jpg").touch()
    (folder / "all_data.json").write_text(json.dumps(records, indent=2))
    return list(MultimodalRewardBench(path=str(folder / "all_data.json")).records())


def multimodal_record(**changes: Any) -> dict[str, Any]:
    fields = {"ID": "nocaps_1", "Category": "open_generation/correctness_task", "Text": "How?", "Better": "Output2"}
    return fields | {"Image": "images/nocaps/1.jpg", "Output1": "10", "Output2": "11"} | changes


def test_multimodal_rewardbench(tmp_path: Path) -> None:
    named = (
        ("pairs_1", "safety", "safety/bias"),
        ("hateful_1", "safety", "safety/toxicity"),
        ("mathvista_1", "reasoning", "reasoning/math"),
        ("EMMA-Coding_1", "reasoning", "reasoning/coding"),
        ("MMBench_1", "vqa", "vqa"),
    )
    others = [multimodal_record(ID=name, Category=category, Better="Output1") for name, category, _ in named]
    first, *pairs = multimodal(tmp_path, multimodal_record(), *others)
    group = "open_generation/correctness_task"
    assert first == Pair("nocaps_1:0", group, ("images/nocaps/1.jpg",), "How?", "10", "11", "b")
    assert [(pair.id, pair.source, pair.label) for pair in pairs if isinstance(pair, Pair)] == [
        (f"{name}:{number}", source, "a") for number, (name, _, source) in enumerate(named, start=1)
    ]
    benchmark = MultimodalRewardBench(path=str(tmp_path / "all_data.json"))
    assert benchmark.image_folder.path("images/nocaps/1.jpg") == tmp_path / "images" / "nocaps" / "1.jpg"


def test_multimodal_rewardbench_reasons(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"Image": None}, "no_image"),
        ({"Image": "images/nocaps/2.jpg"}, "missing_image_file"),
        ({"Text": None}, "no_question"),
        ({"Output2": ""}, "no_answer"),
        ({"Output2": "10"}, "same_answers"),
        ({"Better": "Output3"}, "bad_label"),
        ({"Better": None}, "bad_label"),
        ({"ID": ["x"]}, "bad_id"),
        ({"Category": None}, "no_source"),
        ({"Text": "\ud800"}, "not_utf8"),
    ]
    records = [multimodal_record(**changes) for changes, _ in cases]
    reasons = [*(reason for _, reason in cases), "not_an_object"]
    assert multimodal(tmp_path, *records, "x") == [
        Dropped("all_data", number, reason) for number, reason in enumerate(reasons)
    ]


@pytest.mark.parametrize("text", ["", "{}", '{"ID": 1}\n{"ID": 2}', "[" * 100_000])
def test_multimodal_rewardbench_is_one_list(text: str, tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"^reward_benchmark\.path=.*all\.json is no JSON list; give the all_data\.json of Multimodal"
    ):
        list(MultimodalRewardBench(path=str(tmp_path / "all.json")).records())


def mm_rlhf_record(**changes: Any) -> dict[str, Any]:
    fields = {"id": "0737_62", "image": "mcq/1.png", "prompt": "How?", "chosen": "10", "rejected": "11"}
    return fields | {"chosen_reason": "right", "rejected_reason": "wrong"} | changes


def test_mm_rlhf_rewardbench(tmp_path: Path) -> None:
    for name in ("mcq", "short", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    video = mm_rlhf_record(video="video/lnO2W7cq1DA")
    del video["image"]
    cases: list[tuple[dict[str, Any], Pair | str]] = [
        (mm_rlhf_record(), Pair("0737_62:0", "mcq", ("mcq/1.png",), "How?", "10", "11", "a", item="0737_62")),
        # A further pair of the same question.
        (
            mm_rlhf_record(rejected="12"),
            Pair("0737_62:1", "mcq", ("mcq/1.png",), "How?", "10", "12", "a", item="0737_62"),
        ),
        (
            mm_rlhf_record(image="short/1.png"),
            Pair("0737_62:2", "short", ("short/1.png",), "How?", "10", "11", "a", item="0737_62"),
        ),
        (video, "video"),
        (mm_rlhf_record(image="long/1.jpg"), "missing_image_file"),
        (mm_rlhf_record(image="elsewhere/1.png"), "no_source"),
        (mm_rlhf_record(prompt=""), "no_question"),
        (mm_rlhf_record(chosen=None), "no_answer"),
        (mm_rlhf_record(chosen="11"), "same_answers"),
        (mm_rlhf_record(id=None), "bad_id"),
    ]
    (tmp_path / "bench.jsonl").write_text("\n".join(json.dumps(record) for record, _ in cases))
    assert list(MMRLHFRewardBench(path=str(tmp_path / "bench.jsonl")).records()) == [
        Dropped("bench", line, wanted) if isinstance(wanted, str) else wanted for line, (_, wanted) in enumerate(cases)
    ]
    with pytest.raises(
        ValueError, match=r"^reward_benchmark\.path=no is not a file; give the mm_reward_bench\.jsonl of"
    ):
        list(MMRLHFRewardBench(path="no").records())


def test_ones_own_pairs_are_a_benchmark_too(tmp_path: Path) -> None:
    (tmp_path / "0.png").touch()
    own = {"image": "0.png", "prompt": "How?", "answer_a": "10", "answer_b": "11", "label": "b"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(own))
    benchmark = RewardBenchmark(path=str(tmp_path / "mine.jsonl"))
    assert list(benchmark.records()) == [Pair("mine:0", "mine", ("0.png",), "How?", "10", "11", "b")]
    with pytest.raises(ValueError, match=r"restore it, or give reward_benchmark\.images$"):
        benchmark.image_folder.path("1.png")
