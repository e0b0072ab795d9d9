"""The one table of tasks: what each does, reads of the configuration and leaves, and who runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

RUN_GROUPS = ("dataset", "selector", "objective", "order", "backbone", "recipe", "trainer", "benchmark", "logger")
JUDGE_GROUPS = (
    *("preferences", "reward_benchmark", "judge", "sft", "grpo"),
    *("selector", "order", "backbone", "trainer", "logger"),
)
REWARD_GROUPS = ("preferences", "reward_benchmark", "backbone", "recipe", "trainer", "logger")
MODEL = "model"  # the one group that has no choice until one is typed: somebody else's PRM
GROUPS = tuple(dict.fromkeys([*RUN_GROUPS, MODEL, "questions", "policy", "search", *JUDGE_GROUPS]))

ALWAYS = ("task", "debug", "experiment", "hydra")
JUDGE_KEYS = ("seed", "name", "runs", "cache", "overwrite", "redo")
RUN_KEYS = (*JUDGE_KEYS, "held_out")
OUTPUT = ("output", "overwrite", "cache")
SCORER = (MODEL, "backbone", "trainer")

# What the folder of run= answers already, and model= too.
OF_A_RUN = (
    *(group for group in RUN_GROUPS if group not in ("trainer", "benchmark", "logger")),
    *("name", "held_out", "redo"),
)


@dataclass(frozen=True, kw_only=True)
class Task:
    # for --help, in a line
    does: str
    # MODULE.NAME in mprm/stages; the module is imported when the task runs
    function: str
    # groups, and keys of the run level besides ALWAYS, that may be typed; some are for a later task of the same run
    # folder: task=select takes an objective for the training that follows
    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    # without which it is refused: KEY=what it is
    needs: tuple[str, ...] = ()
    # bound, and so checked, before the task starts; None: all groups. Binding imports the component's module, and
    # task=select need not wait for torch
    bound: tuple[str, ...] | None = None
    # all processes of a distributed run work; else the first alone
    every_rank: bool = False
    # a step scorer is asked: further processes take a share of that, too
    scores: bool = False
    # stages of its line that a run folder has when it is done, in order
    stages: tuple[str, ...] = ()
    # a file that is then in the run folder
    leaves: str | None = None

    def load(self) -> Callable[[Any], int | None]:
        """Its function: takes a mprm.config.Config, gives the exit code where it is not 0."""
        module, _, name = self.function.partition(".")
        function: Callable[[Any], int | None] = getattr(import_module(f"mprm.stages.{module}"), name)
        return function


STEP_STAGES = ("select", "train", "evaluate")  # of a step scorer's run, in the order of work
JUDGE_STAGES = ("sft", "curate", "rl", "judge")
REWARD_MODEL = "reward_model"  # the task and its stage: a reward model of whole answers
LINES = (STEP_STAGES, JUDGE_STAGES, (REWARD_MODEL, "judge"))


def _judge_task(does: str, stages: tuple[str, ...], leaves: str | None) -> Task:
    return Task(
        does=does,
        function="judges.train_judge",
        groups=(*JUDGE_GROUPS, "policy"),  # of one run folder; a server can be measured, not trained
        keys=JUDGE_KEYS,
        bound=JUDGE_GROUPS,
        every_rank=stages != JUDGE_STAGES[3:],  # only the trainings are distributed
        stages=stages,
        leaves=leaves,
    )


TASKS = {
    "experiment": Task(
        does="select, train, evaluate and report; the default",
        function="step_scorer.experiment",
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "check"),
        every_rank=True,
        scores=True,
        stages=STEP_STAGES,
        leaves="report.html",
    ),
    "select": Task(
        does="rank the rollouts and keep the best",
        function="step_scorer.select",
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "export"),
        bound=("dataset", "selector"),
        every_rank=True,
        stages=STEP_STAGES[:1],
        leaves="subset",
    ),
    "train": Task(
        does="train on them, which are selected first if need be",
        function="step_scorer.train",
        groups=RUN_GROUPS,
        keys=(*RUN_KEYS, "check"),
        every_rank=True,
        stages=STEP_STAGES[:2],
        leaves="weights.safetensors",
    ),
    "evaluate": Task(
        does="score a benchmark with a trained run; run=RUN or model=PRM, output=DIR: with any run or folder, or a PRM",
        function="step_scorer.evaluate",
        groups=(*RUN_GROUPS, MODEL),
        keys=(*RUN_KEYS, "run", "output"),
        scores=True,
        stages=STEP_STAGES,
        leaves="results.json",
    ),
    "report": Task(does="compare all runs below runs=", function="standalone.report", keys=("runs", "overwrite")),
    "score": Task(
        does="step scores for your own solutions: run=RUN input=FILE output=FILE",
        function="scoring.score",
        groups=SCORER,
        keys=("seed", "run", "input", *OUTPUT),
        needs=("input=FILE.jsonl (image, question, steps)", "output=FILE.jsonl"),
        scores=True,
    ),
    "rerank": Task(
        does="best-of-N among candidate solutions: run=RUN input=FILE output=DIR",
        function="scoring.rerank",
        groups=(*SCORER, "judge", "policy"),  # where a judge compares them
        keys=("seed", "run", "input", "aggregate", *OUTPUT),
        needs=("input=FILE.jsonl (candidates)", "output=DIR"),
        bound=SCORER,
        scores=True,
    ),
    "compare": Task(
        does="a judge's choice between two answers, for your own pairs: run=JUDGE input=FILE output=FILE",
        function="comparing.compare",
        groups=("judge", "backbone", "trainer", "policy"),
        keys=("seed", "run", "input", *OUTPUT),
        needs=("input=FILE.jsonl (image, prompt, answer_a, answer_b)", "output=FILE.jsonl"),
        bound=("judge", "backbone", "trainer"),
    ),
    "sample": Task(
        does="candidate solutions of questions, by a policy model",
        function="standalone.sample",
        groups=("questions", "policy"),
        keys=("seed", "solutions", *OUTPUT),
        needs=("output=FILE.jsonl",),
    ),
    "annotate": Task(
        does="solutions with Monte-Carlo scores, to train on",
        function="standalone.annotate",
        groups=("questions", "policy"),
        keys=("seed", "solutions", "continuations", *OUTPUT),
        needs=("output=FILE.jsonl",),
    ),
    "search": Task(
        does="step-level search that a model guides, beside best-of-N and votes at equal tokens: input=FILE output=DIR",
        function="search.search",
        groups=(*SCORER, "policy", "search"),
        keys=("seed", "run", "input", "aggregate", *OUTPUT),
        needs=("input=FILE.jsonl (of task=sample)", "output=DIR"),
    ),
    "contamination": Task(
        does="what training data and a benchmark share, and a list to exclude it: output=DIR",
        function="contamination.contamination",
        groups=("dataset", "benchmark"),
        keys=("similarity", "distance", "excluded", *OUTPUT),
        needs=("output=DIR",),
    ),
    "export": Task(
        does="a trained run as a folder for transformers: run=RUN output=DIR; push_to=ORG/NAME: and on the hub",
        function="standalone.export",
        keys=("run", "checkpoint", "format", "push_to", *OUTPUT),
        needs=("run=runs/NAME", "output=DIR"),
    ),
    "measure": Task(
        does="metrics of anybody's step scores: predictions=FILE output=FILE",
        function="standalone.measure",
        keys=("predictions", "threshold", *OUTPUT),
        needs=("predictions=FILE", "output=FILE.json"),
    ),
    "egt": _judge_task("train a judge of answers: sft, curate, rl and judge", JUDGE_STAGES, "report.html"),
    "sft": _judge_task("its first stage: fine-tune the judge on traces", JUDGE_STAGES[:1], "sft/weights.safetensors"),
    "curate": _judge_task("its second: keep the pairs that the selector ranks highest", JUDGE_STAGES[:2], "curated"),
    "rl": _judge_task("its third: reinforcement learning on them", JUDGE_STAGES[:3], "rl/weights.safetensors"),
    "judge": _judge_task("measure it after every stage that is done", JUDGE_STAGES[3:], None),
    REWARD_MODEL: Task(
        does="the baseline of judges: train a reward model on pairs, which scores answers without reasoning",
        function="reward_model.reward_model",
        groups=REWARD_GROUPS,
        keys=JUDGE_KEYS,
        every_rank=True,
        stages=LINES[2],
        leaves="report.html",
    ),
    "list": Task(does="every choice of every group, with its fields", function="standalone.choices"),
}

# Of the lines of work the second: judges.
JUDGE_TASKS = tuple(name for name, task in TASKS.items() if set(JUDGE_GROUPS) <= set(task.groups))

# Keys that do not change what a run computes: changing them finds the same run again. A group name covers its keys.
NOT_IN_HASH = (
    # where the run lies and what is done with it; task=train continues the run that task=select began
    *("task", "name", "runs", "cache", "overwrite", "redo", "check", "debug", "logger"),
    # of tasks that open no run, and of files beside the run folder
    *(MODEL, "questions", "policy", "search", "run", "checkpoint", "format", "input", "predictions", "threshold"),
    *("solutions", "continuations", "aggregate", "export", "output", "push_to"),
    *("similarity", "distance", "excluded"),
    # the gradient does not depend on how a global batch is cut: a run resumes on other devices
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.max_tokens"),
    *("trainer.offload_optimizer", "trainer.num_workers", "trainer.peak_tflops", "trainer.compile"),
    *("backbone.checkpoint_layers", "backbone.gradient_checkpointing"),  # the second: of earlier versions
    # what is kept, and when
    *("trainer.checkpoint_every", "trainer.checkpoint_minutes", "trainer.keep_optimizer", "trainer.validate_every"),
    # where a served judge is: of its policy, the one that enters the hash, what it is asked does not depend on these
    *(f"policy.{name}" for name in ("url", "parallel", "retries", "timeout", "api_key_env")),
    "trainer.non_finite",  # a run that stopped is finished with skip; its summary counts what was skipped
)


def unused(task: str | None) -> tuple[str, ...]:
    """The groups, and the key, that belong to other lines of work alone."""
    of = TASKS[task or "experiment"]
    return (*(group for group in GROUPS if group not in of.groups), *(() if "held_out" in of.keys else ("held_out",)))
