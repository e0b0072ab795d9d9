"""The one table of tasks: what each reads of the configuration, who runs it, and what it leaves."""

from dataclasses import dataclass

RUN_GROUPS = ("dataset", "selector", "objective", "order", "backbone", "recipe", "trainer", "benchmark", "logger")
JUDGE_GROUPS = (
    *("preferences", "reward_benchmark", "judge", "sft", "grpo"),
    *("selector", "order", "backbone", "trainer", "logger"),
)
GROUPS = tuple(dict.fromkeys([*RUN_GROUPS, "questions", "policy", *JUDGE_GROUPS]))

ALWAYS = ("task", "debug", "experiment", "hydra")
JUDGE_KEYS = ("seed", "name", "runs", "cache", "overwrite", "redo")
RUN_KEYS = (*JUDGE_KEYS, "held_out")

# What the folder of run= answers already.
OF_A_RUN = (*(group for group in RUN_GROUPS if group not in ("trainer", "benchmark")), "name", "held_out", "redo")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Of a task's groups and keys some only belong to its run folder's config, which several tasks share: task=select
    takes an objective for the training that follows."""

    function: str  # MODULE.NAME in mprm.stages; the module is imported when the task runs
    groups: tuple[str, ...] = ()  # others are refused when they are typed
    keys: tuple[str, ...] = ()  # of the run level, besides ALWAYS; others are refused when they are typed
    # Bound, and so checked, before the task starts; None: all groups. Binding imports the component's module, and
    # task=select need not wait for torch.
    bound: tuple[str, ...] | None = None
    every_rank: bool = False  # all processes of a distributed run work; else the first alone
    ends: tuple[str, str] | None = None  # the stage that ends it, and a file that is then in the run folder


TASKS = {
    "experiment": Task(
        function="pipeline.experiment",
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "check"),
        every_rank=True,
        ends=("evaluate", "report.html"),
    ),
    "select": Task(
        function="pipeline.select",
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "export"),
        bound=("dataset", "selector"),
        every_rank=True,
        ends=("select", "subset"),
    ),
    "train": Task(
        function="pipeline.train",
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "check"),
        every_rank=True,
        ends=("train", "weights.safetensors"),
    ),
    "evaluate": Task(
        function="pipeline.evaluate",
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "run", "output"),
        ends=("evaluate", "results.json"),
    ),
    "score": Task(
        function="judging.score",
        groups=("backbone", "trainer"),
        keys=("seed", "run", "input", "output", "overwrite", "cache"),
    ),
    "rerank": Task(
        function="judging.rerank",
        groups=("backbone", "trainer"),
        keys=("seed", "run", "input", "output", "overwrite", "cache", "aggregate"),
    ),
    "sample": Task(
        function="solving.sample",
        groups=("questions", "policy"),
        keys=("seed", "solutions", "output", "overwrite", "cache"),
    ),
    "annotate": Task(
        function="solving.annotate",
        groups=("questions", "policy"),
        keys=("seed", "solutions", "continuations", "output", "overwrite", "cache"),
    ),
    "export": Task(function="single.export", keys=("run", "checkpoint", "format", "output", "overwrite", "cache")),
    "measure": Task(function="single.measure", keys=("predictions", "threshold", "output", "overwrite", "cache")),
    "report": Task(function="single.report", keys=("runs", "overwrite")),
    "list": Task(
        function="single.choices",
    ),
    "egt": Task(
        function="egt.egt", groups=JUDGE_GROUPS, keys=JUDGE_KEYS, every_rank=True, ends=("judge", "report.html")
    ),
    "sft": Task(
        function="egt.sft",
        groups=JUDGE_GROUPS,
        keys=JUDGE_KEYS,
        every_rank=True,
        ends=("sft", "sft/weights.safetensors"),
    ),
    "curate": Task(
        function="egt.curate", groups=JUDGE_GROUPS, keys=JUDGE_KEYS, every_rank=True, ends=("curate", "curated")
    ),
    "rl": Task(
        function="egt.rl", groups=JUDGE_GROUPS, keys=JUDGE_KEYS, every_rank=True, ends=("rl", "rl/weights.safetensors")
    ),
    "judge": Task(function="egt.judge", groups=JUDGE_GROUPS, keys=JUDGE_KEYS),
}

# Of the two lines of work the second: judges.
JUDGE_TASKS = tuple(name for name, task in TASKS.items() if task.groups == JUDGE_GROUPS)
