"""PRM800K (arXiv 2305.20050), as OpenAI publishes it: phase1_train.jsonl, phase2_train.jsonl and the two of the test.

    {"question": {"problem": ...}, "label": {"finish_reason": ..., "steps": [{"completions": [{"text": ..., "rating":
     -1, 0, 1 or null, "flagged": ...}, ...], "chosen_completion": index or null, "human_completion": null or {"text":
     ...}}, ...]}}

People labelled it: nothing was continued, and there are no counts.
"""

from dataclasses import dataclass
from typing import Any

from mprm.data.lines import Unusable
from mprm.data.rollout_files import Labelled, LabelledFiles

NEUTRAL = {"right": 1.0, "wrong": 0.0, "ignore": None}


@dataclass(frozen=True, kw_only=True)
class PRM800K(LabelledFiles):
    """The solution that a labeller went through: at every step the chosen completion; the one a person wrote, which is
    right, where none was good; where nothing was chosen the first one rated -1, which ends it. Other completions of a
    step are not used."""

    wanted = "question.problem and label.steps, as in PRM800K's phase2_train.jsonl"

    # What a step rated 0 is, which is neither wrong nor of use: right, as the paper counts it; wrong; or ignore, no
    # label. A rating that is null, or flagged as one the labeller could not give, is no label either.
    neutral: str = "right"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neutral not in NEUTRAL:
            raise ValueError(f"dataset.neutral={self.neutral} is unknown; choose {', '.join(NEUTRAL)}")

    def labelled(self, record: dict[str, Any]) -> Labelled:
        question, label = record.get("question"), record.get("label")
        problem = question.get("problem") if isinstance(question, dict) else None
        if not isinstance(problem, str):
            raise Unusable("no_question")
        if not isinstance(label, dict) or not isinstance(given := label.get("steps"), list):
            raise Unusable("no_steps")
        if label.get("finish_reason") == "bad_problem":
            raise Unusable("bad_problem")
        steps, scores = [], []
        for step in given:
            completion = _completion(step)
            if completion is None:
                break
            text = completion.get("text")
            steps.append(text.strip() if isinstance(text, str) else "")
            scores.append(1.0 if completion is step["human_completion"] else self._score(completion))
        return Labelled(problem.strip(), steps, scores)

    def _score(self, completion: dict[str, Any]) -> float | None:
        rating = completion.get("rating")
        if rating is None or completion.get("flagged") is True:
            return None
        if type(rating) is not int or rating not in (-1, 0, 1):
            raise Unusable("bad_label")
        return NEUTRAL[self.neutral] if rating == 0 else float(rating > 0)


def _completion(step: Any) -> dict[str, Any] | None:
    """The completion that the solution goes on with, or ends in; None where it ended before."""
    if not isinstance(step, dict):
        raise Unusable("bad_step")
    completions = step.get("completions") or []
    chosen, human = step.get("chosen_completion"), step.get("human_completion")
    if not isinstance(completions, list) or not set(map(type, completions)) <= {dict}:
        raise Unusable("bad_step")
    if chosen is not None:
        if type(chosen) is not int or not 0 <= chosen < len(completions):
            raise Unusable("bad_step")
        return completions[chosen]
    if human is not None:
        if not isinstance(human, dict):
            raise Unusable("bad_step")
        return human
    return next((one for one in completions if one.get("rating") == -1), None)
