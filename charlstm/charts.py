"""Line charts as SVG, to stand in a page: no script, colours by the page's style.

What a line is drawn with is for the style sheet to say: each has the class
`line` and that of its kind, so that light, dark and print can differ.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections.abc import Callable, Sequence

# As wide as a phone, so that the letters are not made smaller there.
_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 44
_MOST_DOTS = 60
_MOST_POINTS = 1_000  # more than the picture has columns
_NARROW = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A series of points.

    Attributes:
        label: What it is.
        kind: Class for the style sheet, a word.
        x: Finite numbers.
        y: Numbers; NaN leaves a gap.
    """

    label: str
    kind: str
    x: Sequence[float]
    y: Sequence[float]

    @property
    def points(self) -> list[tuple[float, float]]:
        """The points, gaps included; thinned out where there are too many to see."""
        points = list(zip(self.x, self.y, strict=True))
        if len(points) <= _MOST_POINTS:
            return points
        last = len(points) - 1
        return [points[round(n * last / (_MOST_POINTS - 1))] for n in range(_MOST_POINTS)]


def line_chart(
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    from_zero: bool = False,
    marked: tuple[float, float] | None = None,
) -> str:
    """Draw lines that share their axes.

    Args:
        lines: At least one; without any finite point the chart is empty.
        name: A word that no other chart of the page has, for its ids.
        title: What it shows, read aloud first.
        description: What can be seen in it, read aloud after.
        x_label: Below the axis.
        y_label: Above it.
        from_zero: Whether the y axis begins at zero.
        marked: A point to be named by its y value.

    Returns:
        An `svg` element.
    """
    shown = [[p for p in line.points if all(map(math.isfinite, p))] for line in lines]
    xs = [x for points in shown for x, _ in points]
    ys = [y for points in shown for _, y in points]
    x_ticks = ticks(min([*xs, 0.0]), max(xs, default=1.0))
    y_ticks = ticks(min([*ys, 0.0]) if from_zero else min(ys, default=0.0), max(ys, default=1.0))
    (x0, x1), (y0, y1) = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)
        down = (y1 - y) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 1), round(_TOP + down, 1)

    parts = []
    for y, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        _, at = place(x0, y)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{label}</text>'
        )
    for x, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        at, bottom = place(x, y0)
        parts.append(
            f'<line class="grid" x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text x="{at}" y="{bottom + 17}" text-anchor="middle">{label}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    for line in lines:
        parts.append(_draw(line, place, n_points=max(map(len, shown))))
    if marked is not None:
        x, y = place(*marked)
        anchor, shift = ("end", -6) if x > middle else ("start", 6)
        parts.append(
            f'<circle class="marked" cx="{x}" cy="{y}" r="4"/>'
            f'<text class="marked" x="{x + shift}" y="{y - 8}" text-anchor="{anchor}">'
            f"{marked[1]:.3f}</text>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{html.escape(title)}, {html.escape(y_label)}</title>'
        f'<desc id="{name}-text">{html.escape(description)}</desc>{"".join(parts)}</svg>'
    )


def _draw(
    line: Line, place: Callable[[float, float], tuple[float, float]], *, n_points: int
) -> str:
    parts = []
    runs = itertools.groupby(line.points, key=lambda p: all(map(math.isfinite, p)))
    for is_there, run in runs:
        if not is_there:
            continue
        points = list(run)
        placed = [place(*p) for p in points]
        if len(placed) > 1:
            path = " ".join(f"{x},{y}" for x, y in placed)
            parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        if len(placed) == 1 or n_points <= _MOST_DOTS:
            parts += [
                f'<circle class="dot {line.kind}" cx="{x}" cy="{y}" r="2.5">'
                f"<title>{html.escape(line.label)}: {value:.4g}</title></circle>"
                for (x, y), (_, value) in zip(placed, points, strict=True)
            ]
    return "".join(parts)


def ticks(low: float, high: float, *, n_at_most: int = 6) -> list[float]:
    """Choose round numbers that span a range.

    Args:
        low: Its lower end, finite.
        high: Its upper end, at least `low`.
        n_at_most: How many, at least 3.

    Returns:
        At least two equally spaced multiples of 1, 2 or 5 times a power of
        ten, the first at most `low`, the last at least `high`.
    """
    if high - low <= _NARROW * max(abs(low), abs(high), 1e-300):
        high = low + (abs(low) or 1.0)  # one value alone
    rough = (high - low) / (n_at_most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5, 10, 20, 50):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < n_at_most:
            break
    return [n * step for n in range(first, max(last, first + 1) + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Write round numbers as short as they can be told apart.

    Args:
        values: From `ticks`.

    Returns:
        One label each, thousands as k and millions as M.
    """
    largest, step = max(abs(value) for value in values), values[1] - values[0]
    scale, unit = next(
        ((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= s), (1.0, "")
    )
    decimals = max(0, -math.floor(math.log10(step / scale) + 1e-9))
    if decimals > 4 or largest / scale >= 1e6:
        return [f"{value:.0e}" if value else "0" for value in values]
    return [
        f"{value / scale:.{decimals}f}{unit}" if abs(value) > step / 2 else "0" for value in values
    ]
