"""Search over steps that a reward model guides: a policy proposes next steps, and the model says which of the begun
solutions go on (beam search against a PRM, Snell et al., arXiv 2408.03314, section 5.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mprm.data.answers import final_answer, is_right
from mprm.data.questions import Question
from mprm.inference.policy import Completion, Draw, Prompt, Solved, first_step
from mprm.inference.scoring import Scored, ScoreRequest
from mprm.metrics.best_of_n import AGGREGATORS
from mprm.metrics.predictions import StepScores


@dataclass(frozen=True, kw_only=True)
class Search:
    """Component `search`. First beams * expansions first steps are drawn, then `expansions` next steps of every begun
    solution that is kept. All that differ are scored, and the best go on: `beams` of them, less one for every solution
    that is finished. Kept solutions that are finished stay; the best of them is the search's answer.

    The round in which `tokens` are spent, or that of number max_steps, is the last. A search without a finished
    solution then has no answer.
    """

    beams: int = 3
    expansions: int = 3  # next steps that are drawn of every begun solution
    score: str = "mean"  # what a begun solution is worth, of its step scores: mean min product last sum_logits
    tokens: int = 2048  # of a question; that all drawn steps have, thrown away or not
    max_steps: int = 32
    step_tokens: int = 256  # a step that does not end within them is thrown away

    def __post_init__(self) -> None:
        for name in ("beams", "expansions", "tokens", "max_steps", "step_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"search.{name}={getattr(self, name)} is not positive; give at least 1")
        if self.score not in AGGREGATORS:
            raise ValueError(f"search.score={self.score} is unknown; choose one of {', '.join(AGGREGATORS)}")

    @property
    def label(self) -> str:
        """What reports call it."""
        name = "greedy step choice" if self.beams == 1 else f"beam search ({self.beams} beams)"
        return f"{name}, {self.expansions} expansions, score {self.score}"


@dataclass(frozen=True)
class Begun:
    """A solution up to and with a step."""

    steps: tuple[str, ...]
    finished: bool
    scores: tuple[float, ...] = ()  # P(yes) of every step
    worth: float = -np.inf


@dataclass
class Tree:
    """The search of one question."""

    question: Question
    images: tuple[Path, ...]
    live: list[Begun]  # that go on, the best first
    finished: list[Begun] = field(default_factory=list)
    spent: Counter[str] = field(default_factory=Counter)  # tokens, expansions; of the reward model: prefixes, steps
    lost: Counter[str] = field(default_factory=Counter)  # expansions by the reason why they are not scored

    def prompts(self, settings: Search, depth: int) -> list[Prompt]:
        """What the policy is asked next. A prompt's key names question, step and beam."""
        return [
            Prompt(
                "\0".join((self.question.id, "search", str(depth), str(beam))),
                self.images,
                self.question.question,
                one.steps,
                settings.expansions,
                settings.step_tokens,
            )
            for beam, one in enumerate(self.live)
        ]

    def grown(self, drawn: Sequence[tuple[Begun, list[Completion]]], separator: str) -> list[Begun]:
        """The begun solutions that the policy's steps make of those that were live, each once."""
        found: dict[Begun, None] = {}
        for root, completions in drawn:
            self.lost["too_long_for_policy"] += not completions
            for completion in completions:
                if completion.n_tokens is None:
                    raise ValueError("policy.url=: the server does not count tokens (usage); serve the model with vLLM")
                self.spent["tokens"] += completion.n_tokens
                self.spent["expansions"] += 1
                step, rest = first_step(completion.text, separator)
                finished = completion.finished and not (rest or "").strip()
                one = Begun((*root.steps, step) if step else root.steps, finished)
                if not finished and rest is None:
                    self.lost["cut_off"] += 1
                elif not one.steps or not (step or finished):
                    self.lost["no_step"] += 1
                elif one in found:
                    self.lost["duplicate"] += 1
                else:
                    found[one] = None
        return list(found)

    def choose(self, scored: Sequence[Begun], beams: int) -> None:
        """Keep the best; of equal ones the first."""
        best = sorted(scored, key=lambda one: -one.worth)[: beams - len(self.finished)]
        self.finished += [one for one in best if one.finished]
        self.live = [one for one in best if not one.finished]

    def record(self, settings: Search) -> dict[str, Any]:
        """What is written of it: the finished solutions, the best first, and what they cost."""
        over = "tokens" if self.spent["tokens"] >= settings.tokens else "max_steps"
        end = over if self.live else "finished" if self.finished else "nothing_left"
        found: list[dict[str, Any]] = []
        for one in sorted(self.finished, key=lambda one: -one.worth):
            given = final_answer(one.steps)
            correct = given is not None and is_right(given, self.question.answer)
            said = {"steps": list(one.steps), "final_answer": given, "correct": correct}
            found.append(said | {"score": one.worth, "step_scores": list(one.scores)})
        best = found[0] if found else {"final_answer": None, "correct": False}
        return {
            "id": self.question.id,
            "source": self.question.source,
            "final_answer": best["final_answer"],
            "correct": best["correct"],
            "end": end,
            **{name: self.spent[name] for name in ("tokens", "expansions", "prefixes", "steps")},
            "lost": {reason: count for reason, count in self.lost.items() if count},
            "finished": found,
        }


@dataclass(frozen=True)
class Guided:
    """A question becomes the record of its search. What a search finds depends on the other questions of a batch only
    by the rounding of logits and scores."""

    search: Search
    score: Callable[[Sequence[ScoreRequest]], Scored]
    batch: int = 32  # questions that are searched together and kept together

    @property
    def solutions(self) -> int:
        return self.search.beams * self.search.expansions

    @property
    def step_tokens(self) -> int:
        return self.search.step_tokens

    def results(self, solved: Sequence[Solved], draw: Draw, separator: str) -> list[dict[str, Any]]:
        trees = [Tree(one.question, one.images, [Begun((), finished=False)]) for one in solved]
        growing = [(tree, [one.completions]) for tree, one in zip(trees, solved, strict=True) if one.completions]
        for depth in range(1, self.search.max_steps + 1):
            found = [tree.grown(list(zip(tree.live, drawn, strict=True)), separator) for tree, drawn in growing]
            self._choose([tree for tree, _ in growing], found)
            going = [tree for tree, _ in growing if tree.live and tree.spent["tokens"] < self.search.tokens]
            if not going or depth == self.search.max_steps:
                break
            prompts = [tree.prompts(self.search, depth) for tree in going]
            drawn = iter(draw([prompt for of_tree in prompts for prompt in of_tree]))
            growing = [(tree, [next(drawn) for _ in of_tree]) for tree, of_tree in zip(going, prompts, strict=True)]
        return [tree.record(self.search) for tree in trees]

    def _choose(self, trees: Sequence[Tree], found: Sequence[list[Begun]]) -> None:
        """Score what was found of every tree, and keep the best."""
        requests = [
            ScoreRequest(f"{number}/{place}", tuple(map(str, tree.images)), tree.question.question, one.steps)
            for number, (tree, of_tree) in enumerate(zip(trees, found, strict=True))
            for place, one in enumerate(of_tree)
        ]
        by_id = dict(self.score(requests))
        for number, (tree, of_tree) in enumerate(zip(trees, found, strict=True)):
            scored = []
            for place, one in enumerate(of_tree):
                said = by_id[f"{number}/{place}"]
                if isinstance(said, StepScores):
                    worth = AGGREGATORS[self.search.score](np.array(said.log_odds))
                    scored.append(Begun(one.steps, one.finished, tuple(said.scores), worth))
                    tree.spent.update(prefixes=1, steps=len(one.steps))
                else:
                    tree.lost[said.reason] += 1
            tree.choose(scored, self.search.beams)
