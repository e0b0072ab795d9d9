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
    """A task is the function of its name in mprm.stages. Of its groups and keys some only belong to its run folder's
    config, which several tasks share: task=select takes an objective for the training that follows."""

    groups: tuple[str, ...] = ()  # others are refused when they are typed
    keys: tuple[str, ...] = ()  # of the run level, besides ALWAYS; others are refused when they are typed
    # Bound, and so checked, before the task starts; None: all groups. Binding imports the component's module, and
    # task=select need not wait for torch.
    bound: tuple[str, ...] | None = None
    every_rank: bool = False  # all processes of a distributed run work; else the first alone
    ends: tuple[str, str] | None = None  # the stage that ends it, and a file that is then in the run folder


TASKS = {
    "experiment": Task(groups=RUN_GROUPS, keys=(*RUN_KEYS, "check"), every_rank=True, ends=("evaluate", "report.html")),
    "select": Task(
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "export"),
        bound=("dataset", "selector"),
        every_rank=True,
        ends=("select", "subset"),
    ),
    "train": Task(groups=RUN_GROUPS, keys=(*RUN_KEYS, "check"), every_rank=True, ends=("train", "weights.safetensors")),
    "evaluate": Task(groups=RUN_GROUPS, keys=(*RUN_KEYS, "run", "output"), ends=("evaluate", "results.json")),
    "score": Task(groups=("backbone", "trainer"), keys=("seed", "run", "input", "output", "overwrite", "cache")),
    "rerank": Task(
        groups=("backbone", "trainer"), keys=("seed", "run", "input", "output", "overwrite", "cache", "aggregate")
    ),
    "sample": Task(groups=("questions", "policy"), keys=("seed", "solutions", "output", "overwrite", "cache")),
    "annotate": Task(
        groups=("questions", "policy"), keys=("seed", "solutions", "continuations", "output", "overwrite", "cache")
    ),
    "export": Task(keys=("run", "checkpoint", "format", "output", "overwrite", "cache")),
    "measure": Task(keys=("predictions", "threshold", "output", "overwrite", "cache")),
    "report": Task(keys=("runs", "overwrite")),
    "list": Task(),
    "egt": Task(groups=JUDGE_GROUPS, keys=JUDGE_KEYS, every_rank=True, ends=("judge", "report.html")),
    "sft": Task(groups=JUDGE_GROUPS, keys=JUDGE_KEYS, every_rank=True, ends=("sft", "sft/weights.safetensors")),
    "curate": Task(groups=JUDGE_GROUPS, keys=JUDGE_KEYS, every_rank=True, ends=("curate", "curated")),
    "rl": Task(groups=JUDGE_GROUPS, keys=JUDGE_KEYS, every_rank=True, ends=("rl", "rl/weights.safetensors")),
    "judge": Task(groups=JUDGE_GROUPS, keys=JUDGE_KEYS),
}

# Of the two lines of work the second: judges.
JUDGE_TASKS = tuple(name for name, task in TASKS.items() if task.groups == JUDGE_GROUPS)
