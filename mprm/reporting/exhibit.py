"""What the comparison shows: figures with their words, and the measures that several of them draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from mprm.reporting.compare import Row
from mprm.reporting.style import legend_below as legend_below
from mprm.reporting.style import styled
from mprm.reporting.style import wrapped as wrapped
from mprm.reporting.tables import Estimate, Table
from mprm.runs.artifacts import atomic_file


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One figure of the comparison.

    name: of its files and its place on the page. says: the content in words, for who can not see the figure. data: the
    numbers behind it, where comparison.csv does not hold them.
    """

    name: str
    title: str
    figure: Figure
    caption: str
    says: str
    data: Table | None = None


def save(exhibit: Exhibit, folder: Path) -> None:
    """Write the figure into the folder, as .png and .svg."""
    figure = exhibit.figure
    with styled():
        for kind, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
            with atomic_file(folder / f"{exhibit.name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, **options)
            figure.set_layout_engine("none")  # it stays where it is, and costs half of every further drawing


@dataclass(frozen=True)
class Measure:
    """One of the numbers of a Row, and how it is shown."""

    field: str
    title: str
    axis: str
    scale: int
    form: str

    def of(self, row: Row) -> Estimate | None:
        """The row's number in the unit of the axis."""
        number: Estimate | None = getattr(row, self.field)
        if number is None:
            return None
        low, high = (None if end is None else self.scale * end for end in (number.low, number.high))
        return Estimate(self.scale * number.value, low, high, tuple(self.scale * value for value in number.each))


AUC = Measure("auc", "AUC", "area under the ROC curve", 1, ".3f")
FIXED = Measure("f1_fixed", "Overall macro-F1 at 0.5", "macro-F1 (points), threshold 0.5", 100, ".1f")
CALIBRATED = Measure(
    "f1_calibrated", "Overall macro-F1, calibrated", "macro-F1 (points), calibrated threshold", 100, ".1f"
)


def best_row(rows: tuple[Row, ...], measure: Measure) -> Row | None:
    """The row with the highest mean; the first of equal ones, None where no row has the number."""
    rated = [(number.value, row) for row in rows if (number := measure.of(row))]
    return max(rated, key=lambda pair: pair[0])[1] if rated else None
