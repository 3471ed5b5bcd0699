"""Quality over size or time as a small SVG, drawn without a plotting library. Pure.

Points are numbered in the order of x and named at the side; those that would cover each other are
moved apart by some pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 250, 40, 52
APART = 16
INK, GREY, CHOSEN = "#1f2328", "#8b949e", "#0969da"
_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate: `x` > 0, quality with its interval, all shares of 1."""

    name: str
    x: float
    y: float
    low: float
    high: float
    chosen: bool = False


def svg(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """The picture; x is logarithmic. Raises `ValueError` without points, or for an x of 0."""
    if not points or any(point.x <= 0 for point in points):
        raise ValueError("needs points with x above 0")
    x_low, x_high = _padded([math.log10(point.x) for point in points], least=0.3)
    y_low, y_high = _padded(
        [one for point in points for one in (point.low, point.high)], least=0.01
    )
    y_low, y_high = max(0.0, y_low), min(1.0, y_high)

    def at_x(value: float) -> float:
        return LEFT + (math.log10(value) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 24, title, "start", 'font-size="14" font-weight="600"'),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, "middle"),
        _text(16, 0, y_label, "middle", f'transform="translate(0 {HEIGHT / 2}) rotate(-90 16 0)"'),
    ]
    for value in _ticks(y_low, y_high):
        parts.append(_line(LEFT, at_y(value), WIDTH - RIGHT, at_y(value), "#d0d7de"))
        parts.append(_text(LEFT - 8, at_y(value) + 4, f"{100 * value:.4g} %", "end"))
    for value in _decades(x_low, x_high):
        parts.append(_line(at_x(value), HEIGHT - BOTTOM, at_x(value), HEIGHT - BOTTOM + 4, INK))
        parts.append(_text(at_x(value), HEIGHT - BOTTOM + 18, f"{value:g}", "middle"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, INK))
    near = -math.inf
    for number, point in enumerate(sorted(points, key=lambda one: one.x), 1):
        near = max(at_x(point.x), near + APART)
        parts += _drawn(number, point, near, [at_y(y) for y in (point.low, point.y, point.high)])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(number: int, point: Point, x: float, heights: Sequence[float]) -> list[str]:
    low, y, high = heights
    colour = CHOSEN if point.chosen else GREY
    name = f"{number}  {point.name}" + (" (chosen)" if point.chosen else "")
    more = f'fill="{CHOSEN}" font-weight="600"' if point.chosen else ""
    return [
        _line(x, low, x, high, colour, 2),
        *(_line(x - 4, end, x + 4, end, colour, 2) for end in (low, high)),
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>',
        _text(x, high - 6, str(number), "middle", more),
        _text(WIDTH - RIGHT + 16, TOP + 18 * number, name, "start", more),
    ]


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    look = f'text-anchor="{anchor}" {more}'.rstrip()
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def _line(  # noqa: PLR0917 - two ends and a look
    x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1
) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


def _padded(values: Sequence[float], *, least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(least, 0.12 * (high - low))
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers between two."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * size for size in (*_STEPS, 10) if power * size >= rough)
    first = math.ceil(low / step - 1e-9)
    return [step * at for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between two logarithms."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = (size * 10.0**power for power in powers for size in _STEPS)
    return [value for value in values if low <= math.log10(value) <= high]
