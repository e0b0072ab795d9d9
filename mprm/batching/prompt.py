"""The one prompt renderer: training, evaluation and reranking read the same text.

The published code trained on steps joined by "<prm>" and two newlines inside a closed conversation, and evaluated on
steps joined by the bare mark in an unclosed one. Here there is a single rendering, the published training one:

    <image>
    Question: {question}
    Process: {step 1}<prm>

    {step 2}<prm>

A backbone wraps it into its chat template. The text comes in pieces, one per mark, so that the position of every
mark is known by construction and never searched for among the tokens of the user's text.
"""

from __future__ import annotations

import re

MARK = "<prm>"

# "<image>", "<image1>", "<image 1>" and the unclosed "<image7" of VisualProcessBench.
_PLACEHOLDER = re.compile(r"<\s*image(?:\s*(\d+))?(?:\s*>)?", re.IGNORECASE)


def neutralise(text: str) -> str:
    """The user's text without anything that reads as a mark or an image placeholder.

    "<image1>" and its variants become "[image 1]", "<image>" becomes "[image]" and "<prm>" becomes "[prm]".
    """
    text = _PLACEHOLDER.sub(lambda match: f"[image {match[1]}]" if match[1] else "[image]", text)
    return text.replace(MARK, "[prm]")


def render(question: str, steps: list[str]) -> list[str]:
    """One piece of text per step; a mark follows every piece.

    The pieces joined by "<prm>" (and one behind the last) are the published training text without the image line.
    """
    texts = [neutralise(step) for step in steps]
    first = f"Question: {neutralise(question)}\nProcess: {texts[0]}"
    return [first, *(f"\n\n{text}" for text in texts[1:])]
