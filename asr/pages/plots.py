"""Plots as SVG that stands inside a page: colours and letters are the page's, so that dark and light fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

__all__ = ["Point", "bars", "curves", "scatter"]

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 44  # of the axes
BAR = 22  # pixels a bar takes
COLOURS = 6  # of series
FINEST = 240  # pieces that a curve is drawn in
FEW = 60  # points, up to which each is marked
USUAL = 0.98  # share of a long curve's values that its axis shows: a spike may leave it


class Point(NamedTuple):
    """A value with its bounds, if it has any, its size in the plot, and what is told where the pointer rests on it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    size: float = 4.0
    note: str = ""


def scatter(
    series: Mapping[str, Sequence[Point]],
    *,
    x: str,
    y: str,
    x_top: float | None = None,
    y_top: float | None = None,
    diagonal: bool = False,
) -> str:
    """Points joined by lines, a colour a series; axes from 0 to `x_top` and `y_top`, or as it fits."""
    points = [point for of_one in series.values() for point in of_one]
    x_top = x_top or _rounded(max([point.x for point in points], default=0.0))
    y_top = y_top or _rounded(max([max(point.y, point.high or 0.0) for point in points], default=0.0))
    at = _scale(x_top, y_top)
    parts = _axes(x_top, y_top, x, y)
    if diagonal:
        (x1, y1), (x2, y2) = at(0, 0), at(x_top, y_top)
        parts.append(f'<line class="diagonal" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')
    for number, of_one in enumerate(series.values()):
        places = [at(point.x, point.y) for point in of_one]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<g class="series{number % COLOURS}"><polyline points="{line}"/>')
        for point, (px, py) in zip(of_one, places, strict=True):
            if point.low is not None and point.high is not None:
                ends = at(point.x, point.low)[1], at(point.x, point.high)[1]
                parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
            parts.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{point.size:.1f}"><title>{escape(point.note)}</title></circle>'
            )
        parts.append("</g>")
    return f"{_svg(WIDTH, HEIGHT, parts, f'{y} over {x}')}{_keys(list(series))}"


def curves(series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str) -> str:
    """Lines through many (x, y), a colour a series, the newest value beside its name. Axes begin at 0.

    Long ones are drawn as means of pieces, short ones with their points; what is not finite is left out.
    """
    finite = {name: [(px, py) for px, py in points if math.isfinite(py)] for name, points in series.items()}
    drawn = {name: _thinned(points) for name, points in finite.items() if points}
    x_top = _rounded(max((points[-1][0] for points in drawn.values()), default=0.0))
    tops = [float(np.quantile([py for _, py in p], USUAL if len(p) > FEW else 1.0)) for p in drawn.values()]
    y_top = _rounded(max(tops, default=0.0))
    at, parts = _scale(x_top, y_top), _axes(x_top, y_top, x, y)
    for number, points in enumerate(drawn.values()):
        places = [at(*point) for point in points]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<g class="series{number % COLOURS}"><polyline points="{line}"/>')
        if len(points) <= FEW:
            told = [escape(f"{x} {px:g}: {py:.4g}") for px, py in points]
            parts += [
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5"><title>{text}</title></circle>'
                for text, (px, py) in zip(told, places, strict=True)
            ]
        parts.append("</g>")
    names = [f"{name} {finite[name][-1][1]:.4g}" for name in drawn]
    return f"{_svg(WIDTH, HEIGHT, parts, f'{y} over {x}')}{_keys(names)}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= FINEST:
        return list(points)
    pieces = np.array_split(np.array(points, dtype=np.float64), FINEST)
    return [(float(px), float(py)) for px, py in (piece.mean(0) for piece in pieces)]


def _scale(x_top: float, y_top: float) -> Callable[[float, float], tuple[float, float]]:
    """Where a value stands in the picture; beyond the axes, at their ends."""

    def at(px: float, py: float) -> tuple[float, float]:
        inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        across, up = min(max(px / x_top, 0.0), 1.0), min(max(py / y_top, 0.0), 1.0)
        return LEFT + inner[0] * across, HEIGHT - BOTTOM - inner[1] * up

    return at


def _axes(x_top: float, y_top: float, x: str, y: str) -> list[str]:
    at, parts = _scale(x_top, y_top), []
    for share in (0, 0.25, 0.5, 0.75, 1):
        px, py = at(share * x_top, share * y_top)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{share * y_top:g}</text>')
        parts.append(
            f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{share * x_top:g}</text>'
        )
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>')
    middle = (HEIGHT - BOTTOM + TOP) / 2
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    return parts


def _keys(names: Sequence[str]) -> str:
    keys = "".join(
        f'<span class="key"><i class="key{number % COLOURS}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f"<p class=keys>{keys}</p>"


def bars(rows: Sequence[tuple[str, float, str]], *, unit: str) -> str:
    """A bar for each (name, value, what stands behind it)."""
    top = max([value for _, value, _ in rows], default=0.0) or 1.0
    name_width, note_width = 150, 200
    space = WIDTH - name_width - note_width
    parts = []
    for number, (name, value, note) in enumerate(rows):
        y, length = number * BAR, space * value / top
        parts.append(
            f'<text x="{name_width - 8}" y="{y + 15}" text-anchor="end">{escape(_short(name))}</text>'
        )
        parts.append(f'<rect x="{name_width}" y="{y + 3}" width="{length:.1f}" height="{BAR - 6}"/>')
        text = escape(f"{value:.1f}{unit}  {note}")
        parts.append(f'<text x="{name_width + length + 6:.1f}" y="{y + 15}">{text}</text>')
    return _svg(WIDTH, max(1, len(rows)) * BAR, parts, f"bars of {unit}")


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    frame = f'viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(label)}"'
    return f"<svg {frame}>{''.join(parts)}</svg>"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"…{name[-19:]}"


def _rounded(value: float) -> float:
    """An axis' end that its quarters are short numbers of."""
    if value < 1e-300:  # 0, or so little that a step of it would be 0
        return 1.0
    step = 1.0
    while step * 4 > value:
        step /= 10
    while step * 40 <= value:
        step *= 10
    for many in (4, 6, 8, 10, 12, 16, 20, 30, 40):
        if many * step >= value:
            return many * step
    return 40 * step
