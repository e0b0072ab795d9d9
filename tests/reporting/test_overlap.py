import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.reporting import overlap
from mprm.reporting.overlap import jaccard, overlap_exhibit
from mprm.reporting.subsets import Corpus, Counts, Subset


def keys(*members: int) -> np.ndarray:
    return np.array(sorted(members), dtype=np.int64)


def test_jaccard_by_hand() -> None:
    # {1, 2, 3} and {2, 3, 4, 5}: 2 in both of 5 in either
    index = jaccard([keys(1, 2, 3), keys(2, 3, 4, 5), keys(9)])
    assert index.tolist() == [[1, 0.4, 0], [0.4, 1, 0], [0, 0, 1]]


@given(st.lists(st.sets(st.integers(0, 2**40), min_size=1, max_size=20), min_size=1, max_size=5))
def test_jaccard_is_that_of_sets(sets: list[set[int]]) -> None:
    expected = [[len(a & b) / len(a | b) for b in sets] for a in sets]
    assert jaccard([keys(*one) for one in sets]) == pytest.approx(np.array(expected))


def test_the_size_of_the_pieces_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sets = [np.sort(rng.choice(1000, 300, replace=False)).astype(np.int64) for _ in range(4)]
    whole = jaccard(sets)
    monkeypatch.setattr(overlap, "PIECE", 7)
    assert jaccard(sets).tolist() == whole.tolist()


def corpus(*subsets: tuple[str, np.ndarray]) -> Corpus:
    counts = Counts(np.zeros((21, 21), dtype=np.int64), np.zeros(20, dtype=np.int64))
    return Corpus({}, None, [Subset(label, (), {}, counts, members) for label, members in subsets])


def test_the_matrix_has_a_number_for_every_pair() -> None:
    exhibit = overlap_exhibit(corpus(("a", keys(1, 2)), ("b", keys(2, 3)), ("c", keys(1, 2, 3, 4))))
    assert exhibit is not None
    (axes,) = exhibit.figure.axes
    assert [text.get_text() for text in axes.texts] == [".33", ".50", ".50"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  1", "b  2", "c  3"]
    assert "a and b 0.33" in exhibit.says
    assert exhibit.data is not None
    assert exhibit.data.rows[0] == ("a", "1.0000", "0.3333", "0.5000")


def test_one_subset_overlaps_with_nothing() -> None:
    assert overlap_exhibit(corpus(("a", keys(1)))) is None
