"""What a policy is: a component that writes solutions of a question and continues begun ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mprm.batching.examples import image_fault, open_images

if TYPE_CHECKING:
    from mprm.backbones.chat import ChatProcessor


@dataclass(frozen=True)
class Prompt:
    """n continuations are wanted of a solution whose first `steps` stand."""

    # Names the randomness: the same key gives the same continuations, in whatever company.
    key: str
    images: tuple[Path, ...]
    question: str
    steps: tuple[str, ...]
    n: int


@dataclass(frozen=True)
class Completion:
    """What was written behind the steps that stood."""

    text: str
    # Tokens written, without the one that ends the solution; None where the policy does not tell.
    n_tokens: int | None
    # Ended by the policy, not by the limit of tokens.
    finished: bool
    # Of the next token, in nats, the mean over what was written; None where the policy does not tell.
    entropy: float | None = None


Keep = Callable[[Prompt, list[Completion]], None]


class Policy(Protocol):
    """Component of the config group `policy`."""

    @property
    def separator(self) -> str:
        """What stands between the steps of a solution."""
        ...

    def identity(self) -> dict[str, Any]:
        """All settings that the completions depend on, as JSON values. Raises ValueError if one is missing."""
        ...

    def refusal(self, images: Sequence[Path]) -> str | None:
        """Why the policy cannot look at these images, a reason of image_refusal(); None when it can."""
        ...

    def complete(self, prompts: Sequence[Prompt], keep: Keep | None = None) -> list[list[Completion]]:
        """prompt.n completions of every prompt, in order; none of a prompt that is too long for the policy.

        keep: to be told of a prompt's completions as soon as they are there, where they come one by one and cost
        something. A policy whose completions come together may leave it alone.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the policies of this project are asked, and draw."""

    # Stands below every question.
    instruction: str = ""
    # Between the steps of a solution.
    separator: str = "\n\n"
    # 0 always takes the most likely token.
    temperature: float = 1.0
    top_p: float = 1.0
    # A solution that does not end within them is unfinished.
    max_new_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError(r'policy.separator is empty; give what stands between two steps, e.g. "\n\n"')
        if "\\" in self.separator:
            raise ValueError(
                f"policy.separator={self.separator} has a backslash, which the shell hands on as it is; write "
                r"""$'policy.separator="\n"'"""
            )
        if not self.temperature >= 0:
            raise ValueError(f"policy.temperature={self.temperature} is negative; 0 always takes the most likely token")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"policy.top_p={self.top_p} is not in (0, 1]; 1 leaves nothing out")
        if self.max_new_tokens < 1:
            raise ValueError(f"policy.max_new_tokens={self.max_new_tokens} is not positive; try 1024")


def image_refusal(images: Sequence[Path], processor: ChatProcessor | None = None) -> str | None:
    """missing_image_file, unreadable_image, or refused_image (a shape that the processor does not take), or None."""
    try:
        sizes = [image.size for image in open_images(images)]
    except ValueError as error:
        return image_fault(error)
    try:
        if processor is not None:
            processor.ask(sizes, "")
    except ValueError:
        return "refused_image"
    return None


def split_steps(text: str, separator: str) -> tuple[str, ...]:
    """The steps of a solution, stripped; empty ones are left out."""
    return tuple(step for part in text.split(separator) if (step := part.strip()))


def key_hash(key: str) -> int:
    """64 bits of a prompt's key, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
