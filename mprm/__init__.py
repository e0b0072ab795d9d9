"""Select, train, evaluate and compare multimodal process reward models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mprm.scorer import StepScorer as StepScorer

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """StepScorer, imported when it is asked for: it brings torch, which not every task needs."""
    if name == "StepScorer":
        from mprm.scorer import StepScorer

        return StepScorer
    raise AttributeError(f"module 'mprm' has no attribute {name!r}")
