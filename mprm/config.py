"""The typed configuration: run-level fields, bound components, and one clear line for every mistake."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from inspect import getattr_static, isfunction, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_origin

from omegaconf import DictConfig, OmegaConf

from mprm.binding import component, fill, resolved
from mprm.runs.artifacts import JUDGE_FILE, STAGES, latest_run, read_json, reading
from mprm.runs.hub import PINNED, local, pin
from mprm.runs.names import run_name
from mprm.runs.run_folder import CHECKOUT, SHIPPED, read_record
from mprm.tasks import ALWAYS, GROUPS, JUDGE_TASKS, LINES, MODEL, OF_A_RUN, TASKS
from mprm.terminal import PRETRAINING, did_you_mean

if TYPE_CHECKING:  # the rooms are imported when a component is bound
    from mprm.backbones.base import Backbone
    from mprm.batching.order import Order
    from mprm.data.questions import Preferences, Questions
    from mprm.data.records import Benchmark
    from mprm.data.rollouts import Dataset
    from mprm.inference.policy import Policy
    from mprm.inference.search import Search
    from mprm.judge.grpo import GRPO
    from mprm.judge.judge import JudgeSettings
    from mprm.judge.sft import SFT
    from mprm.prms.prm import PRM
    from mprm.reporting.tracking import Logger
    from mprm.selection.selectors import Selector
    from mprm.training.objectives import Objective
    from mprm.training.recipe import Machine, Recipe

Bound = TypeVar("Bound")

# Of a policy that writes solutions; a judge has its own.
OF_A_SOLUTION = ("instruction", "separator", "temperature", "max_new_tokens", "seed")


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
    push_to: str | None = None
    solutions: int = 16
    continuations: int = 16
    aggregate: str = "mean"
    similarity: float = 0.7
    distance: int = 16
    excluded: list[str] = field(default_factory=lambda: ["copy"])

    def __post_init__(self) -> None:
        if self.task == "pretrain":
            raise ValueError(PRETRAINING)
        if self.task not in TASKS:
            raise ValueError(f"task={self.task} is not one of {', '.join(TASKS)}{did_you_mean(self.task, TASKS)}")
        for name in ("solutions", "continuations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive; give e.g. 16")
        stages = next(line for line in LINES if {*TASKS[self.task].stages} <= {*line})
        if self.redo is not None and self.redo not in stages:
            raise ValueError(f"redo={self.redo} is no stage of task={self.task}; choose one of {', '.join(stages)}")
        if self.task == "evaluate" and self.redo not in (None, "evaluate"):
            raise ValueError(f"redo={self.redo}: task=evaluate does no earlier stage; give task=experiment with it")
        if self.format not in ("hf", "original"):
            raise ValueError(f"format={self.format} is unknown; choose hf or original")
        if self.name is not None and (self.name in (".", "..") or "/" in self.name):
            raise ValueError(f"name={self.name} is not the name of a folder; give one without '/', its place as runs=")
        with suppress(ValueError):
            if self.threshold == "searched" or math.isfinite(float(self.threshold)):
                return
        raise ValueError(f"threshold={self.threshold} is neither a number nor 'searched'; give e.g. threshold=0.5")


class Component(Generic[Bound]):
    """An attribute of a Config: the component of that group, bound when it is first asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind  # MODULE.NAME in mprm of the Protocol or class whose members every choice has

    def __set_name__(self, owner: type, group: str) -> None:
        self.group = group

    def __get__(self, config: "Config", owner: type) -> Bound:
        group, node = self.group, config.raw.get(self.group)
        if isinstance(node, DictConfig):
            return config.__dict__.setdefault(group, bind(node))  # from now on it is found before this
        if group == "recipe":
            raise ValueError(f"recipe={node} is no choice: backbone=NAME brings the recipe; give recipe.KEY=VALUE")
        raise ValueError(f"{group} has no choice; give {group}=NAME, one of the files in conf/{group}")

    def lacks(self, made: object) -> list[str]:
        """Members that are asked of the component and that it does not have, methods with their parameters."""
        module, _, name = self.kind.rpartition(".")
        kind, has = getattr(import_module(f"mprm.{module}"), name), set(dir(made))
        kind = get_origin(kind) or kind  # of Records[Pair]
        asked = {
            name: getattr_static(one, name, None)
            for one in kind.__mro__[:-1]
            if one.__module__.startswith("mprm.")
            for name in (*vars(one), *vars(one).get("__annotations__", {}))
            if not name.startswith("_")
        }
        return [
            f"{name}({', '.join([*signature(member).parameters][1:])})" if isfunction(member) else name
            for name, member in sorted(asked.items())
            if name not in has
        ]


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """What every stage takes: the run-level fields, the components, and the composed config itself as `raw`."""

    raw: DictConfig

    dataset: "ClassVar[Component[Dataset]]" = Component("data.rollouts.Dataset")
    selector: "ClassVar[Component[Selector]]" = Component("selection.selectors.Selector")
    objective: "ClassVar[Component[Objective]]" = Component("training.objectives.Objective")
    order: "ClassVar[Component[Order]]" = Component("batching.order.Order")
    backbone: "ClassVar[Component[Backbone]]" = Component("backbones.base.Backbone")
    recipe: "ClassVar[Component[Recipe]]" = Component("training.recipe.Recipe")
    trainer: "ClassVar[Component[Machine]]" = Component("training.recipe.Machine")
    benchmark: "ClassVar[Component[Benchmark]]" = Component("data.records.Benchmark")
    logger: "ClassVar[Component[Logger]]" = Component("reporting.tracking.Logger")
    model: "ClassVar[Component[PRM]]" = Component("prms.prm.PRM")
    questions: "ClassVar[Component[Questions]]" = Component("data.questions.Questions")
    policy: "ClassVar[Component[Policy]]" = Component("inference.policy.Policy")
    search: "ClassVar[Component[Search]]" = Component("inference.search.Search")
    preferences: "ClassVar[Component[Preferences]]" = Component("data.questions.Preferences")
    reward_benchmark: "ClassVar[Component[Preferences]]" = Component("data.questions.Preferences")
    judge: "ClassVar[Component[JudgeSettings]]" = Component("judge.judge.JudgeSettings")
    sft: "ClassVar[Component[SFT]]" = Component("judge.sft.SFT")
    grpo: "ClassVar[Component[GRPO]]" = Component("judge.grpo.GRPO")

    @property
    def has_model(self) -> bool:
        """Is it somebody else's PRM that is to be used?"""
        return MODEL in self.raw

    @property
    def has_judge(self) -> bool:
        """Is it a judge that is to be trained or used? task=rerank takes a step scorer, too."""
        return "judge" in TASKS[self.task].groups and self.raw.get("judge") is not None


def validate(
    raw: DictConfig, choices: Mapping[str, str | None], typed: Sequence[str] = (), bound: Sequence[str] | None = None
) -> Config:
    """Check a composed config and bind what its task needs.

    raw: the composed config; it is not changed, the result's `raw` has `name` and the commits of hub ids; choices: the
    option chosen for each group (HydraConfig's runtime.choices), which names the run folder; typed: the overrides that
    the user typed, of which the task must use every one; bound: the groups to bind instead of the task's.

    Raises ValueError if a key is unknown or unused, or a value is of a wrong type or out of range; hub.explained().
    """
    values = resolved(raw, "")
    run = fill(RunConfig, {key: value for key, value in values.items() if key not in GROUPS}, "")
    if run.run == "latest":
        run = replace(run, run=str(latest_run(Path(run.runs))))
    raw, task = raw.copy(), TASKS[run.task]
    _refuse_unused(run, typed, MODEL in raw)
    if any(getattr(run, need.partition("=")[0]) is None for need in task.needs):
        raise ValueError(f"task={run.task} needs {' and '.join(task.needs)}")
    if "judge" in task.groups and "run" in task.keys:
        chosen = values.get("judge") or {}
        by_steps = run.task == "rerank" and (run.run or MODEL in raw or chosen.get("engine") != "server")
        judge = (run.run and judge_of(Path(run.run))) or (None if by_steps else chosen)
        asked = {key: value for key, value in chosen.items() if f"judge.{key}" in map(_key, typed)}
        raw.judge = judge | asked if judge else None
    pin(raw, values, task.groups, Path(run.runs))
    raw.name = run.name or run_name(values, choices)
    config = Config(**{**vars(run), "name": raw.name}, raw=raw)
    for group in next(groups for groups in (bound, task.bound, task.groups) if groups is not None):
        if group != MODEL or config.has_model:
            getattr(config, group)
    if typed and {"judge", "policy"} <= {*TASKS[run.task].groups}:
        _refuse_unheeded(config, typed)
    return config


def config_of_run(folder: Path) -> Config:
    """The configuration of a run, of which the backbone alone is bound at once. ValueError if the folder is no run."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"run={folder} has no config.yaml; give the folder of a run, runs/NAME")
    if (folder / STAGES).is_file():
        read_record(folder)
    with reading(folder / "config.yaml", "restore it, or run the run's command again"):
        raw = OmegaConf.load(folder / "config.yaml")
        if not isinstance(raw, DictConfig):
            raise TypeError("not a mapping")
    raw.get("backbone", {}).pop("gradient_checkpointing", None)  # of earlier versions, for the training alone
    return validate(raw, {}, bound=("backbone",))


def judge_of(folder: Path) -> dict[str, Any] | None:
    """The node `judge` of a judge's run, or of a folder that was exported of one; None of anything else."""
    if (folder / JUDGE_FILE).is_file():
        return read_json(folder / JUDGE_FILE, "export the folder again")
    if (folder / "config.yaml").is_file() and (of_run := config_of_run(folder)).task in JUDGE_TASKS:
        return resolved(of_run.raw.judge, "judge")
    return None


def bind(node: DictConfig, group: str = "") -> Any:
    """Make the frozen dataclass that node's `_target_` names out of the node's other keys; group: its key in messages.

    Raises ValueError if it, or a part of a mixture, names no dataclass, has an unknown key, lacks a required one or a
    member that its group asks for, or a value is refused.
    """
    group = group or str(node._key() or "component")
    values = resolved(node, group)
    target = values.pop("_target_", None)
    for key, value in values.items():
        if isinstance(value, str) and value.startswith(SHIPPED):
            values[key] = str(CHECKOUT / value)  # weights that ship with the project, whichever folder it is run from
        elif isinstance(value, str) and PINNED.fullmatch(value):
            values[key] = local(f"{group}.{key}", value, has_pictures=values.get("images") is not None)
        elif isinstance(value, dict):
            inner = [name for name, one in value.items() if isinstance(one, dict) and "_target_" in one]
            values[key] = value | {name: bind(node[key][name], f"{group}.{key}.{name}") for name in inner}
    try:
        made = fill(component(target, group), values, group)
    except ValueError as error:  # the reader of a part speaks of dataset.KEY
        raise ValueError(re.sub(r"^dataset\.(?!parts\.)", f"{group}.", str(error))) from error
    asked = vars(Config).get(group.partition(".")[0])
    if isinstance(asked, Component) and (lacking := asked.lacks(made)):
        raise ValueError(f"{group}._target_={target} lacks {', '.join(lacking)}; see docs/add_your_own.md")
    return made


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _refuse_unheeded(config: Config, typed: Sequence[str]) -> None:
    """Keys of policy= and judge= that a judge does not heed as it is asked here."""
    engine = config.judge.engine if config.has_judge else "local"
    votes = max(1, config.judge.votes) if config.task == "compare" else 1
    heat, cold = ("vote", "evaluation") if votes > 1 else ("evaluation", "vote")
    unheeded = ("temperature", "samples", f"{cold}_temperature", *(["votes"] if config.task == "rerank" else []))
    for override in typed:
        group, _, key = _key(override).partition(".")
        reason = ""
        if group in ("policy", "judge") and not config.has_judge:
            reason = "where no judge reranks; give run=JUDGE or, without run= and model=, judge.engine=server; else"
        elif group == "policy" and engine != "server":
            reason = f"with judge.engine={engine}; add judge.engine=server, or"
        elif group == "policy" and key in OF_A_SOLUTION:
            reason = "with judge.engine=server, which asks as judge= says;"
        elif config.task in ("compare", "rerank") and group == "judge" and key in unheeded:
            reason = f"in task={config.task}, which writes {votes} responses in each order at judge.{heat}_temperature;"
        if reason:
            raise ValueError(f"{override} does nothing {reason} leave it out")


def _refuse_unused(run: RunConfig, typed: Sequence[str], has_model: bool) -> None:
    used = {*ALWAYS, *TASKS[run.task].groups, *TASKS[run.task].keys}
    if run.run is not None and has_model:
        raise ValueError(f"run={run.run} and model= name two models; leave one of them out")
    other = "model=" if has_model else None if run.run is None else f"run={run.run}"
    for override in typed:
        key = re.split(r"[.@/:]", _key(override))[0]
        if other and "run" in used and (key in OF_A_RUN or _key(override) == "judge"):
            raise ValueError(f"{override} does nothing beside {other}, which has its own; leave it out")
        if key not in used:
            others = [name for name, task in TASKS.items() if key in (*task.groups, *task.keys)]
            raise ValueError(
                f"task={run.task} does not use {key} (it belongs to task={', '.join(others)}); leave {override} out"
            )
