"""Commands that people get wrong: each is answered in one line that names what is wrong, and exit code 2."""

import shlex
from pathlib import Path

import pytest

from mprm.main import main

WRONG = {
    # names
    "task=slect": "task=slect is not one of experiment, ",
    "task=": "task= is empty; give a value",
    "task=null": "task=null has the wrong type; give text",
    "task=[select,train]": "task=['select', 'train'] has the wrong type; give text",
    "selectr=bis": "did you mean selector?",
    "selector=boss": "selector=boss is not one of agreement, bis, ",
    "selector=": "selector=",
    "selector=null": "Config group override must be a string",
    "selector=[bis,full]": "selector",
    "selector={boss:1}": "selector.boss is not a known key",
    "~selector": "selector has no choice",
    "~recipe": "recipe=None is no choice: backbone=NAME brings the recipe",
    "recipe=fast": "recipe=fast is no choice: backbone=NAME brings the recipe",
    "recipe=default epochs=1": "epochs is not a known key (did you mean",
    "experiment=nope": "experiment=nope is not one of egt, ",
    "dataset=VisualPRM400K": "did you mean visualprm400k?",
    "backbone=internvl2_5": "did you mean internvl2_5_8b?",
    "lr=1e-4": "did you mean recipe.learning_rate",
    "epochs=3": "did you mean recipe.epochs",
    "batch_size=8": "did you mean recipe.global_batch_size",
    "selector.alhpa=1": "did you mean alpha?",
    "+sed=3": "did you mean seed?",
    "--epochs 3": "unrecognized arguments: --epochs",
    "seed=1 -m seed=1,2": "flags (see --help) stand before the first key=value",
    "-cn nowhere": "nowhere",
    "-cd nowhere -cn bis_grid": "nowhere",
    # spellings
    "selector.alpha": "'selector.alpha' cannot be read; write key=value",
    "selector.alpha = 1": "cannot be read",
    "selector.alpha=[1": "cannot be read",
    "selector.alpha=1,2": "--multirun",
    "'dataset.root=a b=c'": "cannot be read",
    "dataset.root=${nowhere}": "dataset.root cannot be resolved",
    # numbers
    "seed=-1": "seed=-1 is not in [0, 2**53]",
    "seed=1.5": "seed=1.5 has the wrong type; give a whole number",
    "seed=1e400": "seed=inf has the wrong type; give a whole number",
    "seed=99999999999999999999": "seed=99999999999999999999 is not in [0, 2**53]",
    "seed=[1]": "seed=[1] has the wrong type; give a whole number",
    "seed=": "seed= has the wrong type; give a whole number",
    "held_out=-3": "held_out=-3 is not in [0, 2**53]",
    "selector.ratio=0": "selector.ratio=0",
    "selector.ratio=25": "selector.ratio=25",
    "selector.ratio=10%": "selector.ratio=10% has the wrong type; give a number",
    "selector.ratio=nan": "selector.ratio=nan",
    "selector.ratio=null": "selector.ratio",
    "selector.count=5": "selector.",
    "selector.alpha=inf": "selector.alpha=inf",
    "selector.alpha={a:1}": "selector.alpha={'a': 1} has the wrong type; give a number",
    "recipe.epochs=1.5": "recipe.epochs=1.5 has the wrong type; give a whole number",
    "recipe.epochs=true": "recipe.epochs=True has the wrong type; give a whole number",
    "recipe.learning_rate=nan": "recipe.learning_rate=nan",
    "recipe.weight_decay=-1": "recipe.weight_decay=-1.0 is not in [0, 2**53]",
    "recipe.global_batch_size=0": "recipe.global_batch_size=0",
    "+recipe.betas=[2,3]": "recipe.betas=[2.0, 3.0]",
    "trainer.devices=0": "trainer.devices=0",
    "trainer.precision=fp8": "trainer.precision=fp8 is not one of",
    "trainer=gpu trainer.devices=64": "trainer.devices=64, but this machine has",
    "solutions=0 task=sample": "solutions=0 is not positive",
    # places
    "runs=": "runs= is empty",
    "cache=": "cache= is empty",
    "name=": "name= is empty",
    "name=a/b": "name=a/b is not the name of a folder",
    "dataset.root=": "dataset.root= is empty",
    "dataset=visualprm400k": "dataset.root is not set",
    "dataset=visualprm400k dataset.root=/nowhere": "/nowhere",
    "backbone=internvl2_5_8b": "backbone.path is not set",
    "backbone.path=nowhere": "backbone.path=nowhere has no config.json",
    "benchmark=visualprocessbench": "benchmark.path",
    "benchmark=visualprocessbench benchmark.path=nowhere.jsonl": "nowhere.jsonl",
    # components
    "selector._target_=mprm.selection.bsi.BIS": "names no component (No module named 'mprm.selection.bsi')",
    "selector._target_=mprm.selection.selectors.BSI": "names no component",
    "selector._target_=BIS": "names no component",
    "selector._target_=": "names no component",
    "selector._target_=null": "selector._target_=None names no component",
    "selector._target_=os.getcwd": "names no component",
    "selector._target_=pathlib.Path": "names no component",
    "~selector._target_": "selector._target_=None names no component",
    # keys of other tasks
    "run=runs/NAME": "task=experiment does not use run (it belongs to task=evaluate, score, rerank, compare, search",
    "checkpoint=x": "task=experiment does not use checkpoint (it belongs to task=export)",
    "input=x": "does not use input",
    "solutions=4": "does not use solutions",
    "threshold=searched": "does not use threshold (it belongs to task=measure)",
    "export=x.jsonl": "does not use export (it belongs to task=select)",
    "policy=server": "does not use policy",
    "task=score run=runs/NAME backbone=chartworld_internvl input=x output=y": "does nothing beside run=runs/NAME",
    "task=score selector=full input=x output=y": "task=score does not use selector",
    "task=egt dataset=visualprm400k": "task=egt does not use dataset",
    "task=list selector=bis": "task=list does not use selector",
    "-m task=measure seed=1,2": "task=measure does not use seed",
    "experiment=egt name=x": "name=x is of one run, not of 3 jobs; leave it out",
    # what a task needs
    "task=score": "task=score needs input=FILE.jsonl",
    "task=score input=nowhere.jsonl output=o.jsonl": "nowhere.jsonl",
    "task=rerank": "task=rerank needs input=FILE.jsonl",
    "task=rerank input=nowhere.jsonl output=o": "nowhere.jsonl",
    "task=compare": "task=compare needs input=FILE.jsonl (image, prompt, answer_a, answer_b) and output=FILE.jsonl",
    "task=compare input=nowhere.jsonl output=o.jsonl": "nowhere.jsonl is not a file; give JSON lines with image, prom",
    "task=compare ~judge input=x output=y": "judge has no choice; give judge=NAME",
    "task=compare run=r judge=default input=x output=y": "judge=default does nothing beside run=r",
    "task=rl judge.engine=server": "judge.engine=server judges and is not trained; give task=judge",
    "task=judge judge.engine=server": "judge.engine=server asks the server of policy=; give policy=server",
    "task=judge judge.engine=server policy=server": "policy.model is not set; give the name under which the server",
    # what a judge does not heed, or nobody where there is none
    **{
        f"task=rerank input=x output=y {typed}": f"{typed.split()[0]} does nothing where no judge reranks; give run=JUD"
        for typed in ("judge=default", "judge.engine=server model=visualprm_8b", "policy=server", "judge.votes=3")
    },
    "task=rerank input=x output=y judge.engine=server": "judge.engine=server asks the server of policy=; give policy=",
    **{
        f"task={task} {typed}": f"{typed} does nothing with judge.engine=local; add judge.engine=server"
        for task in ("judge", "compare input=x output=y")
        for typed in ("policy=server", "policy.temperature=0")
    },
    **{
        f"task=judge judge.engine=server policy=server {typed}": f"{typed} does nothing with judge.engine=server"
        for typed in ("policy.temperature=0", "policy.max_new_tokens=9", "policy.seed=1")
    },
    **{
        f"task=compare input=x output=y {typed} judge.votes={votes}": f"{typed} does nothing in task=compare, which wri"
        for typed, votes in (
            ("judge.temperature=0", 3),
            ("judge.samples=2", 1),
            ("judge.evaluation_temperature=1", 2),
            ("judge.vote_temperature=1", 0),
        )
    },
    "task=rerank input=x output=y judge.engine=server policy=server judge.votes=3": "judge.votes=3 does nothing in ta",
    "task=sample": "task=sample needs output=FILE.jsonl",
    "task=measure": "task=measure needs predictions=FILE",
    "task=measure predictions=nowhere.jsonl output=o.json": "nowhere.jsonl",
    "task=measure predictions=x output=y threshold=high": "threshold=high is neither a number nor 'searched'",
    "task=export": "task=export needs run=runs/NAME",
    "task=export run=nowhere output=o": "run=nowhere",
    "task=export run=latest output=o": "run=latest: no run below runs=runs is trained",
    "task=export run=nowhere output=o format=gguf": "format=gguf is unknown",
    "task=contamination": "task=contamination needs output=DIR",
    "task=contamination output=o similarity=70": "similarity=70.0 is not in 0 to 1",
    "task=contamination output=o excluded=copy": "excluded=copy has the wrong type; give a list",
    "task=contamination output=o excluded=[copies]": "excluded=copies is no finding; give some of copy, numbers, ",
    "task=contamination output=o dataset=jsonl": "dataset.path is not set",
    "task=contamination output=o selector=full": "task=contamination does not use selector",
    "task=evaluate": "has no finished training",
    "task=evaluate run=nowhere output=o": "nowhere",
    "task=evaluate output=o": "output=o goes with run=",
    "task=report": "runs holds no run folder",
    "task=egt": "selector: BIS (alpha 0.2) needs p_pos, which pairs do not have; choose entropy, random or full",
    "redo=selection": "redo=selection is no stage",
    "task=sample questions=jsonl output=o.jsonl": "questions.path",
    "task=sample policy=server output=o.jsonl": "policy.model",
    "task=pretrain": "python -m tools.pretrain chartworld_internvl --output DIR",
    "task=pretrain pretrain=chartworld_reader": "python -m tools.pretrain chartworld_internvl --output DIR",
    "task=pretrain pretrain.steps=0": "python -m tools.pretrain chartworld_internvl --output DIR",
}


def test_there_are_more_than_sixty() -> None:
    assert len(WRONG) > 60


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py", *shlex.split(command)])
    exit_code = main()
    said = capfd.readouterr().err
    assert WRONG[command] in said
    assert (exit_code, len(said.splitlines())) == (2, 1), said
    assert said.startswith("mprm: ")
    assert not list(tmp_path.glob("runs/*/config.yaml")), "a refused command leaves no run folder"
