"""Math-Shepherd (arXiv 2312.08935), as peiyi9979/Math-Shepherd publishes it in math-shepherd.jsonl:

    {"input": "What is 2 + 3? Step 1: 2 + 3 is 5. ки\\nStep 2: The answer is: 5 ки", "label": "What is 2 + 3? Step 1: 2
     + 3 is 5. +\\nStep 2: The answer is: 5 +", "task": "GSM8K"}

`label` is `input` with + or - for every mark: whether any continuation of that prefix reached the answer. How many did
is not published, and so there are no counts.
"""

from dataclasses import dataclass
from typing import Any

from mprm.data.lines import Unusable
from mprm.data.rollout_files import Labelled, LabelledFiles

MARK, FIRST = "ки", "Step 1:"
SCORES = {"+": 1.0, "-": 0.0}


@dataclass(frozen=True, kw_only=True)
class MathShepherd(LabelledFiles):
    """Steps keep the "Step 1:" that they begin with. A record without it before its first mark has no question that
    can be told from its steps, and is dropped."""

    wanted = "input and label, as in Math-Shepherd's math-shepherd.jsonl"

    def labelled(self, record: dict[str, Any]) -> Labelled:
        marked, label = record.get("input"), record.get("label")
        if not isinstance(marked, str) or MARK not in marked:
            raise Unusable("no_steps")
        if not isinstance(label, str):
            raise Unusable("bad_label")
        *texts, rest = marked.split(MARK)
        question, first, text = texts[0].partition(FIRST)
        if not first:
            raise Unusable("no_question")
        if rest.strip():
            raise Unusable("length_mismatch")
        scores, place = [], 0
        for one in texts:
            if not label.startswith(one, place):
                raise Unusable("length_mismatch")
            place += len(one) + 1
            score = SCORES.get(label[place - 1 : place])
            if score is None:
                raise Unusable("bad_label")
            scores.append(score)
        if label[place:].strip():
            raise Unusable("length_mismatch")
        texts[0] = first + text
        return Labelled(question.strip(), [one.strip() for one in texts], scores)
