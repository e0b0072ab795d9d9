"""The tasks: each reads files and writes files, and imports the heavy libraries it needs."""

from mprm.stages.pipeline import evaluate, experiment, select, train
from mprm.stages.point import run_point
from mprm.stages.single import export, measure, pretrain, report, score
from mprm.stages.sweep import GridSweeper

__all__ = [
    "GridSweeper",
    "evaluate",
    "experiment",
    "export",
    "measure",
    "pretrain",
    "report",
    "run_point",
    "score",
    "select",
    "train",
]
