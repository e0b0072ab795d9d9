"""Every command of README.md and docs/ is run: on a small world, with the reader's own folders replaced by test data.

docs/add_your_own.md has a test of its own, and docs/chartworld.md's making of weights, too.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from program import forked_python, run_program

from mprm.config import Config
from mprm.runs.artifacts import remove
from mprm.tasks import OF_A_RUN, TASKS

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "add_your_own.md")


def commands(language: str) -> list[str]:
    """The lines of all blocks in that language, each once, without their comments; a \\ joins two lines."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", TEXT.replace("\\\n", " "), re.MULTILINE | re.DOTALL)
    lines = (line.split("  #")[0].strip() for block in blocks for line in block.splitlines())
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line))


def python_block(word: str) -> str:
    """The one block of Python that holds the word."""
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (code,) = [code for code in blocks if word in code]
    return str(code)


RUNS = [command for command in commands("bash") if command.startswith("python run.py ")]
SET_UP = [command for command in commands("bash") if not command.startswith(("python run.py ", "python -m tools."))]
SELECTION = REPOSITORY / "tests" / "oracle_data" / "selection" / "annotations"
ORIGINAL = REPOSITORY / "tests" / "oracle_data" / "internvl" / "checkpoint"
PREDICTIONS = REPOSITORY / "tests" / "oracle_data" / "metrics" / "predictions.json"
QUESTION, STEPS = "What is blue plus purple?", ["blue is 3.", "purple is 7.", "The answer is 10."]
SMALL = (
    "dataset.rollouts=96",
    "held_out=8",
    "benchmark.size=20",
    "recipe.epochs=1",
    "recipe.global_batch_size=16",
)


def test_the_readme_is_short_and_there_are_commands() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150
    assert len(RUNS) >= 30
    assert "make demo" in SET_UP
    assert "make test" in SET_UP


def test_no_figure_is_still_to_be_filled_in() -> None:
    for path in [*PAGES, REPOSITORY / "LOG.md", *REPOSITORY.glob("conf/**/*.yaml")]:
        assert not re.search(r"RESULT|TODO|@@|^[A-Z]{4,}$", path.read_text(), re.MULTILINE), path


def test_set_up_by_hand_is_what_make_does() -> None:
    """make runs the commands of the README with .venv's own programs."""
    makefile = (REPOSITORY / "Makefile").read_text().replace("--quiet ", "")
    for command in SET_UP:
        words = [word for word in command.split(" && ")[0].split() if word not in ("python3",)]
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
        else:
            assert " ".join(words).replace("'", "") in makefile.replace("'", ""), command


SIZE = 8  # of the questions
FEW = (f"questions.size={SIZE}", "solutions=2")
NARROW = ("selector.alpha=0.2", "selector.ratio=0.1")  # of a sweep file
SHORT = (  # of a judge's training
    "preferences.size=48",
    "preferences.traced=0.7",
    "reward_benchmark.size=6",
    "sft.epochs=1",
    "grpo.group_size=2",
    "judge.max_new_tokens=12",
)


def used(task: str, override: str, words: list[str]) -> bool:
    key = re.split(r"[.=]", override)[0]
    of_a_run = any(word.startswith(("run=", "model=")) for word in words) and key in OF_A_RUN
    return key in (*TASKS[task].groups, *TASKS[task].keys) and not of_a_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what `python run.py` finds in a clone."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("conf", "mprm", "sweeps", "run.py"):
        os.symlink(REPOSITORY / name, folder / name)
    os.symlink(SELECTION, folder / "annotations")
    for line in SELECTION.glob("*.jsonl"):
        for image in re.findall(r'"image": "([^"]+)"', line.read_text()):
            path = folder / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    Image.new("RGB", (56, 56), "white").save(folder / "chart.png")
    shown = folder / re.findall(r'"(data/\S*\.png)"', TEXT)[0]  # by the README, of the benchmark at its full size
    shown.parent.mkdir(parents=True)
    os.symlink(folder / "chart.png", shown)
    record = {"image": "chart.png", "question": QUESTION, "steps": STEPS}
    (folder / "solutions.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def execute(place: Path, *words: str) -> None:
    done = run_program(*words, cwd=place, env=os.environ | forked_python(place))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def exported(place: Path) -> Path:
    """A trained run named runs/NAME, and the folder that is exported of it."""
    execute(place, "run.py", "task=train", "name=NAME", *SMALL)
    execute(place, "run.py", "task=export", "run=runs/NAME", "output=exported")
    return place / "exported"


@pytest.fixture(scope="module")
def latest(place: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same place, where the trained run is the only one."""
    folder = tmp_path_factory.mktemp("latest")
    for entry in place.iterdir():
        if entry.name not in ("runs", "exported"):
            os.symlink(entry.resolve(), folder / entry.name)
    shutil.copytree(place / "runs" / "NAME", folder / "runs" / "NAME")
    return folder


@pytest.fixture(scope="module")
def judge(place: Path) -> None:
    """A judge's run named runs/JUDGE, what is exported of it, and pairs to compare."""
    execute(place, "run.py", "task=sft", "name=JUDGE", *SHORT)
    execute(place, "run.py", "task=export", "run=runs/JUDGE", "output=judge")
    pair = {"image": "chart.png", "prompt": QUESTION, "answer_a": STEPS[-1], "answer_b": "The answer is 7."}
    (place / "pairs.jsonl").write_text(json.dumps(pair) + "\n")


@pytest.fixture(scope="module")
def candidates(place: Path) -> Path:
    execute(place, "run.py", "task=sample", "output=candidates.jsonl", *FEW)
    return place / "candidates.jsonl"


@pytest.fixture(scope="module")
def annotated(place: Path) -> Path:
    remove(place / "annotated" / "charts_0.jsonl")  # of the README's own command
    given = ("questions.world_seed=3000", "output=annotated/charts_0.jsonl", "policy.temperature=1")
    execute(place, "run.py", "task=annotate", *given, *FEW, "solutions=4", "continuations=2")
    return place / "annotated" / "charts_0.jsonl"


@pytest.fixture(scope="module")
def grid(place: Path) -> None:
    """A sweep named runs/bis_grid."""
    execute(place, "run.py", "-cd", "sweeps", "-cn", "bis_grid", "selector=bis", "seed=0", *NARROW, *SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNS)
def test_command(command: str, place: Path, request: pytest.FixtureRequest) -> None:
    words = shlex.split(command)[1:]
    if "experiment=" in command and "internvl2_5_8b" in command:
        pytest.skip("needs 16 GB of weights and CUDA; composed and bound in test_recipes.py")
    if "backbone.path=DIR" in words:
        words += [f"backbone.path={ORIGINAL}", "backbone.max_length=2048"]  # as long as its positions are known for
        words.remove("backbone.path=DIR")
    if "runs=runs/bis_grid" in words:
        request.getfixturevalue("grid")
    if any(name in command for name in ("runs/NAME", "run=runs ", "exported")):
        request.getfixturevalue("exported")
    if "run=runs/JUDGE" in words or "run=judge" in words:
        request.getfixturevalue("judge")
    if "run=latest" in words:
        place = request.getfixturevalue("latest")
    if "candidates.jsonl" in command:
        request.getfixturevalue("candidates")
    if "best_of_n" in words:
        request.getfixturevalue("annotated")
        words += [*SMALL[1:], f"dataset.images=data/chartworld-questions-{SIZE}-3000", "selector=full", "seed=0"]
        words.append("objective=hard")
    for target in (place / word.removeprefix("output=") for word in words if word.startswith("output=")):
        remove(target)  # what another command has written is not replaced
    files = {"=DIR": f"={place}", "input=FILE": "input=solutions.jsonl", "=FILE": f"={PREDICTIONS}"}
    for name, value in files.items():
        words = [word.replace(name, value) for word in words]
    words = [re.sub(r"^(recipe\.steps|benchmark\.size)=\d+$", r"\1=8", word) for word in words]
    # two values of what a sweep runs through
    words = [re.sub(r"^([\w./]+=[^,\[]+,[^,]+),.*", r"\1", word) for word in words]
    on_chartworld = not any(word.startswith(("dataset=", "best_of_n")) for word in words)
    (task,) = [word.removeprefix("task=") for word in words if word.startswith("task=")] or ["experiment"]
    if task in ("sample", "annotate"):
        words += [*FEW, *(["continuations=2"] if task == "annotate" else [])]
    if task == "search":  # as cheap as the few candidates
        words += ["search.beams=1", "search.expansions=2", "search.tokens=1"]
    if task == "reward_model":
        words += SHORT[:3]
    if "egt" in command:
        task = "egt"
        words += SHORT
    if "egt" in words or "experiment=egt" in words:
        words += ["selector=entropy", "selector.ratio=0.5", "order=low_to_high", "seed=0"]
    typed = {word.split("=")[0] for word in words}
    small = [word for word in SMALL if on_chartworld and word.split("=")[0] not in typed and used(task, word, words)]
    if "bis_grid" in words:
        small += [word for word in NARROW if not any(typed.startswith(word.split("=")[0]) for typed in words)]
    if task == "evaluate" and not any(word.startswith(("run=", "model=")) for word in words):
        execute(place, *("task=train" if word == "task=evaluate" else word for word in words), *small)
    execute(place, *words, *small)


@pytest.mark.parametrize("command", [line for line in commands("text") if " run.py " in line])
def test_a_command_for_other_machines_composes(command: str, load: Callable[..., Config], tmp_path: Path) -> None:
    """torchrun, SLURM and real backbones: the overrides are bound; ... stands for the reader's own."""
    words = shlex.split(command)
    words = [word for word in words[words.index("run.py") + 1 :] if word not in ("-m", "...")]
    given = [
        re.sub(r"=(DIR|OpenGVLab/.*|Qwen/.*)", f"={tmp_path}", word)
        for word in words
        if not word.startswith(("hydra", "selector=random,"))
    ]
    assert load(*given).task


def said_by(place: Path, part: str, wanted: str) -> Any:
    """What the short code around this part makes of `wanted`."""
    code = python_block(part)
    assert len([line for line in code.splitlines() if line]) <= 10
    (place / "shown.py").write_text(f"{code}\nimport json\nopen('shown.json', 'w').write(json.dumps({wanted}))\n")
    execute(place, "shown.py")
    return json.loads((place / "shown.json").read_text())


@pytest.mark.slow
def test_the_python_api_as_shown(place: Path, exported: Path) -> None:
    wanted = "[scores.tolist(), [len(s) for s in per_candidate], best, len(mixed), sure]"
    scores, lengths, best, n_mixed, sure = said_by(place, "scorer.score_candidates(", wanted)
    given = ("backbone=chartworld_internvl", f"backbone.path={exported}", "input=solutions.jsonl", "overwrite=true")
    execute(place, "run.py", "task=score", *given, "output=ours.jsonl")
    assert scores == pytest.approx(json.loads((place / "ours.jsonl").read_text())["step_scores"], abs=1e-5)
    assert (lengths, n_mixed, sure) == ([3, 3], 2, None)
    assert best in (0, 1)


@pytest.mark.slow
def test_a_judge_is_used_as_shown(place: Path, judge: None) -> None:
    wanted = "[found.winner, found.share, len(found.responses), scores]"
    winner, share, responses, scores = said_by(place, "judge.compare(", wanted)
    assert winner in ("a", "b", None)
    assert share is None or 0.5 <= share <= 1
    assert (responses, sum(scores)) == (16, 1.5)


@pytest.mark.slow
def test_the_code_for_plain_transformers_gives_the_same_scores(place: Path, exported: Path) -> None:
    code = python_block("AutoModelForImageTextToText")
    (place / "plain.py").write_text(f"{code}\nimport json\nopen('plain.json', 'w').write(json.dumps(scores))\n")
    execute(place, "plain.py")
    assert QUESTION in code
    assert all(step in code for step in STEPS)
    given = ("backbone=chartworld_internvl", f"backbone.path={exported}", "input=solutions.jsonl", "overwrite=true")
    execute(place, "run.py", "task=score", *given, "output=ours.jsonl")
    ours = json.loads((place / "ours.jsonl").read_text())["step_scores"]
    assert len(ours) == len(STEPS)
    assert json.loads((place / "plain.json").read_text()) == pytest.approx(ours, abs=1e-5)


@pytest.mark.slow
def test_the_reward_trains_a_policy_in_trl(place: Path, exported: Path) -> None:
    """Two steps: the rewards that the trainer uses are those of the scorer."""
    pytest.importorskip("trl")
    code = python_block("GRPOTrainer(").replace('"Qwen/Qwen2.5-VL-3B-Instruct"', "policy")
    assert "policy, reward, args" in code
    code = code.replace("args=options", "args=options, processing_class=processor")
    code = code.replace('GRPOConfig("policy"', 'GRPOConfig("policy", bf16=False')  # which TRL wants a GPU for
    shutil.copy(REPOSITORY / "tests" / "tiny_policy.py", place)
    before = """
import json, tiny_policy
from mprm import StepScorer
policy, processor = tiny_policy.load("mprm/chartworld/weights/qwen2_5_vl")
weight = policy.lm_head.weight.detach().clone()
calls, reward_of = [], StepScorer.reward
def recorded(scorer, **given):
    found = reward_of(scorer, **given)
    calls.append((found, given["completions"], scorer))
    return found
StepScorer.reward = recorded
"""
    after = """
def alone(scorer, completion):
    return min(scorer.score(chart, asked[0]["content"], completion[0]["content"].strip().split("\\n")))
expected = [[float(alone(scorer, one)) for one in completions] for _, completions, scorer in calls]
found = [rewards for rewards, *_ in calls]
moved = float((trainer.model.lm_head.weight.detach().cpu() - weight).abs().max())
said = [found, expected, trainer.state.global_step, trainer.state.log_history, moved]
open("trl.json", "w").write(json.dumps(said))
"""
    (place / "policy.py").write_text(before + code + after)
    execute(place, "policy.py")
    found, expected, steps, history, moved = json.loads((place / "trl.json").read_text())
    assert steps == len(found) == 2
    for rewards, alone in zip(found, expected, strict=True):
        assert rewards == pytest.approx(alone, abs=1e-5)
    (said,) = history
    assert said["reward"] == pytest.approx((sum(found[0]) + sum(found[1])) / 8, abs=1e-5)
    assert said["not_scored"] == 0
    assert moved > 0


@pytest.mark.slow
def test_step_rewards_and_a_reward_for_verl_as_shown(place: Path, exported: Path) -> None:
    verl = python_block("def compute_score(")
    assert len([line for line in verl.splitlines() if line]) == 5
    after = f"""
info = {{"question": {QUESTION!r}, "images": ["chart.png"]}}
given = {{"data_source": "charts", "ground_truth": "10", "extra_info": info}}
found = [compute_score(solution_str=one, **given) for one in (text, "")]
import json
open("rewards.json", "w").write(json.dumps([found, steps]))
"""
    (place / "rewards.py").write_text(python_block("step_rewards(") + verl + after)
    execute(place, "rewards.py")
    (reward, none), steps = json.loads((place / "rewards.json").read_text())
    assert [text for text, _ in steps] == STEPS
    assert reward == pytest.approx(sum(score for _, score in steps) / len(STEPS), abs=1e-5)
    assert none == 0.0


def test_every_line_of_the_troubleshooting_is_one_that_the_program_says() -> None:
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    said = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "mprm").rglob("*.py"))
    lines = re.findall(r"^\| `([^`]*)` \|", page, re.MULTILINE)
    assert len(lines) >= 20
    assert [line for line in lines if line not in said] == []
