"""Half widths of 95 % intervals for the mean of a few numbers, such as one per seed."""

import math
from collections.abc import Sequence

import numpy as np

# 97.5 % quantiles of Student's t for 1, 2, 3, ... degrees of freedom; beyond 30 the normal one is within 4 %.
T_QUANTILES = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
NORMAL_QUANTILE = 1.9600


# Of two numbers t is 12.7: the interval says nothing, so the two are shown as they are.
FEWEST = 3


def half_width(values: Sequence[float]) -> float:
    """t sd / sqrt(n): half the 95 % interval of the mean of n >= FEWEST numbers.

    78, 80, 82: the standard deviation is 2, t with 2 degrees of freedom 4.3027, so 4.3027 * 2 / sqrt(3) = 4.9683.
    """
    n = len(values)
    assert n >= FEWEST, values
    quantile = T_QUANTILES[n - 2] if n - 2 < len(T_QUANTILES) else NORMAL_QUANTILE
    return quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
