"""Every YAML binds; every mistake is one line that names key, value and remedy."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mprm.config import Config, RunConfig, bind, config_of_run, validate
from mprm.runs.run_folder import config_hash
from mprm.tasks import ALWAYS, GROUPS, TASKS
from mprm.terminal import FEWER_WORKERS, explain

CONF = Path(__file__).resolve().parents[1] / "conf"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component for these tests."""

    size: float
    count: int | None = None
    flag: bool = False
    names: list[str] | None = None

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"part.size={self.size} is not positive; give e.g. part.size=1")


def part(**values: object) -> DictConfig:
    root = OmegaConf.create({"seed": 3, "part": {"_target_": f"{__name__}.Part", "size": 1.0, **values}})
    return root.part


def reachable_choices() -> Counter[str]:
    """How many options Hydra offers in each group."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        folders = [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"]
        return Counter({name: len(loader.get_group_options(name, ObjectType.CONFIG)) for name in folders})


def test_every_yaml_composes_and_binds(load: Callable[..., Config]) -> None:
    """The first option of every group together, then the second of every group that has two, and so on."""
    options: dict[str, list[str]] = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        options.setdefault(path.parent.name, []).append(path.stem)
    bound: Counter[str] = Counter()
    experiments = options.pop("experiment")  # which choose options themselves
    rows = [dict(zip(options, row, strict=True)) for row in zip_longest(*options.values())]
    for row in [*rows, *({"experiment": name} for name in experiments)]:
        chosen = {group: name for group, name in row.items() if name}
        config = load(*(f"{group}={name}" for group, name in ({"model": "visualprm_8b"} | chosen).items()))
        for name in GROUPS:
            component = getattr(config, name)
            assert is_dataclass(component), chosen
            written = {key for key in config.raw[name] if key != "_target_"}
            assert written <= {field.name for field in fields(component)}, chosen
        bound.update(chosen.keys())
    assert bound == reachable_choices()
    assert {group for group in GROUPS if group != "recipe"} <= set(bound)  # conf/backbone sets the recipe


def test_config_yaml_documents_every_run_level_field() -> None:
    written = OmegaConf.load(CONF / "config.yaml")
    values = {key: value for key, value in written.items() if key not in ("defaults", "hydra")}
    assert set(values) == {field.name for field in fields(RunConfig)}
    assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), values)) == RunConfig()


def test_a_config_holds_typed_fields_and_components(load: Callable[..., Config]) -> None:
    config = load("selector=bis", "selector.alpha=1", "seed=7", "threshold=0.25")
    assert (config.task, config.seed, config.threshold) == ("experiment", 7, "0.25")
    assert config.selector is config.selector
    assert isinstance(config.selector.alpha, float)
    assert config.raw.name == config.name


def test_the_run_name_is_readable_and_follows_the_config(load: Callable[..., Config]) -> None:
    name = load("selector=bis", "selector.alpha=0.2", "selector.ratio=0.25", "seed=3").name
    assert name is not None
    assert name.startswith("bis-alpha0.2-ratio0.25-hard-chartworld_internvl-seed3-")
    assert load("selector=bis", "selector.alpha=0.2", "selector.ratio=0.25", "seed=3", "debug=true").name == name
    assert load("selector=bis", "selector.alpha=0.2", "selector.ratio=0.25", "seed=3", "held_out=9").name != name
    assert load("selector.alpha=1").name == load("selector.alpha=1.0").name
    assert load("name=mine").name == "mine"


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("dataset=visualprm400k", "dataset.root=x"), "-chartworld_internvl-visualprm400k-seed0-"),
        (("benchmark=visualprocessbench",), "-chartworld_internvl-visualprocessbench-seed0-"),
        (("objective.balance=classes",), "-hard-balance_classes-chartworld_internvl-"),
        (("task=egt", "preferences=jsonl", "benchmark=visualprocessbench"), "-chartworld_internvl-jsonl-seed0-"),
    ],
)
def test_what_is_not_the_default_is_in_the_name(
    load: Callable[..., Config], overrides: tuple[str, ...], part: str
) -> None:
    assert part in str(load(*overrides).name)


@pytest.mark.parametrize("path", ["models/Qwen2.5-VL=tiny/", f"org/Qwen2.5-VL=tiny@{'0' * 40}"])
def test_any_backbone_is_named_by_its_folder(load: Callable[..., Config], path: str) -> None:
    raw = load("task=select", "backbone=auto", f"backbone.path='{path}'").raw
    assert "-hard-auto-Qwen2.5-VL_tiny-seed0-" in raw.name
    assert "-chartworld_internvl-seed0-" in str(load("task=select").name)


def test_latest_is_the_trained_run_that_did_something_last(load: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run=latest: no run below"):
        load("task=score", "run=latest", "input=x", "output=y")
    for number, name in enumerate(("b", "c", "a")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "stages.json").touch()
        (tmp_path / "runs" / name / "weights.safetensors").touch()
        os.utime(tmp_path / "runs" / name / "stages.json", ns=(0, number))
    (tmp_path / "runs" / "newer_but_no_run").mkdir()
    (tmp_path / "runs" / "newer_but_not_trained").mkdir()
    (tmp_path / "runs" / "newer_but_not_trained" / "stages.json").touch()
    assert load("task=score", "run=latest", "input=x", "output=y").run == str(tmp_path / "runs" / "a")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=slect", r"task=slect is not one of experiment, .*\(did you mean select\?\)"),
        ("seed=abc", r"seed=abc has the wrong type; give a whole number"),
        ("seed=-1", r"seed=-1 is not in \[0, 2\*\*53\]; give another number"),
        ("seed=null", r"seed=null has the wrong type; give a whole number"),
        ("debug=maybe", r"debug=maybe has the wrong type; give true or false"),
        ("threshold=high", r"threshold=high is neither a number nor 'searched'"),
        ("threshold=nan", r"threshold=nan is neither a number nor 'searched'"),
        ("name=a/b", r"name=a/b is not the name of a folder"),
        ("runs=", r"runs= is empty; give a value, or leave it out"),
        ("cache=", r"cache= is empty; give a value, or leave it out"),
        ("name=", r"name= is empty; give a value, or leave it out"),
        ("dataset.root=", r"dataset.root= is empty; give a value, or leave it out"),
        ("name=..", r"name=.. is not the name of a folder"),
        ("+sed=3", r"sed is not a known key \(did you mean seed\?\); the keys are .*selector.*seed"),
        ("+selector.alhpa=3", r"selector.alhpa is not a known key \(did you mean alpha\?\); selector has .*alpha"),
        ("selector.alpha=abc", r"selector.alpha=abc has the wrong type; give a number"),
        ("selector.ratio=1.5", r"selector.ratio=1.5 .*\(0, 1\]"),
        ("selector.count=1.5", r"selector.count=1.5 has the wrong type; give a whole number or null"),
        ("dataset.root=${nothing}", r"dataset.root cannot be resolved: .*nothing"),
        ("~selector", r"selector has no choice; give selector=NAME, one of the files in conf/selector"),
    ],
)
def test_a_bad_value_is_one_line_for_the_user(load: Callable[..., Config], override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load("task=select", override)
    line, exit_code = explain(caught.value) or ("", 0)
    assert "\n" not in line
    assert exit_code == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selector.alhpa=1", "selector.alhpa is not a known key (did you mean alpha?); selector has alpha, "),
        ("selectr=bis", "selectr is not a known key (did you mean selector?); the keys are "),
        (
            "lr=1",
            "lr is not a known key (did you mean recipe.learning_rate or sft.learning_rate or grpo.learning_rate?); ",
        ),
        ("batch_size=1", "batch_size is not a known key (did you mean recipe.global_batch_size or "),
        ("epochs=1", "epochs is not a known key (did you mean recipe.epochs or "),
        ("recipe.lr=1", "recipe.lr is not a known key (did you mean learning_rate?); recipe has learning_rate, "),
        (
            "backbone.gradient_checkpointing=true",
            "backbone.gradient_checkpointing is not a known key (did you mean checkpoint_layers?); backbone has ",
        ),
        ("selector=boss", "selector=boss is not one of agreement, bis, entropy, full, "),
        ("experiment=nope", "experiment=nope"),
        ("selector.alpha", "'selector.alpha' cannot be read; write key=value"),
        ("selector.alpha=[1", "'selector.alpha=[1' cannot be read; write key=value"),
        ("seed=1,2", "--multirun"),
    ],
)
def test_a_bad_override_is_one_line_for_the_user(override: str, message: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("config", [override])
    line, exit_code = explain(caught.value) or ("", 0)
    assert message in line
    assert "\n" not in line
    assert exit_code == 2


def test_a_part_that_a_mixture_has_not_is_one_line_with_its_remedy() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("config", ["dataset=mixture", "dataset.parts.a.path=x"])
    line, _ = explain(caught.value) or ("", 0)
    assert line.startswith("dataset.parts.a is not a known key")
    assert line.endswith("+dataset@dataset.parts.a=NAME adds a part")


def test_a_run_of_an_earlier_version_is_used_and_continued(load: Callable[..., Config], tmp_path: Path) -> None:
    config = load("task=experiment")
    older = config.raw.copy()
    OmegaConf.set_struct(older, False)
    del older.backbone["checkpoint_layers"]
    older.backbone.gradient_checkpointing = True
    OmegaConf.save(older, tmp_path / "config.yaml")
    assert config_of_run(tmp_path).backbone == config.backbone
    assert config_hash(older) == config_hash(config.raw)


def test_compiled_or_not_is_the_same_run(load: Callable[..., Config]) -> None:
    without, compiled = load("trainer.compile=false"), load("trainer.compile=true")
    assert config_hash(without.raw) == config_hash(compiled.raw)


def test_bind_resolves_converts_and_freezes() -> None:
    bound = bind(part(size=2, count="${seed}", names=["a", "b"]))
    assert bound == Part(size=2.0, count=3, names=["a", "b"])
    assert isinstance(bound.size, float)
    with pytest.raises(AttributeError):
        bound.size = 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "abc"}, "part.size=abc has the wrong type; give a number"),
        ({"size": None}, "part.size=null has the wrong type; give a number"),
        ({"size": "???"}, "part.size is missing; give part.size=..."),
        ({"size": -1}, "part.size=-1.0 is not positive"),
        ({"flag": "perhaps"}, "part.flag=perhaps has the wrong type; give true or false"),
        ({"names": 3}, "part.names=3 has the wrong type"),
        ({"names": {"a": 1}}, r"part.names=\{'a': 1\} has the wrong type; give a list, \[a,b\] or null"),
        ({"sizes": 3}, r"part.sizes is not a known key \(did you mean size\?\); part has size, count, flag, names"),
    ],
)
def test_bind_names_key_value_and_remedy(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bind(part(**values))


@dataclass(frozen=True, kw_only=True)
class Longest:
    """A selector that only scores."""

    ratio: float = 0.5

    def score(self, signals: object) -> object:
        return signals


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A logger that only starts."""

    def start(self, folder: Path, config: object, selector: str) -> object:
        return None


@pytest.mark.parametrize(
    ("group", "target", "lacking"),
    [("selector", "Longest", ".*count, .*uses_entropy"), ("logger", "Silent", r"publish_dashboard\(runs\)")],
)
def test_a_component_that_lacks_a_member_is_named_with_it(group: str, target: str, lacking: str) -> None:
    node = OmegaConf.create({group: {"_target_": f"{__name__}.{target}"}})[group]
    with pytest.raises(
        ValueError, match=rf"^{group}\._target_=\S+\.{target} lacks {lacking}; see docs/add_your_own\.md$"
    ) as caught:
        bind(node)
    assert explain(caught.value) is not None


def test_what_a_group_asks_for_is_said_twice_alike() -> None:
    """Once for the type checker, once for the error."""
    for group in GROUPS:
        kind = vars(Config)[group].kind
        assert Config.__annotations__[group] == f"ClassVar[Component[{kind.rpartition('.')[2]}]]"


NUMBERS = [-1, float("nan"), float("inf"), 2**53 + 2, [1], {"a": 1}, "abc", ""]


@pytest.mark.parametrize("group", GROUPS)
def test_every_number_of_every_component_is_checked(load: Callable[..., Config], group: str) -> None:
    config = load("model=visualprm_8b")
    for field in fields(getattr(config, group)):
        for bad in NUMBERS if "int" in str(field.type) or "float" in str(field.type) else []:
            node = OmegaConf.to_container(config.raw[group], resolve=True)
            root = OmegaConf.create({group: node | {field.name: bad}})  # type: ignore[operator]
            with pytest.raises(ValueError, match=rf"{group}\.{field.name}=|negative") as caught:
                bind(root[group])
            assert explain(caught.value) is not None, (field, bad)


@pytest.mark.parametrize(
    "target",
    [
        "nowhere.BIS",
        "mprm.selection.bsi.BIS",
        "mprm.selection.subset.BIS",
        "pathlib.Path",
        "BIS",
        "",
        ".BIS",
        None,
        3,
    ],
)
def test_a_target_that_is_no_component_is_one_line(target: object) -> None:
    with pytest.raises(ValueError, match=f"part._target_={target} names no component.*; leave it") as caught:
        bind(part(_target_=target))
    assert explain(caught.value) is not None


def test_the_settings_of_a_judge_of_an_earlier_version_are_bound(load: Callable[..., Config]) -> None:
    """As judge.json and config.yaml have them."""
    config = load("task=egt")
    config.raw.judge._target_ = "mprm.judge.judge.Judge"
    assert bind(config.raw.judge) == config.judge


def test_shipped_weights_are_found_from_any_folder(
    load: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mprm" / "chartworld" / "weights" / "internvl").mkdir(
        parents=True
    )  # another checkout, or what is left of it
    monkeypatch.chdir(tmp_path)
    config = load()
    assert config.raw.backbone.path == "mprm/chartworld/weights/internvl"
    assert (config.backbone.folder() / "model.safetensors").is_file()


def test_validate_leaves_its_argument_alone() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", ["task=list"])
    assert validate(raw, {}).raw.name is not None
    assert raw.name is None


def test_every_group_and_key_is_used_by_a_task() -> None:
    assert {group for task in TASKS.values() for group in (*task.groups, *(task.bound or ()))} == set(GROUPS)
    keys = {key for task in TASKS.values() for key in task.keys} | set(ALWAYS)
    assert keys - {"experiment", "hydra"} == {field.name for field in fields(RunConfig)}


@pytest.mark.parametrize(
    "key", ["run", "checkpoint", "input", "solutions", "selector.ratio", "preferences", "+policy.x"]
)
def test_a_key_that_the_task_does_not_use_is_refused_when_it_is_typed(load: Callable[..., Config], key: str) -> None:
    raw = load("task=measure", "predictions=x", "output=y").raw
    assert validate(raw, {}, ["task=measure", "output=x", "predictions=x", "hydra.verbose=true"]).task == "measure"
    with pytest.raises(
        ValueError, match=f"task=measure does not use {key.split('.')[0].strip('+')} \\(it belongs to .*\\); leave"
    ):
        validate(raw, {}, ["predictions=x", f"{key}=1"])


def test_what_a_run_answers_is_not_asked_of_the_command_line(load: Callable[..., Config]) -> None:
    raw = load("task=evaluate", "run=runs/x", "output=y").raw
    for typed in ("benchmark=visualprocessbench", "benchmark.path=x", "trainer=cpu", "seed=1", "overwrite=true"):
        validate(raw, {}, ["run=runs/x", "output=y", typed])
    for typed in ("selector=full", "backbone.path=x", "recipe.epochs=1", "held_out=3", "name=z"):
        with pytest.raises(
            ValueError, match=f"{typed} does nothing beside run=runs/x, which has its own; leave it out"
        ):
            validate(raw, {}, ["run=runs/x", typed])


@pytest.mark.parametrize(
    "tasks", [("select", "train", "evaluate", "experiment"), ("egt", "sft", "curate", "rl", "judge")]
)
def test_tasks_of_one_run_folder_take_the_same_command(tasks: tuple[str, ...]) -> None:
    first = TASKS[tasks[0]]
    assert all({*TASKS[name].groups} - {"model"} == {*first.groups} for name in tasks)
    of_the_folder = {"seed", "name", "runs", "overwrite", *({"cache", "held_out"} if "select" in tasks else ())}
    assert all(of_the_folder <= set(TASKS[name].keys) for name in tasks)


def test_an_error_that_is_not_the_users_is_not_explained(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as key_error:
        {}["key"]
    assert explain(key_error.value) is None
    with pytest.raises(ValueError, match="invalid literal") as value_error:
        int("x")  # not raised by this project, so not written for the user
    assert explain(value_error.value) is None
    with pytest.raises(OSError, match="No such file") as os_error:
        (tmp_path / "nowhere").read_text()
    assert explain(os_error.value) == (f"[Errno 2] No such file or directory: '{tmp_path / 'nowhere'}'", 1)
    killed = RuntimeError("DataLoader worker (pid 4429) is killed by signal: Killed. ")
    assert explain(killed) == ("DataLoader worker (pid 4429) is killed by signal: Killed. " + FEWER_WORKERS, 1)
    exited = RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")
    assert explain(exited) == ("DataLoader worker (pid(s) 7, 8) exited unexpectedly. " + FEWER_WORKERS, 1)
    assert explain(RuntimeError("DataLoader worker of another kind")) is None
