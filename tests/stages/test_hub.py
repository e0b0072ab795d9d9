"""A run on a backbone, rollouts and a benchmark of the hub, and its model there again, against a stand-in."""

import io
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from hub_server import TOKEN, Hub, environment, folder_files, imported_anew, running
from PIL import Image
from program import RUN, run_program

from mprm import StepScorer

REPOSITORY = Path(__file__).resolve().parents[2]
WEIGHTS = REPOSITORY / "mprm" / "chartworld" / "weights" / "internvl"
DATA = (
    "dataset=visualprm400k",
    "dataset.root=org/rollouts",
    "benchmark=visualprocessbench",
    "benchmark.path=org/bench",
)
REST = ("selector=full", "held_out=2", "recipe.epochs=1", "recipe.global_batch_size=8")
MODEL = ("backbone.path=org/tiny",)
# A forked program has imported huggingface_hub before it gets its environment.
ANEW = (
    "import runpy, sys; [sys.modules.pop(n) for n in list(sys.modules) if n.partition('.')[0] == 'huggingface_hub']; "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def run(hub: Hub, place: Path, *words: str, **told: str) -> "CompletedProcess[str]":
    done = run_program("-c", ANEW, RUN, *words, cwd=place, env=os.environ | environment(hub, place / "home", **told))
    assert "Traceback" not in done.stderr, done.stderr
    return done


def lines(records: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def fill(hub: Hub) -> None:
    """A model, 12 rollouts and 4 solutions, with a picture each."""
    buffer = io.BytesIO()
    Image.new("RGB", (56, 56), "white").save(buffer, "PNG")
    pictures = {f"images/{number}.png": buffer.getvalue() for number in range(12)}
    steps = ["blue is 3.", "The answer is 3."]
    rollouts = [
        {
            "image": name,
            "question": f"What is blue in {name}?",
            "steps_with_score": [{"step": step, "score": (len(name) + place) % 2} for place, step in enumerate(steps)],
        }
        for name in pictures
    ]
    response = {"steps": steps, "process_correctness": [1, -1]}
    solutions = [
        {"image": [name], "question": "What is blue?", "response": response, "data_source": "charts"}
        for name in list(pictures)[:4]
    ]
    hub.put("models/org/tiny", folder_files(WEIGHTS) | {"README.md": b"---\nlicense: mit\n---\n"})
    hub.put("datasets/org/rollouts", pictures | {"annotations/charts.jsonl": lines(rollouts)})
    hub.put("datasets/org/bench", pictures | {"test.jsonl": lines(solutions)})


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running() as found:
        fill(found)
        yield found


@pytest.fixture(scope="module")
def trained(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, runs/hubbed."""
    place = tmp_path_factory.mktemp("hubbed")
    done = run(hub, place, *DATA, *MODEL, *REST, "name=hubbed")
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.slow
def test_a_run_goes_on_with_its_snapshots_wherever_the_branches_have_moved(hub: Hub, trained: Path) -> None:
    config = yaml.safe_load((trained / "runs" / "hubbed" / "config.yaml").read_text())
    assert config["backbone"]["path"] == f"org/tiny@{hub.repos['models/org/tiny'].sha}"
    assert config["dataset"]["root"] == f"org/rollouts@{hub.repos['datasets/org/rollouts'].sha}"
    assert config["benchmark"]["path"] == f"org/bench@{hub.repos['datasets/org/bench'].sha}"
    for file in ("model.safetensors", "annotations/charts.jsonl", "test.jsonl"):
        assert len(hub.downloads(file)) == 1
    hub.put("models/org/tiny", {"README.md": b"moved"})
    hub.asked.clear()
    for told in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = run(hub, trained, *DATA, *MODEL, *REST, "name=hubbed", **told)
        assert again.returncode == 0
        assert "already trained in" in again.stdout
    assert hub.asked == []


@pytest.mark.slow
def test_an_export_is_pushed_and_used_from_there(hub: Hub, trained: Path) -> None:
    export = ("task=export", "run=runs/hubbed", "output=exported")
    refused = run(hub, trained, *export, "push_to=others/prm", HF_TOKEN=TOKEN)
    again = shlex.join(["python", RUN, *export, "push_to=others/prm"])
    assert refused.returncode == 2
    assert "push_to=others/prm: the hub refuses it, 403 (the token in use does not open it)" in refused.stderr
    assert f"exported is whole, and this uploads it: {again}" in refused.stderr
    unknown = run(hub, trained, *export, "push_to=me/prm")
    assert unknown.returncode == 2
    assert "(no token is set)" in unknown.stderr
    pushed = run(hub, trained, *export, "push_to=me/prm", HF_TOKEN=TOKEN)
    assert pushed.returncode == 0, pushed.stderr
    assert "output=exported was written by this very command: nothing to do" in pushed.stdout
    assert f"uploaded exported to {hub.address}/me/prm; a new repository is private" in pushed.stdout
    there = hub.repos["models/me/prm"]
    assert there.private
    assert there.files == folder_files(trained / "exported")
    front = yaml.safe_load(there.files["README.md"].decode().split("---\n")[1])
    assert (front["license"], front["base_model"], front["datasets"]) == (
        "mit",
        "org/tiny",
        ["org/rollouts", "org/bench"],
    )
    with imported_anew(environment(hub, trained / "other_home", HF_TOKEN=TOKEN)):
        scorer = StepScorer.from_pretrained("me/prm", device="cpu")
    solution = (Image.new("RGB", (56, 56), "white"), "What is blue?", ["blue is 3.", "The answer is 3."])
    ours = StepScorer.from_pretrained(trained / "exported", device="cpu").score(*solution)
    assert scorer.score(*solution).tolist() == ours.tolist()


@pytest.mark.slow
def test_what_cannot_be_had_is_said_before_the_selection(hub: Hub, tmp_path: Path) -> None:
    absent = run(hub, tmp_path, *DATA, "backbone.path=org/absent", *REST)
    assert (absent.returncode, absent.stdout) == (2, "")
    assert absent.stderr.startswith("mprm: backbone.path=org/absent is no path here, and the hub has no such model")
    offline = run(hub, tmp_path, *DATA, *MODEL, *REST, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert offline.stderr.count("\n") == 1
    assert not list(tmp_path.glob("cache/*"))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".hub.lock"]


@pytest.mark.slow
def test_a_selection_downloads_no_model_and_its_training_finds_the_same_run(hub: Hub, tmp_path: Path) -> None:
    fill(hub)
    hub.asked.clear()
    selected = run(hub, tmp_path, "task=select", *DATA, *MODEL, *REST)
    assert "selected 12 of 12 rollouts" in selected.stdout
    assert hub.downloads("model.safetensors") == hub.downloads("test.jsonl") == []
    run(hub, tmp_path, "task=train", *DATA, *MODEL, *REST, "check=true")
    (folder,) = (tmp_path / "runs").glob("*/config.yaml")
    assert len(hub.downloads("model.safetensors")) == 1
    assert "-visualprm400k-visualprocessbench-seed0-" in folder.parent.name
