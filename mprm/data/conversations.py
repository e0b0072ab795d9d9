"""Rollouts as conversations, brought into the layout of VisualPRM400K-v1.1-Raw. Two forms are public:

VisualPRM400K(-v1.1), a turn per step, each answered by + (score 1) or - (score 0):
    {"image": ..., "conversations": [{"from": "system", ...}, {"from": "human", "value": "### Question:\\n...\\n\\n###
     Solution Process:\\nfirst step"}, {"from": "gpt", "value": "+"}, {"from": "human", "value": "second step"}, ...]}

the published training format, with a label per mark, and with the counts K and N where BetaPRM wrote them:
    {"image": ..., "conversations": [{"from": "human", "value": "Question: ...\\nProcess: first step<prm>\\n\\nsecond
     step<prm>"}, {"from": "gpt", "value": [1.0, 0.25]}], "prm_counts": {"k": [16, 4], "n": [16, 16]}}
"""

import re
from typing import Any

from mprm.data.rollouts import Unusable

QUESTION = re.compile(r"(?:<image>\s*)*### Question:\s*(.*?)\s*### Solution Process:\s*(.*)", re.DOTALL)
MARKED = re.compile(r"(?:<image>\s*)*Question: (.*?)\nProcess: (.*)<prm>\s*", re.DOTALL)
SCORES = {"+": 1.0, "-": 0.0}


def from_conversation(record: dict[str, Any]) -> dict[str, Any]:
    """The record with question and steps_with_score; Unusable when it is in neither form."""
    turns = record["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Unusable("bad_conversation")
    turns = [turn for turn in turns if turn.get("from") != "system"]
    asked, answers = turns[::2], [turn.get("value") for turn in turns[1::2]]
    if [turn.get("from") for turn in turns] != ["human", "gpt"] * len(answers) or not answers:
        raise Unusable("bad_conversation")
    texts = [turn.get("value") for turn in asked]
    first = texts[0] if isinstance(texts[0], str) else ""
    marked = isinstance(answers[0], list) and len(turns) == 2
    found = (MARKED if marked else QUESTION).fullmatch(first)
    if found is None:
        raise Unusable("bad_conversation")
    if marked:
        steps = _marked_steps(found[2].split("<prm>"), answers[0], record.get("prm_counts"))
    else:
        if any(answer not in ("+", "-") for answer in answers):
            raise Unusable("bad_label")
        steps = [
            {"step": text, "score": SCORES[answer]}
            for text, answer in zip([found[2], *texts[1:]], answers, strict=True)
        ]
    return {"image": record.get("image"), "question": found[1], "steps_with_score": steps}


def _marked_steps(texts: list[str], labels: list[Any], counts: Any) -> list[dict[str, Any]]:
    columns: list[Any] = [labels, *([counts.get("k"), counts.get("n")] if isinstance(counts, dict) else [])]
    if not all(isinstance(column, list) and len(column) == len(texts) for column in columns):
        raise Unusable("length_mismatch")
    if len(columns) == 1:
        return [{"step": text, "score": label} for text, label in zip(texts, labels, strict=True)]
    return [
        {"step": text, "score": None if _is_hard_label(label, k, n) else label, "num_mc_correct": k, "num_mc_total": n}
        for text, label, k, n in zip(texts, *columns, strict=True)
    ]


def _is_hard_label(label: object, k: object, n: object) -> bool:
    """Is the label no score but one that K of N were reduced to, s > tau?"""
    if type(k) is not int or type(n) is not int:
        return False
    return k > 0 if label == 1 else label == 0 and (k < n or n == 0)
