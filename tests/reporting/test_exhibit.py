from collections.abc import Callable

from mprm.reporting.compare import Row
from mprm.reporting.exhibit import AUC, FIXED, best_row
from mprm.reporting.tables import Estimate

MakeRow = Callable[..., Row]


def test_a_measure_is_in_the_unit_of_its_axis(make_row: MakeRow) -> None:
    row = make_row("BIS", 0.1, 0.85, f1_fixed=Estimate(0.7, 0.65, 0.72))
    assert AUC.of(row) == Estimate(0.85)
    assert FIXED.of(row) == Estimate(70.0, 65.0, 72.0)
    assert FIXED.of(make_row("BIS", 0.1, None)) is None


def test_the_best_row_is_the_first_of_the_highest(make_row: MakeRow) -> None:
    rows = (make_row("Full", 1, None), make_row("BIS", 0.1, 0.8), make_row("BIS", 0.2, 0.9), make_row("BIS", 0.3, 0.9))
    assert best_row(rows, AUC) is rows[2]
    assert best_row(rows[:1], AUC) is None
