"""Search over steps in a tree that is known: a policy and a reward model whose words are given."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mprm.data.questions import Question
from mprm.inference import server
from mprm.inference.policy import Completion, first_step, solve
from mprm.inference.scoring import Scored, ScoreRequest
from mprm.inference.search import Guided, Search
from mprm.inference.server import ServerPolicy
from mprm.metrics.predictions import NotScored, StepScores
from mprm.runs.journal import journal

QUESTIONS = [Question(f"q{n}", "charts", (f"{n}.png",), "What is red plus blue?", "11") for n in range(3)]
RIGHT, WRONG = "The answer is 11.", "The answer is 12."


def step(text: str, tokens: int = 5) -> Completion:
    return Completion(f"{text}\n", tokens, finished=False)


def end(text: str) -> Completion:
    return Completion(text, 3, finished=True)


# "red is 5." looks better than "red is 4." and leads to what is worse.
SCRIPT = {
    (): [step("red is 4."), step("red is 5.")],
    ("red is 4.",): [step("blue is 7."), step("blue is 8.")],
    ("red is 5.",): [end(WRONG), end(WRONG)],
    ("red is 4.", "blue is 7."): [end(RIGHT), step("Again.")],
    ("red is 4.", "blue is 7.", "Again."): [Completion("", 0, finished=True)],
}
P_YES = {"red is 4.": 0.6, "red is 5.": 0.7, WRONG: 0.2, RIGHT: 0.95}
P_YES |= {"blue is 7.": 0.9, "blue is 8.": 0.1, "Again.": 0.5}


def score(requests: Sequence[ScoreRequest]) -> Scored:
    def odds(p: float) -> float:
        return float(np.log(p / (1 - p)))

    for one in reversed(requests):  # in whatever order
        if one.steps[-1] == "blue is 8." and "2.png" in one.images:
            yield one.id, NotScored("too_long", "300 tokens")
        else:
            yield one.id, StepScores(tuple(odds(P_YES[text]) for text in one.steps))


def searched(policy: Any, target: Path, batch: int = 1, **settings: Any) -> dict[str, Any]:
    work = Guided(Search(**{"beams": 2, "expansions": 2, "score": "last", **settings}), score, batch)
    with journal(target, ["search"]) as kept:
        solve(policy, QUESTIONS, Path, work, kept, lambda n: None)
        found: dict[str, Any] = json.loads(json.dumps({name: kept.done[name] for name in ("q0", "q1", "q2")}))
        return found


def test_the_greedy_choice_errs_and_the_beam_finds(scripted: Any, tmp_path: Path) -> None:
    greedy = searched(scripted(SCRIPT), tmp_path / "greedy", beams=1)["q0"]
    assert (greedy["correct"], greedy["final_answer"], greedy["end"]) == (False, "12", "finished")
    assert [one["steps"] for one in greedy["finished"]] == [["red is 5.", WRONG]]
    # Two first steps, then one different solution of two.
    assert {name: greedy[name] for name in ("tokens", "expansions", "prefixes", "steps")} == {
        "tokens": 2 * 5 + 2 * 3,
        "expansions": 4,
        "prefixes": 3,
        "steps": 1 + 1 + 2,
    }
    assert greedy["lost"] == {"duplicate": 1}

    beam = searched(scripted(SCRIPT), tmp_path / "beam")["q0"]
    assert (beam["correct"], beam["final_answer"], beam["end"]) == (True, "11", "finished")
    best, other = beam["finished"]
    assert best["steps"] == ["red is 4.", "blue is 7.", RIGHT]
    assert best["step_scores"] == pytest.approx([0.6, 0.9, 0.95])
    assert best["score"] == pytest.approx(0.95)
    # The wrong answer takes the second place in the second round, being better than "blue is 8.", and keeps it.
    assert other["steps"] == ["red is 5.", WRONG]
    # Four first steps of which two differ; two and two behind them; two behind the one that is left.
    assert (beam["tokens"], beam["expansions"]) == (4 * 5 + (2 * 5 + 2 * 3) + (3 + 5), 4 + 4 + 2)
    assert (beam["prefixes"], beam["steps"]) == (2 + 3 + 2, 2 * 1 + 3 * 2 + 2 * 3)
    assert beam["lost"] == {"duplicate": 2 + 1}


def test_what_a_begun_solution_is_worth_is_an_aggregate(scripted: Any, tmp_path: Path) -> None:
    """By the minimum .6 of the way to the right answer is less than .7, and greater than .2."""
    found = searched(scripted(SCRIPT), tmp_path / "out", score="min")["q0"]
    assert [one["score"] for one in found["finished"]] == pytest.approx([0.6, 0.2])


@pytest.mark.parametrize(
    ("settings", "end", "tokens", "answer"),
    [
        ({"tokens": 20}, "tokens", 20, None),  # all spent by the first round
        ({"tokens": 21}, "tokens", 36, "12"),  # the round in which they are spent is the last
        ({"max_steps": 1}, "max_steps", 20, None),
        ({"max_steps": 3}, "finished", 44, "11"),
    ],
)
def test_budget_and_number_of_steps_end_a_search(
    scripted: Any, tmp_path: Path, settings: dict[str, int], end: str, tokens: int, answer: str | None
) -> None:
    found = searched(scripted(SCRIPT), tmp_path / "out", **settings)["q0"]
    assert (found["end"], found["tokens"], found["final_answer"]) == (end, tokens, answer)
    assert found["correct"] == (answer == "11")


def test_what_is_no_step_is_thrown_away_and_counted(scripted: Any, tmp_path: Path) -> None:
    """Cut off, blank, and whole solutions of a policy that does not stop behind a step: their first one counts."""
    first = [Completion("red is", 4, finished=False), Completion("\n", 1, finished=False)]
    first += [Completion(f"red is 4.\nblue is 7.\n{RIGHT}", 20, finished=True), end("")]
    found = searched(scripted(SCRIPT | {(): first}, long=(("red is 4.",),)), tmp_path / "out")["q0"]
    assert (found["end"], found["tokens"], found["prefixes"]) == ("nothing_left", 28, 1)
    assert found["lost"] == {"cut_off": 2, "no_step": 1, "too_long_for_policy": 1}
    assert (found["final_answer"], found["correct"], found["finished"]) == (None, False, [])


def test_an_end_behind_the_last_step_is_that_of_the_solution(scripted: Any, tmp_path: Path) -> None:
    script = SCRIPT | {("red is 4.", "blue is 7."): [step(RIGHT)], ("red is 4.", "blue is 7.", RIGHT): [end("")]}
    found = searched(scripted(script), tmp_path / "out", beams=3, expansions=1)["q0"]
    assert found["finished"][0]["steps"] == ["red is 4.", "blue is 7.", RIGHT]


def test_what_the_model_does_not_score_is_counted(scripted: Any, tmp_path: Path) -> None:
    found = searched(scripted(SCRIPT), tmp_path / "out")
    assert found["q2"]["lost"] == {"duplicate": 3, "too_long": 1}
    assert found["q2"]["prefixes"] == found["q0"]["prefixes"] - 1


def test_question_step_and_beam_name_the_randomness(scripted: Any, tmp_path: Path) -> None:
    policy = scripted(SCRIPT, refused=("1.png",))
    assert searched(policy, tmp_path / "out", 3)["q1"] == {"unusable": "unreadable_image"}
    of_q0 = [p for call in policy.calls for p in call if p.images[0].name == "0.png"]
    asked = {(p.key, p.steps[-1:], p.n, p.step_tokens) for p in of_q0}
    assert asked == {
        ("q0", (), 4, 256),
        ("q0\0search\0001\0000", ("red is 5.",), 2, 256),
        ("q0\0search\0001\0001", ("red is 4.",), 2, 256),
        ("q0\0search\0002\0000", ("blue is 7.",), 2, 256),
    }


def test_the_size_of_a_batch_does_not_matter(scripted: Any, tmp_path: Path) -> None:
    expected = searched(scripted(SCRIPT), tmp_path / "1", 1)
    for batch in (2, 100):
        assert searched(scripted(SCRIPT), tmp_path / str(batch), batch) == expected


@pytest.mark.parametrize("paid", range(12))
def test_a_killed_search_goes_on_and_pays_for_nothing_twice(scripted: Any, tmp_path: Path, paid: int) -> None:
    """Killed before each prompt of a policy that hands over its completions one by one."""
    uninterrupted = searched(scripted(SCRIPT), tmp_path / "whole", 2)
    first, second = scripted(SCRIPT, paid=paid), scripted(SCRIPT, paid=99)
    with pytest.raises(KeyboardInterrupt):
        searched(first, tmp_path / "out", 2)
    assert searched(second, tmp_path / "out", 2) == uninterrupted
    asked = [p.key for policy in (first, second) for call in policy.calls for p in call]
    assert len(asked) == len(set(asked)) == 12


def test_a_policy_that_does_not_count_is_one_line(scripted: Any, tmp_path: Path) -> None:
    silent = {steps: [replace(one, n_tokens=None) for one in ways] for steps, ways in SCRIPT.items()}
    with pytest.raises(ValueError, match=r"\Apolicy.url=: the server does not count.*\Z"):
        searched(scripted(silent), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beams": 0}, "search.beams=0 is not positive"),
        ({"step_tokens": 0}, "search.step_tokens=0 is not positive"),
        ({"score": "best"}, "search.score=best is unknown; choose one of mean"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{said}.*\Z"):
        Search(**settings)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("red is 4.", ("red is 4.", None)),
        ("red is 4.\n", ("red is 4.", "")),
        ("\n red is 4. \nblue", ("red is 4.", "blue")),
        ("\n", ("", None)),
    ],
)
def test_the_first_step_of_a_text(text: str, found: tuple[str, str | None]) -> None:
    assert first_step(text, "\n") == found


def test_a_server_is_searched_as_a_policy_here(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def post(policy: ServerPolicy, body: dict[str, Any]) -> tuple[list[tuple[str, bool]], int]:
        assert (body["stop"], body["include_stop_str_in_output"], body["max_tokens"]) == (["\n"], True, 256)
        last = body["messages"][-1]
        steps = tuple(last["content"].split("\n")[:-1]) if last["role"] == "assistant" else ()
        drawn = [SCRIPT[steps][n % len(SCRIPT[steps])] for n in range(body["n"])]
        return [(one.text, True) for one in drawn], sum(one.n_tokens or 0 for one in drawn)

    monkeypatch.setattr(ServerPolicy, "_post", post)
    monkeypatch.setattr(ServerPolicy, "refusal", lambda policy, images: None)
    monkeypatch.setattr(server, "data_url", str)
    expected = searched(scripted(SCRIPT), tmp_path / "here", 2)
    assert searched(ServerPolicy(model="m", separator="\n"), tmp_path / "there", 2) == expected
