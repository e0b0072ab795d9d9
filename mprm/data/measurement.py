"""A step's Monte-Carlo score, and the counts K of N that it stands on, as records have them."""

import math
import re

from mprm.data.rollouts import Unusable

NUMBER = re.compile(r"[0-9.eE+-]+")
MAX_COUNT = 2**31 - 1
ROUNDING = 0.005  # a score may be written with two decimals

Measurement = tuple[float | None, int | None, int | None]  # score, num_mc_correct, num_mc_total


def measurement(raw: object) -> Measurement:
    """Score, K and N of a step under strict cleaning, no score for 0 of 0; or Unusable."""
    if not isinstance(raw, dict):
        raise Unusable("bad_step")
    score, correct, total = raw.get("score"), raw.get("num_mc_correct"), raw.get("num_mc_total")
    if type(correct) is not int or type(total) is not int or not 0 <= correct <= total <= MAX_COUNT:
        correct, total = _odd_counts(correct, total)
    if score is not None:
        score = score if type(score) is float else _number(score)
        if score is None or not 0 <= score <= 1:
            raise Unusable("bad_score")
    if total is None or correct is None:
        return score, None, None
    if total == 0:
        if score:
            raise Unusable("score_contradicts_counts")
        return None, 0, 0
    measured = correct / total
    if score is None or score == measured:
        return measured, correct, total
    if (score > 0) != (correct > 0) or abs(score - measured) > min(ROUNDING, 0.5 / total):
        raise Unusable("score_contradicts_counts")
    return score, correct, total


def _odd_counts(correct: object, total: object) -> tuple[int | None, int | None]:
    """K and N that are not plainly 0 <= K <= N: (0, 0) for a step without continuations, None twice for no counts."""
    k, n = _count(correct), _count(total)
    if k is None:
        return (0, 0) if n == 0 else (None, None)
    if n is not None and k > n:
        raise Unusable("bad_counts")
    return (None, None) if n is None else (k, n)


def _count(value: object) -> int | None:
    """A count that may be written as 8.0 or "8", None where there is none; or Unusable."""
    if value is None:
        return None
    count = _number(value)
    if count is None or not 0 <= count <= MAX_COUNT or count != int(count):
        raise Unusable("bad_counts")
    return int(count)


def _number(value: object) -> float | None:
    """A JSON number, or one that is written as text; None for anything else."""
    if type(value) is not int and type(value) is not float and not (isinstance(value, str) and NUMBER.fullmatch(value)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def published_measurement(raw: object) -> Measurement:
    """The same as the published subset builder takes it: whatever `float` takes, counts or none."""
    if not isinstance(raw, dict):
        raise Unusable("bad_step")
    try:
        score = float(raw.get("score"))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    correct, total = raw.get("num_mc_correct"), raw.get("num_mc_total")
    if type(correct) is not int or type(total) is not int or not 0 <= correct <= total <= MAX_COUNT:
        correct, total = None, None
    return score if 0 <= score <= 1 else None, correct, total
