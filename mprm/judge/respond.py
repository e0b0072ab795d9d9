"""What a judge says of pairs: its responses, their verdicts and entropies, kept as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.inference.local import Sampler
from mprm.inference.policy import Completion, Prompt
from mprm.judge.judge import Judge, Shown
from mprm.runs.journal import Journal


def key_of(one: Shown) -> str:
    """Names a pair in an order: the randomness and the result."""
    return f"{one.pair.id}\0{'swapped' if one.swapped else 'as it stands'}"


def prompt_of(one: Shown, n: int) -> Prompt:
    """The pair as a policy is asked it, for n responses."""
    return Prompt(key_of(one), one.images, one.text, (), n)


def sampler_of(judge: Judge, processor: ChatProcessor, model: ChatModel, temperature: float, seed: int) -> Sampler:
    """Draws the responses of a model that is asked to judge."""
    return Sampler(
        processor=processor,
        model=model,
        instruction=judge.instruction,
        temperature=temperature,
        max_new_tokens=judge.max_new_tokens,
        max_tokens=judge.max_tokens,
        seed=seed,
    )


def respond(
    sampler: Sampler,
    judge: Judge,
    pairs: Sequence[Shown],
    samples: int,
    kept: Journal,
    advance: Callable[[int], None],
    batch: int = 64,
) -> None:
    """Fill the journal: key_of(pair) -> {"id", "swapped", "better", "responses": [{"text", "verdict", "in_format",
    "entropy", "n_tokens"}]}.

    verdict: A, B or null, as it is meant; in_format: it stands as judge.verdict wants it. entropy: nats, the mean over
    the tokens of the response of the entropy of the judge's own next-token distribution, whatever the temperature; no
    token of the prompt counts.

    batch: pairs that are asked together and kept together; advance: told how many more are done.
    """
    waiting = (one for one in pairs if key_of(one) not in kept.done)
    while chosen := list(islice(waiting, batch)):
        found = sampler.complete([prompt_of(one, samples) for one in chosen])
        kept.add(
            {key_of(one): _record(one, completions, judge) for one, completions in zip(chosen, found, strict=True)}
        )
        advance(len(chosen))


def _record(one: Shown, completions: list[Completion], judge: Judge) -> dict[str, Any]:
    return {
        "id": one.pair.id,
        "swapped": one.swapped,
        "better": one.better,
        "responses": [
            {
                "text": completion.text,
                "verdict": judge.meant(completion.text) if completion.finished else None,
                "in_format": completion.finished and judge.verdict_of(completion.text) is not None,
                "entropy": completion.entropy,
                "n_tokens": completion.n_tokens,
            }
            for completion in completions
        ],
    }
