"""Which answer is better, by a judge's votes: the counting, and the Python API."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mprm import Judge
from mprm.inference.local import Sampler
from mprm.judge.compare import Comparison, compared, orders, shares_of_wins
from mprm.judge.judge import JudgeSettings, PresentedPair

Said = list[list[str | None]]  # verdicts in the order of the record, and swapped


def count(one: PresentedPair, said: Said) -> Comparison:
    presented = orders(one.pair, one.images, both=len(said) == 2)
    kept = [[{"verdict": verdict, "text": f"{swap}{n}"} for n, verdict in enumerate(o)] for swap, o in enumerate(said)]
    return compared(zip(presented, kept, strict=True))


@pytest.mark.parametrize(
    ("said", "winner", "share", "reasoning"),
    [
        ([["A"]], "a", 1.0, "00"),
        ([["B", "A", "B"], ["A", None, "A"]], "b", 0.8, "00"),  # swapped, A is b
        ([[None, "B"], ["B", "B"]], "a", 2 / 3, "10"),
        ([["A"], ["A"]], None, 0.5, None),  # the first answer, whichever it is: a tie
        ([[None], [None]], None, None, None),
        ([["A", "A"], ["A", None]], "a", 2 / 3, "00"),
    ],
)
def test_verdicts_are_counted_for_the_answers_not_for_their_places(
    pairs: list[PresentedPair], said: Said, winner: str | None, share: float | None, reasoning: str | None
) -> None:
    found = count(pairs[0], said)
    assert (found.winner, found.share, found.reasoning) == (winner, share, reasoning)
    assert len(found.responses) == sum(map(len, said))


VERDICTS = st.lists(st.sampled_from(["A", "B", None]), min_size=1, max_size=5)


@given(VERDICTS, VERDICTS)
def test_swapping_the_answers_swaps_the_winner(pairs: list[PresentedPair], one: Any, other: Any) -> None:
    found, turned = count(pairs[0], [one, other]), count(pairs[0], [other, one])
    assert (turned.winner, turned.share) == ({"a": "b", "b": "a", None: None}[found.winner], found.share)


def test_shares_of_wins() -> None:
    """0 beats 1 and 2, 1 ties with 2."""
    won = {(0, 1): "a", (0, 2): "a", (1, 2): None}
    found = [(*pair, Comparison(won[pair], None, None, ())) for pair in combinations(range(3), 2)]
    assert shares_of_wins(3, found) == [1.0, 0.25, 0.25]
    assert shares_of_wins(1, []) == [0.5]


@pytest.fixture
def api(judge: JudgeSettings, loaded: Any) -> Judge:
    return Judge(judge, *loaded, 512, device="cpu")


def test_the_api_says_what_the_sampler_says(
    api: Judge, pairs: list[PresentedPair], sampler: Callable[..., Sampler], loaded: Any, judge: JudgeSettings
) -> None:
    """In both orders, of a path or the picture itself; and the same again, whatever was asked between."""
    one = pairs[1]
    pair, (path,) = one.pair, one.images
    found = api.compare(path, pair.prompt, pair.answer_a, pair.answer_b)
    expected = sampler(*loaded, temperature=0.0).complete([o.prompt(1) for o in orders(pair, one.images)])
    assert [response.text for response in found.responses] == [completion.text for (completion,) in expected]
    assert [response.swapped for response in found.responses] == [False, True]
    with Image.open(path) as picture:
        voted = api.compare([picture.convert("RGBA")], pair.prompt, pair.answer_a, pair.answer_b, votes=4)
        assert api.compare(picture, pair.prompt, pair.answer_a, pair.answer_b) == found
    assert len(voted.responses) == 8
    assert len({response.text for response in voted.responses}) > 1
    assert api.compare(str(path), pair.prompt, pair.answer_a, pair.answer_b, votes=4) == voted
    first = api.compare(None, pair.prompt, pair.answer_a, pair.answer_b, both_orders=False)
    assert [response.swapped for response in first.responses] == [False]


def test_scores_are_wins_against_the_field(api: Judge, pairs: list[PresentedPair]) -> None:
    one, answers = pairs[1], ["3", "4", "The answer is 5."]
    scores = api.scores(one.images, one.pair.prompt, answers)
    wins = {None: 0.5, "a": 1.0, "b": 0.0}
    first = [wins[api.compare(one.images, one.pair.prompt, answers[0], other).winner] for other in answers[1:]]
    assert scores[0] == sum(first) / 2
    assert sum(scores) == 1.5


def test_what_cannot_be_compared_is_one_line(api: Judge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^image .*none\.png cannot be read"):
        api.compare(tmp_path / "none.png", "Why?", "a", "b")
    for given_, said in (
        (("Why?", "same", "same"), "both answers are 'same'; give two that differ"),
        (("Why?", " ", "b"), "' ' is no prompt and no answer; give a text"),
        (("Why?", "a", 3), "3 is no prompt and no answer; give a text"),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            api.compare(None, *given_)  # type: ignore[arg-type]
    for votes in (0, 1.5, None):
        with pytest.raises(ValueError, match=rf"^votes={votes} is no positive whole number; give 1"):
            api.compare(None, "Why?", "a", "b", votes=votes)  # type: ignore[arg-type]
    for answers in ([], ["a"], "ab"):
        with pytest.raises(ValueError, match=r"^answers=.* leave nothing to compare; give a list of two texts"):
            api.scores(None, "Why?", answers)
    with pytest.raises(ValueError, match=r"is no judge; give a folder that task=export wrote of one, or its run"):
        Judge.from_pretrained(tmp_path)
