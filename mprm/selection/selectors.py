"""The selectors: BIS, the baselines of its paper (arXiv 2602.04145), and the entropy of arXiv 2602.01884."""

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa

from mprm.selection.signals import NUMERIC, balanced, one_of_each, shuffled, uniform


class Selector(Protocol):
    """A component of the group `selector`. RankedSelector has all but the score."""

    uses_entropy: ClassVar[bool]  # score() wants the column entropy, which no signals table has by itself
    baseline: ClassVar[bool]  # figures draw it as a line to compare with

    @property
    def label(self) -> str:
        """What figures and tables call it, with the fields that set it apart from others of its kind."""

    @property
    def ratio(self) -> float | None:
        """Fraction of the ranked rows to keep: max(1, int(m * ratio)) of m, as published. None: see count."""

    @property
    def count(self) -> int | None:
        """Number of the ranked rows to keep. None: see ratio."""

    @property
    def scope(self) -> str:
        """ "source" keeps so many of every source, "global" of all together."""

    @property
    def ties(self) -> str:
        """Which of equal scores goes first: "file_order" (published), "random", or a column of the signals table, of
        which the larger value goes first, the smaller one when the name begins with "-"; what is still equal keeps file
        order."""

    @property
    def seed(self) -> int:
        """Of all that is drawn."""

    def score(self, signals: pa.Table) -> np.ndarray:
        """Score of every row, float64, larger is better; rows that are not ranked may get anything."""

    @property
    def rearranges(self) -> bool:
        """Does arrange() change anything? If not, it is not asked, and only the best are sorted."""

    def arrange(self, signals: pa.Table, orders: list[np.ndarray], sizes: list[int]) -> list[np.ndarray]:
        """The row numbers of every scope in the order in which they get its places.

        orders: those of its ranked rows, the best first; sizes: its numbers of places.
        """


@dataclass(frozen=True, kw_only=True)
class RankedSelector:
    """Base of the selectors: a subclass gives every row a score, and the best are kept, but for these options.

    balance=questions: the best rollout of every question goes before the second best of any. Rollouts of one question
    share image, text and difficulty: the second teaches less than one of another question.
    balance=question_length: of each fifth of the questions by length the same share is kept. A score that favours easy
    questions, as R does, favours short ones.
    random_share (None: 0): this share of the places goes to the others at random. Whatever a score is blind to or wrong
    about, every kind of rollout stays in the training data.
    """

    uses_entropy: ClassVar[bool] = False
    baseline: ClassVar[bool] = False

    ratio: float | None = 0.1
    count: int | None = None
    scope: str = "source"
    ties: str = "file_order"
    seed: int = 0
    balance: str = "none"
    random_share: float | None = None

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.count is None):
            raise ValueError(
                f"selector.ratio={self.ratio} and selector.count={self.count}: set one of them and leave the other null"
            )
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(
                f"selector.ratio={self.ratio} is not in (0, 1]; "
                "give the fraction of rollouts to keep, e.g. selector.ratio=0.1"
            )
        if self.count is not None and self.count < 1:
            raise ValueError(f"selector.count={self.count} is not positive; give the number of rollouts to keep")
        if self.scope not in ("source", "global"):
            raise ValueError(f"selector.scope={self.scope} is unknown; choose source or global")
        if self.ties not in ("file_order", "random") and self.ties.removeprefix("-") not in NUMERIC:
            raise ValueError(
                f"selector.ties={self.ties} is unknown; choose file_order, random or one of {', '.join(NUMERIC)}, "
                "with a leading - for the smaller first"
            )
        if self.seed < 0:
            raise ValueError(f"selector.seed={self.seed} is negative; give 0 or more")
        if self.balance not in ("none", "questions", "question_length"):
            raise ValueError(f"selector.balance={self.balance} is unknown; choose none, questions or question_length")
        if self.random_share is not None and not 0 <= self.random_share <= 1:
            raise ValueError(
                f"selector.random_share={self.random_share} is not in [0, 1]; "
                "give the share of the places that are drawn, e.g. selector.random_share=0.5"
            )

    @property
    def label(self) -> str:
        """The class in words and what sets it apart: its own fields, and an unusual scope or ties."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__)
        common = ("ratio", "count", "scope", "ties", "seed")
        told = []
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float)
            if field.name not in common and (value != field.default or (number and value)):
                told.append(f"{field.name} {value:g}" if isinstance(value, float) else f"{field.name} {value}")
        if self.scope == "global":
            told.append("global")
        if self.ties != "file_order":
            told.append(f"ties {self.ties}")
        return f"{words} ({', '.join(told)})" if told else words

    def score(self, signals: pa.Table) -> np.ndarray:
        """Score of every row, float64, larger is better; rows that are not ranked may get anything."""
        raise NotImplementedError

    @property
    def rearranges(self) -> bool:
        """Does arrange() change anything?"""
        return self.balance != "none" or bool(self.random_share)

    def arrange(self, signals: pa.Table, orders: list[np.ndarray], sizes: list[int]) -> list[np.ndarray]:
        """The rows of every scope in the order in which they get its places; see Selector."""
        if self.balance == "questions":
            questions = signals["question_hash"].to_numpy()
            orders = [one_of_each(order, questions) for order in orders]
        if self.balance == "question_length":
            words = signals["n_question_words"].to_numpy()
            orders = [balanced(order, words) for order in orders]
        if self.random_share:
            draws = uniform(signals, self.seed, "random_share")
            firsts = [size - int(self.random_share * size) for size in sizes]
            others = [np.arange(first, order.size) for first, order in zip(firsts, orders, strict=True)]
            orders = [shuffled(order, where, draws) for order, where in zip(orders, others, strict=True)]
        return orders


@dataclass(frozen=True, kw_only=True)
class BIS(RankedSelector):
    """Balanced-Information Score (arXiv 2602.04145): BIS = (p_pos (1 - p_pos) + alpha) R, how mixed the step labels
    are, times how reliable the positive ones.

    alpha weighs reliable rollouts that are not mixed against mixed ones that are not reliable: a rollout without a
    positive step scores alpha, one without a negative step alpha R. Published: alpha 0.2 with ratio 0.1, alpha 0.05
    with ratio 0.25.

    fill=random: the places that BIS gives to all-positive rollouts go to all-positive ones drawn at random within the
    scope; the others are ranked as ever. Among all-positive rollouts nothing but R tells one from another, and the
    largest R is the easiest question.

    labels=posterior: one right continuation of 16 makes a step positive, though its success rate is hardly ever worth
    the name. With r the success rate, uniform before the K of N right continuations, and q = P(r >= 1/4 | K, N) =
    1 - I_1/4(1 + K, 1 + N - K), 1 less the flip rate eta(K) of the paper: p_pos becomes the mean q of all steps,
    reliability the mean q of those with K > 0 (1 when there is none), the expected share of right ones among their
    labels. A step without counts has q = 1 where its score is at least 1/4, else 0.
    """

    alpha: float = 0.2
    labels: str = "hard"
    fill: str = "score"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"selector.alpha={self.alpha} is not in [0, inf); give e.g. selector.alpha=0.05")
        if self.labels not in ("hard", "posterior"):
            raise ValueError(f"selector.labels={self.labels} is unknown; choose hard or posterior")
        if self.fill not in ("score", "random"):
            raise ValueError(f"selector.fill={self.fill} is unknown; choose score or random")

    def score(self, signals: pa.Table) -> np.ndarray:
        names = ("p_pos", "reliability") if self.labels == "hard" else ("p_right", "p_right_positive")
        p_pos, reliability = (signals[name].to_numpy() for name in names)
        return (p_pos * (1 - p_pos) + self.alpha) * reliability

    @property
    def rearranges(self) -> bool:
        return self.fill == "random" or super().rearranges

    def arrange(self, signals: pa.Table, orders: list[np.ndarray], sizes: list[int]) -> list[np.ndarray]:
        if self.fill == "random":
            all_positive, draws = signals["p_pos"].to_numpy() == 1, uniform(signals, self.seed, "fill")
            orders = [shuffled(order, np.flatnonzero(all_positive[order]), draws) for order in orders]
        return super().arrange(signals, orders, sizes)


@dataclass(frozen=True, kw_only=True)
class Full(RankedSelector):
    """Every rollout that can be trained on."""

    baseline = True

    ratio: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio != 1.0:
            raise ValueError(
                f"selector=full keeps everything, not ratio={self.ratio} count={self.count}; "
                "give selector.ratio=1.0 selector.count=null, or choose selector=random"
            )

    def score(self, signals: pa.Table) -> np.ndarray:
        return np.zeros(signals.num_rows)


@dataclass(frozen=True, kw_only=True)
class Random(RankedSelector):
    """Uniformly at random. With one seed a smaller ratio keeps a part of what a larger one keeps."""

    baseline = True

    def score(self, signals: pa.Table) -> np.ndarray:
        return uniform(signals, self.seed)


@dataclass(frozen=True, kw_only=True)
class Mixed(RankedSelector):
    """Mixed rollouts (with a positive and a negative step) in random order, then the rest in random order."""

    def score(self, signals: pa.Table) -> np.ndarray:
        p_pos = signals["p_pos"].to_numpy()
        return ((p_pos > 0) & (p_pos < 1)) + uniform(signals, self.seed)


@dataclass(frozen=True, kw_only=True)
class Reliable(RankedSelector):
    """Largest mean score of the positive steps first; a rollout without one counts as 1."""

    def score(self, signals: pa.Table) -> np.ndarray:
        return signals["reliability"].to_numpy()


@dataclass(frozen=True, kw_only=True)
class LowMC(RankedSelector):
    """Smallest mean score of the steps first."""

    def score(self, signals: pa.Table) -> np.ndarray:
        return -signals["mean_mc"].to_numpy()


@dataclass(frozen=True, kw_only=True)
class Entropy(RankedSelector):
    """Lowest entropy under the model that is to be trained first; what has none comes last.

    signal: of a pair of answers, `mean` is that of a token of the judge's response, `sum` that of all its tokens, an
    estimate of the entropy of the whole response: one token that could go either way is not thinned by sure ones.
    """

    uses_entropy = True

    signal: str = "mean"

    # The share of all ranked rows, those with the lowest entropy, that goes behind the others, the least sure of them
    # first: what the model is sure of anyway teaches nothing.
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor < 1:
            raise ValueError(
                f"selector.floor={self.floor} is not in [0, 1); "
                "give the share of rollouts that the model is sure of, e.g. selector.floor=0.05"
            )
        if self.signal not in ("mean", "sum"):
            raise ValueError(f"selector.signal={self.signal} is unknown; choose mean or sum")

    def score(self, signals: pa.Table) -> np.ndarray:
        entropy = signals["entropy" if self.signal == "mean" else "entropy_sum"].to_numpy()
        ranked = np.flatnonzero(signals["ranked"].to_numpy())
        score = -entropy
        lowest = ranked[np.argsort(entropy[ranked], kind="stable")][: int(self.floor * len(ranked))]
        score[lowest] = entropy[lowest] - 2 * np.nanmax(entropy, initial=0) - 1
        return np.where(np.isnan(score), -np.inf, score)


@dataclass(frozen=True, kw_only=True)
class Agreement(RankedSelector):
    """Pairs of answers whose label more of the judge's responses agree with first. It needs the label, which entropy
    does not, and so sees wrong labels wherever they are."""

    ties: str = "random"

    def score(self, signals: pa.Table) -> np.ndarray:
        return np.nan_to_num(signals["agrees"].to_numpy(), nan=-1.0)
