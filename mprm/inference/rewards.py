"""What trainers of policies hand to a reward function, read as solutions: prompts, their images, and completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from PIL import Image

from mprm.batching.examples import on_white
from mprm.inference.scoring import SEPARATOR
from mprm.metrics.predictions import StepScores

Picture = str | Path | Image.Image
Pictures = Picture | Sequence[Picture] | None  # of one question
Messages = Sequence[Mapping[str, Any]]  # of a chat: role, and content: a text, or parts that are texts and images
Span = tuple[int, int]  # number of the first character, and of the one behind the last


@dataclass(frozen=True, slots=True)
class StepRewards(StepScores):
    """Of the steps of one completion."""

    spans: tuple[Span, ...] = ()  # of every step in the completion's text


@dataclass(frozen=True)
class Asked:
    """A completion as a solution."""

    images: list[Picture]
    question: str
    text: str
    spans: list[Span]  # of the steps in the text; none if it is empty

    @property
    def steps(self) -> list[str]:
        return [self.text[start:end] for start, end in self.spans]


def read_completions(
    prompts: Sequence[str | Messages],
    completions: Sequence[str | Messages],
    images: Sequence[Pictures] | None = None,
    question: Sequence[str] | None = None,
    separator: str = SEPARATOR,
) -> list[Asked]:
    """Every completion with the question and the images of its prompt, as StepScorer.reward() describes them.

    Equal pictures become one object: a data set decodes its image anew for every completion of a prompt, and what
    those share is computed once only if it is seen to be shared.
    Raises ValueError if the sequences differ in length, or a prompt or a completion is not of the described form.
    """
    if not separator:
        raise ValueError("separator='' parts no steps; give a text such as '\\n', or leave it out for a blank line")
    given = {"completions": completions, "images": images, "question": question}
    for name, values in given.items():
        if values is not None and len(values) != len(prompts):
            raise ValueError(f"prompts has {len(prompts)} values and {name} {len(values)}; give one per completion")
    first: dict[str, Picture] = {}
    found = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        shown = images[number] if images is not None else None
        shown = [shown] if isinstance(shown, str | Path | Image.Image) else list(shown or pictures_of(prompt))
        unique = [first.setdefault(_pixels(one), one) if isinstance(one, Image.Image) else one for one in shown]
        text = text_of(completion)
        asked = question_of(prompt) if question is None else question[number]
        found.append(Asked(unique, asked, text, step_spans(text, separator)))
    return found


def question_of(prompt: str | Messages) -> str:
    """The prompt's text; of a chat the text of its one user message. A system message is the policy's, not the
    question's."""
    if isinstance(prompt, str):
        return prompt
    turns = [message for message in prompt if message["role"] != "system"]
    roles = [turn["role"] for turn in turns]
    if roles != ["user"]:
        raise ValueError(f"prompts: one has turns of {', '.join(roles)}; give one user message, or a column question")
    return _text(turns[0]["content"])


def pictures_of(prompt: str | Messages) -> list[Picture]:
    """The images in the parts of a chat's messages."""
    contents = [] if isinstance(prompt, str) else [message.get("content") for message in prompt]
    parts = [part for content in contents if isinstance(content, list) for part in content if part["type"] == "image"]
    if not all("image" in part for part in parts):
        raise ValueError("prompts: an image part has no image; give it the key image, or give images")
    return [part["image"] for part in parts]


def text_of(completion: str | Messages) -> str:
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        raise ValueError(
            f"completions: one has {len(completion)} messages; give one, chosen or joined by a function of your own "
            "that calls reward()"
        )
    return _text(completion[0].get("content") or "")  # a call of a tool has none


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a message, its parts on lines of their own."""
    if isinstance(content, str):
        return content
    unknown = sorted({part["type"] for part in content} - {"text", "image"})
    if unknown:
        raise ValueError(f"a message has a part of type {unknown[0]}; a step scorer reads text and image")
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def step_spans(text: str, separator: str) -> list[Span]:
    """Of the pieces between separators, without the space around them; a piece of nothing else is no step. Example:
    "a.\\n\\n\\n b. " with "\\n\\n" gives (0, 2) and (6, 8)."""
    spans, start = [], 0
    for piece in text.split(separator):
        step = piece.strip()
        if step:
            first = start + piece.index(step)
            spans.append((first, first + len(step)))
        start += len(piece) + len(separator)
    return spans


def _pixels(picture: Image.Image) -> str:
    """The same for pictures that a model sees alike."""
    try:
        rgb = on_white(picture)
    except ValueError:  # scoring will say that it cannot be read
        return f"picture {id(picture)}"
    return f"{rgb.size} {xxhash.xxh3_128_hexdigest(rgb.tobytes())}"
