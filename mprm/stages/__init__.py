"""The tasks: each reads files and writes files, and imports the heavy libraries it needs."""

from mprm.stages.egt import curate, egt, judge, rl, sft
from mprm.stages.judging import rerank, score
from mprm.stages.pipeline import evaluate, experiment, select, train
from mprm.stages.point import run_point
from mprm.stages.single import choices as list
from mprm.stages.single import export, measure, report
from mprm.stages.solving import annotate, sample
from mprm.stages.sweep import GridSweeper

__all__ = [
    "GridSweeper",
    "annotate",
    "curate",
    "egt",
    "evaluate",
    "experiment",
    "export",
    "judge",
    "list",
    "measure",
    "report",
    "rerank",
    "rl",
    "run_point",
    "sample",
    "score",
    "select",
    "sft",
    "train",
]
