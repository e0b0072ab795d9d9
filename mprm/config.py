"""The typed configuration: run-level fields, bound components, and one clear line for every mistake."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    ConfigTypeError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from mprm.messages import PRETRAINING, did_you_mean, type_name, unknown_key
from mprm.runs.artifacts import reading
from mprm.runs.run_folder import CHECKOUT, SHIPPED, config_hash, latest_run
from mprm.runs.stage_records import LINES
from mprm.tasks import ALWAYS, GROUPS, JUDGE_TASKS, OF_A_RUN, TASKS

if TYPE_CHECKING:  # the rooms are imported when a component is bound
    from mprm.backbones.base import Backbone
    from mprm.batching.order import Order
    from mprm.data.preferences import Preferences
    from mprm.data.questions import Questions
    from mprm.data.rollouts import Dataset
    from mprm.data.visualprocessbench import Benchmark
    from mprm.inference.policy import Policy
    from mprm.judge.grpo import GRPO
    from mprm.judge.judge import Judge
    from mprm.judge.sft import SFT
    from mprm.reporting.tracking import Logger
    from mprm.selection.keep import Selector
    from mprm.training.objectives import Objective
    from mprm.training.recipe import Machine, Recipe

MAY_BE_EMPTY = ("system", "instruction")  # texts for the model

Bound = TypeVar("Bound")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The fields of conf/config.yaml that belong to no group; what each means is said there."""

    task: str = "experiment"
    seed: int = 0
    name: str | None = None
    runs: str = "runs"
    cache: str = "cache"
    held_out: int = 400
    overwrite: bool = False
    redo: str | None = None
    check: bool = False
    debug: bool = False
    export: str | None = None
    run: str | None = None
    checkpoint: str | None = None
    format: str = "hf"
    input: str | None = None
    predictions: str | None = None
    threshold: str = "0.5"
    output: str | None = None
    solutions: int = 16
    continuations: int = 16
    aggregate: str = "mean"

    def __post_init__(self) -> None:
        if self.task == "pretrain":
            raise ValueError(PRETRAINING)
        if self.task not in TASKS:
            raise ValueError(f"task={self.task} is not one of {', '.join(TASKS)}{did_you_mean(self.task, TASKS)}")
        for name in ("solutions", "continuations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive; give e.g. 16")
        stages = LINES[self.task in JUDGE_TASKS]
        if self.redo is not None and self.redo not in stages:
            raise ValueError(f"redo={self.redo} is no stage of task={self.task}; choose one of {', '.join(stages)}")
        if self.task == "evaluate" and self.redo not in (None, "evaluate"):
            raise ValueError(f"redo={self.redo}: task=evaluate does no earlier stage; give task=experiment with it")
        if self.format not in ("hf", "original"):
            raise ValueError(f"format={self.format} is unknown; choose hf or original")
        if self.name is not None and (self.name in (".", "..") or "/" in self.name):
            raise ValueError(
                f"name={self.name} is not the name of a folder; give one without '/', and its place as runs="
            )
        if self.threshold != "searched" and not _is_number(self.threshold):
            raise ValueError(f"threshold={self.threshold} is neither a number nor 'searched'; give e.g. threshold=0.5")


class Component(Generic[Bound]):
    """An attribute of a Config: the component of that group, bound when it is first asked for."""

    def __set_name__(self, owner: type, group: str) -> None:
        self.group = group

    def __get__(self, config: "Config", owner: type) -> Bound:
        group, node = self.group, config.raw.get(self.group)
        if isinstance(node, DictConfig):
            return config.__dict__.setdefault(group, bind(node))  # from now on it is found before this
        if group == "recipe":
            raise ValueError(f"recipe={node} is no choice: backbone=NAME brings the recipe; give recipe.KEY=VALUE")
        raise ValueError(f"{group} has no choice; give {group}=NAME, one of the files in conf/{group}")


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """What every stage takes: the run-level fields, the components, and the composed config itself as `raw`."""

    raw: DictConfig

    dataset: "ClassVar[Component[Dataset]]" = Component()
    selector: "ClassVar[Component[Selector]]" = Component()
    objective: "ClassVar[Component[Objective]]" = Component()
    order: "ClassVar[Component[Order]]" = Component()
    backbone: "ClassVar[Component[Backbone]]" = Component()
    recipe: "ClassVar[Component[Recipe]]" = Component()
    trainer: "ClassVar[Component[Machine]]" = Component()
    benchmark: "ClassVar[Component[Benchmark]]" = Component()
    logger: "ClassVar[Component[Logger]]" = Component()
    questions: "ClassVar[Component[Questions]]" = Component()
    policy: "ClassVar[Component[Policy]]" = Component()
    preferences: "ClassVar[Component[Preferences]]" = Component()
    reward_benchmark: "ClassVar[Component[Preferences]]" = Component()
    judge: "ClassVar[Component[Judge]]" = Component()
    sft: "ClassVar[Component[SFT]]" = Component()
    grpo: "ClassVar[Component[GRPO]]" = Component()


def validate(raw: DictConfig, choices: Mapping[str, str | None], typed: Sequence[str] = ()) -> Config:
    """Check a composed config and bind what its task needs.

    Args:
        raw: the composed config; it is not changed. The result's `raw` has `name` filled in.
        choices: the option chosen for each group (HydraConfig's runtime.choices), which names the run folder.
        typed: the overrides that the user typed, of which the task must use every one.

    Raises:
        ValueError: a key is unknown or not used, or a value has the wrong type or is out of range.
    """
    _resolved(raw, "")
    run = _fill(RunConfig, {str(key): raw[key] for key in raw if key not in GROUPS}, "")
    if run.run == "latest":
        run = replace(run, run=str(latest_run(Path(run.runs))))
    raw = raw.copy()
    raw.name = run.name or run_name(raw, choices)
    _refuse_unused(run, typed)
    config = Config(**{**vars(run), "name": raw.name}, raw=raw)
    task = TASKS[run.task]
    for group in task.groups if task.bound is None else task.bound:
        getattr(config, group)
    return config


def config_of_run(folder: Path) -> Config:
    """The configuration that a run was made with. Raises ValueError if the folder is no run."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"run={folder} has no config.yaml; give the folder of a run, runs/NAME")
    with reading(folder / "config.yaml", "restore it, or run the run's command again"):
        raw = OmegaConf.load(folder / "config.yaml")
        if not isinstance(raw, DictConfig):
            raise TypeError("not a mapping")
    return validate(raw, {})


def bind(node: DictConfig) -> Any:
    """Make the frozen dataclass that node's `_target_` names out of the node's other keys.

    Raises:
        ValueError: it names no dataclass, a key is unknown, a required one is missing, or a value is refused.
    """
    group = str(node._key() or "component")
    values = _resolved(node, group)
    cls = component(values.pop("_target_", None), group)
    return _fill(cls, {key: _packaged(value) for key, value in values.items()}, group)


def component(target: Any, group: str) -> type:
    """The dataclass of that name, whoever wrote it."""
    module, _, name = str(target).rpartition(".")
    reason, found = "", None
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, TypeError, ValueError) as error:  # the last two: of a name that begins or ends with a dot
        reason = f" ({error})"
    if isinstance(found, type) and is_dataclass(found):
        return found
    raise ValueError(
        f"{group}._target_={target} names no component{reason}; leave it as the files in conf/{group} have it"
    )


def _packaged(value: Any) -> Any:
    """Weights that ship with the project lie beside its code, from whichever folder it is run."""
    return str(CHECKOUT / value) if isinstance(value, str) and value.startswith(SHIPPED) else value


def run_name(raw: DictConfig, choices: Mapping[str, str | None]) -> str:
    """A readable folder name that no other config has.

    For example bis-alpha0.2-ratio0.1-hard-chartworld_internvl-seed0-3fa9c1d2; data and benchmark follow the backbone
    where they are not chartworld.
    """
    numbers = [
        f"{key}{value:.12g}"
        for key, value in (raw.get("selector") or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "seed"
    ]
    judge = raw.get("task") in JUDGE_TASKS
    chosen = [choices.get(group) for group in ("selector", "order" if judge else "objective", "backbone")]
    data = [
        choices.get(group) for group in (("preferences", "reward_benchmark") if judge else ("dataset", "benchmark"))
    ]
    others = [choice for choice in data if choice != "chartworld"]
    parts = ["egt" if judge else None, chosen[0], *numbers, *chosen[1:], *others, f"seed{raw.get('seed')}"]
    return "-".join(part for part in [*parts, config_hash(raw)[:8]] if part)


def _refuse_unused(run: RunConfig, typed: Sequence[str]) -> None:
    used = {*ALWAYS, *TASKS[run.task].groups, *TASKS[run.task].keys}
    for override in typed:
        key = re.split(r"[.=@/:]", override.lstrip("+~"))[0]
        if run.run is not None and "run" in used and key in OF_A_RUN:
            raise ValueError(f"{override} does nothing beside run={run.run}, which has its own; leave it out")
        if key not in used:
            others = [name for name, task in TASKS.items() if key in (*task.groups, *task.keys)]
            raise ValueError(
                f"task={run.task} does not use {key} (it belongs to task={', '.join(others)}); leave {override} out"
            )


def _fill(cls: type, values: Mapping[str, Any], group: str) -> Any:
    """An instance of the dataclass `cls`, every key and type checked; `group` is named in the messages."""
    prefix, filled = f"{group}." if group else "", OmegaConf.structured(cls)
    OmegaConf.set_readonly(filled, False)  # until the frozen instance is made of it
    try:
        for key, value in values.items():
            filled.merge_with({key: value})
            if value == "" and key not in MAY_BE_EMPTY:
                raise ValueError(f"{prefix}{key}= is empty; give a value, or leave it out")
        made = OmegaConf.to_object(filled)
        for key, value in vars(made).items():  # what the class itself does not refuse
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not 0 <= number <= 2**53:  # nan, too
                    raise ValueError(f"{prefix}{key}={value} is not in [0, 2**53]; give another number")
        return made
    except ConfigKeyError as error:
        known = [field.name for field in fields(cls)]
        message = unknown_key(f"{prefix}{error.full_key}", known if group else [*GROUPS, *known])
    except (ValidationError, ConfigTypeError):
        wanted = {field.name: field.type for field in fields(cls)}[key]
        message = f"{prefix}{key}={'null' if value is None else value} has the wrong type; give {type_name(wanted)}"
    except MissingMandatoryValue as error:
        message = f"{prefix}{error.key} is missing; give {prefix}{error.key}=..."
    raise ValueError(message)


def _resolved(node: DictConfig, group: str) -> dict[str, Any]:
    try:
        values: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key or group} can not be resolved: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict), group
    return values


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
