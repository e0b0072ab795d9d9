"""Select, train, evaluate and compare multimodal process reward models, and judges."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mprm.judging import Judge as Judge
    from mprm.scorer import StepScorer as StepScorer

__version__ = "0.1.0"
API = {"Judge": "judging", "StepScorer": "scorer"}  # by module


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: it brings torch, which not every task needs."""
    if name in API:
        return getattr(import_module(f"mprm.{API[name]}"), name)
    raise AttributeError(f"module 'mprm' has no attribute {name!r}")
