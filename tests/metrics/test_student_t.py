import numpy as np
import pytest

from mprm.metrics.student_t import NORMAL_QUANTILE, T_QUANTILES, half_width


def test_half_width_by_hand() -> None:
    # sd of 78, 80, 82 is 2; t(2 degrees of freedom) = 4.3027; 4.3027 * 2 / sqrt(3) = 4.9683
    assert half_width([78.0, 80.0, 82.0]) == pytest.approx(4.9683, abs=1e-4)
    assert half_width([0.5, 0.5, 0.5]) == 0


def test_quantiles_are_those_of_the_distribution() -> None:
    """Against numeric integration of the density, which is proportional to (1 + x^2 / degrees)^(-(degrees + 1) / 2)."""
    # x = tan(u) turns the whole line into (-pi/2, pi/2)
    u = (np.arange(400_000) + 0.5) / 400_000 * np.pi - np.pi / 2
    x, weight = np.tan(u), 1 / np.cos(u) ** 2
    for degrees, quantile in enumerate(T_QUANTILES, start=1):
        density = (1 + x**2 / degrees) ** (-(degrees + 1) / 2) * weight
        assert density[x < quantile].sum() / density.sum() == pytest.approx(0.975, abs=1e-5)


def test_beyond_the_table_the_normal_quantile_is_used() -> None:
    values = [float(i % 2) for i in range(32)]
    sd = np.std(values, ddof=1)
    assert half_width(values) == pytest.approx(NORMAL_QUANTILE * sd / np.sqrt(32))
    assert half_width(values[:31]) == pytest.approx(2.0423 * np.std(values[:31], ddof=1) / np.sqrt(31))
