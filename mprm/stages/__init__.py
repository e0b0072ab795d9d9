"""The tasks: each reads files and writes files, and imports the heavy libraries it needs."""

from mprm.stages.pipeline import evaluate, experiment, report, select, train
from mprm.stages.single import export, measure, pretrain, score

__all__ = ["evaluate", "experiment", "export", "measure", "pretrain", "report", "score", "select", "train"]
