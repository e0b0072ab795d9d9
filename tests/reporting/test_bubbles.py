import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from mprm.reporting.bubbles import area, draw_small_bubbles, places


def test_places_are_rounded_to_cells() -> None:
    table = pa.table({"p_pos": [0.5, 0.51, 1.0], "reliability": [0.25, 0.26, 0.0]})
    counts = places(table, 20)
    assert counts.shape == (21, 21)
    assert (counts[10, 5], counts[20, 0], counts.sum()) == (2, 1, 3)


def test_small_bubbles_draw_every_place_once_in_sizes_of_powers_of_two() -> None:
    counts = np.zeros((21, 21), dtype=np.int64)
    counts[2, 4], counts[6, 8], counts[20, 20], counts[0, 0] = 1, 3, 5, 100
    axes = Figure().subplots()
    draw_small_bubbles(axes, counts, 100, 1.0)
    drawn = [(line.get_xdata()[0], line.get_ydata()[0], line.get_markersize() ** 2) for line in axes.lines]
    sizes = [area(size, 100) for size in (1, 4, 128)]
    # 3 and 5 are both nearest to four, by the logarithm
    assert [len(line.get_xdata()) for line in axes.lines] == [1, 2, 1]
    np.testing.assert_allclose([size for _, _, size in drawn], sizes)
    assert drawn[0][:2] == (0.1, 0.2)
