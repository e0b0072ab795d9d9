"""From a folder as people have it on their disks to a report: every record of it is accounted for.

38 sources under the names of the public data, the two archives unpacked, NLVR2's pairs of pictures one folder deeper,
annotations that stop early, one file with a byte order mark, and one picture in fifty that cannot be decoded. What is
drawn and written is chartworld's, so that the tiny backbone can learn from it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from program import RUN, run_program

from mprm.chartworld.corpus import ROLLOUTS_PER_PROBLEM, ChartWorld

REPOSITORY = Path(__file__).resolve().parents[1]
# The public prompts that the data was made of are 39; which one has no annotations is not known here.
NAMES = """
    CLEVR_math_en_20240402_extracted MathV360K_prompts SROIE_information_extraction_multi_turn_20240620_extracted
    ai2d_train_12k_en_20240410_extracted chartqa_trainval_30k_w_csv_en_20240402_extracted
    cocorem_exist_yorn_en_20241016 docvqa_train_56k_en_20240402_extracted dvqa_en_20240402_extracted_int_only
    figureqa_en_20240402_extracted geo170k_extracted_full geometry3k_en_20240402_extracted
    geometry3k_en_20240402_extracted_open_ended_only geomverse_extracted
    geoqa+_en_20240402_extracted_open_ended_only geoqa+_extracted_en_version
    geos_en_20240402_extracted_open_ended_only iconqa_train_extracted
    infographics_20240403_qa_20240407_v2_extracted koniq10k_en_20240403 m3cot_train_extracted
    mapqa_suv_en_20240402_extracted mavis_function_abs mavis_function_cos mavis_function_log mavis_function_poly
    mavis_function_sin mavis_function_tan mavis_geo_depth0_text_dominant_vision_dominant_en
    mavis_geo_depth1_text_dominant_vision_dominant_en mavis_geo_depth2_text_dominant_vision_dominant_en
    mavis_geo_depth3_text_dominant_vision_dominant_en nlvr2_en_20240910
    scienceqa_multi_choice_en_20240402_extracted study_com_en_20240619 super_clevr_en_20240402_int
    super_clevr_en_20240402_yorn unigeo_calc_en_20240402_extracted_open_ended_only vqav2_en_20240402_int
"""
SOURCES = NAMES.split()
PAIRS, MARKED = "nlvr2_en_20240910", "chartqa_trainval_30k_w_csv_en_20240402_extracted"
PROBLEMS = 4  # of a source
ROLLOUTS = len(SOURCES) * PROBLEMS * ROLLOUTS_PER_PROBLEM
BROKEN, TORN = 50, 150  # one picture in so many is cut off after so many bytes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The folder."""
    world = ChartWorld(root=str(tmp_path / "world"), rollouts=ROLLOUTS, early_stop=True)
    records = [json.loads(line) for file in world.files().values() for line in file.read_text().splitlines()]
    root = tmp_path / "VisualPRM400K-v1.1-Raw"
    (root / "annotations").mkdir(parents=True)
    size = PROBLEMS * ROLLOUTS_PER_PROBLEM
    for number, source in enumerate(SOURCES):
        lines = [moved(world, record, source, root) for record in records[number * size : (number + 1) * size]]
        mark = "\ufeff" if source == MARKED else ""
        content = mark + "".join(json.dumps(line) + "\n" for line in lines)
        (root / "annotations" / f"{source}.jsonl").write_text(content, encoding="utf-8")
    for picture in sorted((root / "images").rglob("*.png"))[::BROKEN]:
        picture.write_bytes(picture.read_bytes()[:TORN])
    return root


def moved(world: ChartWorld, record: dict[str, Any], source: str, root: Path) -> dict[str, Any]:
    """The record in the source, and its picture where the archive has it."""
    _, solver, name = record["image"].split("/")
    if source == PAIRS:
        names = [f"images/train-{solver}-{name.removesuffix('.png')}-img{side}.png" for side in (0, 1)]
        files = [root / "images" / "nlvr2" / name for name in names]
        record |= {"image": names, "question": f"<image>\n{record['question']}"}
    else:
        folder = source.split("_")[0]
        files = [root / "images" / folder / "train" / f"{solver}-{name}"]
        record["image"] = f"VisualPRM400K-v1.1-Raw/{folder}/train/{solver}-{name}"
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(world.image_folder.path(f"images/{solver}/{name}"), file)
    return record


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_public_folder_from_its_files_to_a_report(tree: Path, tmp_path: Path) -> None:
    spoiled = tree / "annotations" / "koniq10k_en_20240403.jsonl"
    (first, *_) = whole = lines_of(spoiled)
    contradicting = [{"step": "A part.", "score": 0.9, "num_mc_correct": 0, "num_mc_total": 16}]
    whole += [first | {"image": "no/such.png"}, first | {"steps_with_score": contradicting}]
    spoiled.write_text("".join(json.dumps(record) + "\n" for record in whole))
    settings = ("dataset=visualprm400k", f"dataset.root={tree}", "selector=full", "held_out=40", "recipe.epochs=1")
    folders = (f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}", "name=whole", "recipe.global_batch_size=32")
    benchmark = ("benchmark.size=40", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}")
    done = run_program(RUN, *settings, *folders, *benchmark)
    assert done.returncode == 0, done.stderr

    run = tmp_path / "runs" / "whole"
    manifest = json.loads((run / "subset" / "manifest.json").read_text())
    assert set(manifest["sources"]) == set(SOURCES)
    assert sum(source["records"] for source in manifest["sources"].values()) == ROLLOUTS + 2
    assert manifest["dropped"] == {"score_contradicts_counts": 1, "missing_image_file": 1}
    kept = manifest["totals"]["kept"]
    assert kept["rollouts"] == ROLLOUTS
    assert 0 < kept["unsampled_share"] == kept["unsampled_negative_share"]
    assert "of the steps have 0 of 0 continuations" in done.stdout

    left_out = lines_of(run / "left_out.jsonl")
    assert {one["reason"] for one in left_out} == {"unreadable_image"}
    assert {(one["source"], one["line"]) for one in left_out} == broken(tree)
    held_out = {one["id"]: one for one in Dataset.load_from_disk(str(run / "held_out_examples"))}
    never_trained_on = held_out.keys() | {one["id"] for one in left_out}
    assert json.loads((run / "stages.json").read_text())["stages"]["train"]["rollouts"] == ROLLOUTS - len(
        never_trained_on
    )

    # What was implied to be a negative is one when the trained model is measured, too.
    validated = lines_of(run / "validation_predictions.jsonl")
    assert {one["id"] for one in validated} == held_out.keys() - {one["id"] for one in left_out}
    for one in validated:
        assert one["labels"] == [1 if score > 0 else -1 for score in held_out[one["id"]]["scores"]]
    assert len(lines_of(run / "predictions.jsonl")) == 40
    assert (run / "report.html").stat().st_size
    assert json.loads((run / "results.json").read_text())["auc"]["value"] > 0.5


def broken(tree: Path) -> set[tuple[str, int]]:
    """Source and line of the rollouts about the pictures that cannot be decoded."""
    names = {picture.name for picture in (tree / "images").rglob("*.png") if picture.stat().st_size == TORN}
    return {
        (file.stem, number)
        for file in (tree / "annotations").iterdir()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines())
        if any(f"/{name}" in line for name in names)
    }
