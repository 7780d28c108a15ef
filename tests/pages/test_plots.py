"""Plots: their order, their frame, and what is drawn of many values."""

from __future__ import annotations

import math
import re
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from asr.pages.plots import FEW, FINEST, Point, bars, curves, scatter
from tests.pages.html import read


@given(st.lists(st.floats(0, 1e7), min_size=1, max_size=5))
@example([5e-324])
def test_plots_keep_their_order_and_their_frame(values: list[float]) -> None:
    drawn = scatter({"a": [Point(x, x) for x in sorted(values)]}, x="x", y="y")
    centres = [float(x) for x in re.findall(r'cx="([^"]+)"', drawn)]
    assert all(a <= b for a, b in pairwise(centres)) and all(58 <= x <= 506 for x in centres)
    widths = [
        float(w)
        for w in re.findall(r'<rect [^>]*width="([^"]+)"', bars([("n", v, "") for v in values], unit="%"))
    ]
    assert len(widths) == len(values) and all(0 <= w <= 520 for w in widths)


def places(drawn: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]*)"', drawn)
    return [[tuple(map(float, place.split(","))) for place in line.split()] for line in lines]  # type: ignore[misc]


@given(st.lists(st.floats(-1e3, 1e6) | st.just(math.nan) | st.just(math.inf), max_size=2 * FINEST))
def test_curves_of_any_values_stay_in_their_frame(values: list[float]) -> None:
    drawn = curves({"<a>": list(enumerate(values)), "none": []}, x="batch", y="loss")
    assert read(drawn)
    for line in places(drawn):
        assert len(line) <= FINEST
        assert all(58 <= x <= 506 and 12 <= y <= 256 for x, y in line)
        assert all(a <= b for (a, _), (b, _) in pairwise(line))
    assert drawn.count("<circle") == (finite if (finite := sum(map(math.isfinite, values))) <= FEW else 0)


def test_a_spike_leaves_the_frame_and_the_rest_stays_readable() -> None:
    values = [(i, 1.0) for i in range(1000)]
    values[500] = (500, 1e9)
    (line,) = places(curves({"norm": values}, x="batch", y="norm"))
    heights = [y for _, y in line]
    assert min(heights) == 12.0 and heights[0] < 200 and heights[0] == heights[-1]
    assert "norm 1" in read(curves({"norm": values}, x="batch", y="norm"))
