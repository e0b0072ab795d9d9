"""VL-PRM300K (arXiv 2509.23250), as ob11/VL-PRM300K publishes it, a row of its parquet file as a line of JSON:

{"image": "images/RAVEN/...png", "question": ..., "steps_with_score": [{"step", "score", "num_mc_correct",
 "num_mc_total"}, ...], "conversations": [{"role": "system", ...}, {"role": "user", ...}, {"role": "assistant",
 "content": [{"type": "text", "text": "+"}]}, ...], ...}
"""

from dataclasses import dataclass
from typing import Any

from mprm.data.lines import Unusable
from mprm.data.rollout_files import RolloutFiles
from mprm.data.visualprm400k import SCORES, Annotations


@dataclass(frozen=True, kw_only=True)
class VLPRM300K(RolloutFiles, Annotations):
    """Steps of solutions about images, which a judge went through and Monte-Carlo counts were made of."""

    wanted = "image, question, steps_with_score and conversations, as in VL-PRM300K"

    # judge: the verdicts of o4-mini, + or -, which its turns in `conversations` hold; behind the first - the judge
    # stopped, and the rollout ends. monte_carlo: scores and counts of `steps_with_score`, of all steps.
    labels: str = "judge"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels not in ("judge", "monte_carlo"):
            raise ValueError(f"dataset.labels={self.labels} is unknown; choose judge or monte_carlo")

    def layout(self, record: dict[str, Any]) -> dict[str, Any]:
        if self.labels == "monte_carlo":
            return record
        steps, turns = record.get("steps_with_score"), record.get("conversations")
        if not isinstance(steps, list):
            raise Unusable("no_steps")
        if not isinstance(turns, list) or not set(map(type, turns)) <= {dict}:
            raise Unusable("bad_conversation")
        verdicts = [_text(turn) for turn in turns if turn.get("role") == "assistant"]
        if not set(verdicts) <= SCORES.keys():
            raise Unusable("bad_label")
        if len(verdicts) > len(steps):
            raise Unusable("length_mismatch")
        judged = [
            {"step": step.get("step"), "score": SCORES[verdict]} if isinstance(step, dict) else step
            for step, verdict in zip(steps, verdicts, strict=False)
        ]
        return {"image": record.get("image"), "question": record.get("question"), "steps_with_score": judged}


def _text(turn: dict[str, Any]) -> str:
    """What is said in a turn."""
    said, content = "", turn.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            said += text
    return said.strip()
