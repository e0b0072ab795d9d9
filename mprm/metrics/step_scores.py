"""The former place of two types of predictions.py."""

from mprm.metrics.predictions import NotScored as NotScored
from mprm.metrics.predictions import StepScores as StepScores
