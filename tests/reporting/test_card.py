"""README.md of an exported model."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mprm.reporting.card import front_matter, model_card

COMMIT = "c" * 40
CONFIG: dict[str, Any] = {
    "backbone": {"path": f"OpenGVLab/InternVL2_5-8B@{COMMIT}"},
    "dataset": {"root": f"OpenGVLab/Rollouts@{COMMIT}", "images": "/home/someone/images"},
    "benchmark": {"path": "/home/someone/bench/test.jsonl"},
}
STAGES = {"select": {"kept": 1}, "train/ready": {}, "train": {"optimizer_steps": 1100, "objective": "Hard (tau 0.1)"}}
PROMPT = {"system": "你是", "max_tiles": 6}


def card(run: Path, config: dict[str, Any] = CONFIG, readme: str | None = None, **more: Any) -> tuple[Any, str]:
    """Its front matter and its text."""
    (run / "stages.json").write_text(json.dumps({"stages": STAGES}))
    folder = run.parent / "weights"
    folder.mkdir(exist_ok=True)
    if readme is not None:
        (folder / "README.md").write_text(readme)
    _, front, text = model_card(run, config, folder, PROMPT, "## Use\n\nso\n", **({"finished": True} | more)).split(
        "---\n", 2
    )
    return yaml.safe_load(front), text


def test_a_card_says_what_the_model_is_made_of_and_how_good_it_is(run: Path) -> None:
    front, text = card(run, readme="---\nlicense: mit\nlanguage: en\n---\n# InternVL\n")
    assert front == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["mprm", "reward-model", "process-reward-model"],
        "base_model": "OpenGVLab/InternVL2_5-8B",
        "datasets": ["OpenGVLab/Rollouts"],
    }
    manifest = json.loads((run / "subset" / "manifest.json").read_text())
    kept, eligible = (manifest["totals"][name]["rollouts"] for name in ("kept", "eligible"))
    for line in (
        "# bis-demo",
        f"| backbone | OpenGVLab/InternVL2_5-8B, {COMMIT} |",
        "| its licence | mit |",
        f"| selector | {manifest['selector']['label']} |",
        f"| content of the annotations | SHA-256 {manifest['data_hash']} |",
        "| training (train) | 1,100 optimizer steps, objective Hard (tau 0.1) |",
        "| AUC | 0.893 [0.882, 0.904] |",
        "| macro-F1 (%) | 80.0 [78.5, 81.5] |",
        "| at the threshold | 0.430, invented |",
        f"| content of the benchmark | SHA-256 {'b' * 64} |",
        '  "system": "你是",',
        "## Use",
    ):
        assert f"\n{line}\n" in text
    assert f"| kept | {kept:,} of {eligible:,} rollouts ({kept / eligible:.2%}), " in text


def test_a_language_model_is_listed_as_its_backbone_is(run: Path) -> None:
    assert card(run, readme="---\npipeline_tag: text-generation\n---\n")[0]["pipeline_tag"] == "text-generation"


def test_no_card_tells_where_something_lay(run: Path, tmp_path: Path) -> None:
    local = {**CONFIG, "backbone": {"path": "/home/someone/weights"}, "dataset": {"path": "/home/someone/mine.jsonl"}}
    front, text = card(run, local)
    assert "| backbone | weights |\n| its licence | see the backbone |\n| dataset | mine.jsonl |" in text
    assert not {"base_model", "datasets", "license"} & front.keys()
    assert "someone" not in text
    assert str(tmp_path) not in text


def test_a_checkpoint_has_no_results_and_so_has_what_was_not_evaluated(run: Path) -> None:
    assert "AUC" not in card(run, finished=False)[1]
    (run / "results.json").unlink()
    assert "It has not been measured." in card(run)[1]


@pytest.mark.parametrize(
    ("readme", "found"),
    [
        ("---\nlicense: other\nlicense_name: own\n---\n", {"license": "other", "license_name": "own"}),
        ("# no front matter\n\n---\nlicense: mit\n---\n", {}),
        ("", {}),
        ("---\n- a list\n---\n", {}),
    ],
)
def test_the_licence_is_what_the_backbone_says(readme: str, found: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(readme)
    assert front_matter(tmp_path) == found


def test_a_readme_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match=r"README.md cannot be read .*; restore it, or delete it"):
        front_matter(tmp_path)
