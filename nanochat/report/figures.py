"""Figures as SVG: curves and bars. Colours come from the page (`page.html.jinja`), so that they follow its theme.

Each figure is drawn twice, for wide and for narrow screens, because text that is scaled down to a phone cannot be read.
Series differ by colour, and also by dashes or by their place, for readers who cannot tell the colours apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDE, NARROW = 760, 330
"""Widths in CSS pixels."""
COLOURS = 6
DASHES = ("", "9 4", "2 3", "12 3 2 3", "5 2", "1 4")
MOST_POINTS = 240
"""Points of a curve that are drawn; of more, every n-th and the last one."""
LINE_PX, BAR_PX, GAP_PX = 19, 16, 5
CHARACTER_PX = 7.4
"""Width of most characters of a text, for texts that must not be cut off."""


@dataclass(frozen=True)
class Drawing:
    """A figure for wide and for narrow screens."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high): an interval around the curve."""
    dots: bool = False
    """Whether each point is drawn, for few points."""


@dataclass(frozen=True)
class Bar:
    """One bar, with its number as text."""

    value: float
    text: str
    series: int = 0
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Group:
    """Bars under one name."""

    name: str
    bars: Sequence[Bar]
    mark: float | None = None
    """A value to compare with, drawn as a dashed line: the accuracy of a guess."""


def amount(value: float) -> str:
    """A number of an axis: `0.25`, `1,500`, `2.5 M`, `3e+18`."""
    size = abs(value)
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if unit <= size < 1e15:
            scale = 1e3 if letter == "k" else unit
            return f"{value / scale:.4g} {letter}"
    return f"{value:.3g}" if size >= 1e15 else f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def percent(value: float) -> str:
    return f"{100 * value:.4g}%"


def curves(
    series: Sequence[Series], x_name: str, y_name: str, label: Callable[[float], str] = amount, *, log: bool = False
) -> Drawing:
    """Curves over one axis; names have their units. With `log`, both axes are logarithmic."""
    return Drawing(*(_curves(series, x_name, y_name, label, width, log=log) for width in (WIDE, NARROW)))


def bars(groups: Sequence[Group], names: Sequence[str] = (), mark: str = "") -> Drawing:
    """Groups of horizontal bars. `names` are those of the series, if there are several; `mark` is that of the mark."""
    return Drawing(*(_bars(groups, names, mark, width) for width in (WIDE, NARROW)))


# --- curves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (here - low) / ((high - low) or 1.0)

    def ticks(self, most: int) -> list[float]:
        if not self.log:
            return nice_ticks(self.low, self.high, most)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [s * 10.0**p for p in range(first, last + 1) for s in steps if self.low <= s * 10.0**p <= self.high]
            if len(found) <= most:
                break
        return found if len(found) > 1 else [self.low, self.high]


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Up to `most` round numbers between two values."""
    if not high > low:
        return [low]
    raw = (high - low) / max(most - 1, 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(size * unit for size in (1, 2, 2.5, 5, 10) if size * unit >= raw * 0.999)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _curves(
    series: Sequence[Series], x_name: str, y_name: str, label: Callable[[float], str], width: int, *, log: bool
) -> Markup:
    named = [each for each in series if each.name]
    legend, columns = _legend([(each.name, _stroke(n)) for n, each in enumerate(series) if each in named], width, 22)
    top = 22 + 18 * columns + 10
    height = top + (250 if width == WIDE else 190) + 44
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points] + [v for s in series for _, *ends in s.band for v in ends]
    if not xs:
        return Markup("")
    x = _Axis(min(xs), max(xs), 60, width - 16, log)
    spare = 0 if log else (max(ys) - min(ys)) * 0.04 or abs(max(ys)) * 0.1 or 1.0
    y = _Axis(min(ys) - spare, max(ys) + spare, height - 44, top, log)
    parts = [_text(4, 14, y_name, "name"), *legend]
    for value in y.ticks(6):
        at = y.at(value)
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(x.start - 6, at + 4, label(value), anchor="end"))
    for value in x.ticks(7 if width == WIDE else 5):
        text = amount(value)
        centre = min(x.at(value), width - CHARACTER_PX * len(text) / 2)  # the last one is not cut off
        parts.append(_text(centre, y.start + 17, text, anchor="middle"))
    parts.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    parts.append(_text(x.end, y.start + 36, x_name, "name", "end"))
    for number, each in enumerate(series):
        parts += _curve(each, number, x, y)
    numbers = "; ".join(
        f"{each.name or y_name}: {label(each.points[0][1])} to {label(each.points[-1][1])}"
        for each in series
        if each.points
    )
    return _svg(parts, width, height, f"{y_name} over {x_name}. {numbers}")


def _curve(series: Series, number: int, x: _Axis, y: _Axis) -> list[str]:
    points = [(x.at(a), y.at(b)) for a, b in _thinned(series.points)]
    colour = f"s{number % COLOURS}"
    parts: list[str] = []
    if series.band:
        over = [f"{x.at(a):.1f},{y.at(high):.1f}" for a, _, high in series.band]
        under = [f"{x.at(a):.1f},{y.at(low):.1f}" for a, low, _ in reversed(series.band)]
        parts.append(f'<polygon class="band {colour}" points="{" ".join(over + under)}"/>')
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    parts.append(f'<polyline class="curve {colour}"{_dash(number)} points="{line}"/>')
    if series.dots or len(points) == 1:
        parts += [f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in points]
    return parts


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    every = -(-len(points) // MOST_POINTS)
    return [*points[: -1 : max(every, 1)], points[-1]] if len(points) > 1 else points


# --- bars -------------------------------------------------------------------------------------------------------------


def _bars(groups: Sequence[Group], names: Sequence[str], mark: str, width: int) -> Markup:
    swatches = [(name, f'<rect class="bar s{n % COLOURS}" x="{{x}}" y="{{y}}" width="22" height="10"/>')
                for n, name in enumerate(names)]  # fmt: skip
    if mark:
        swatches.append((mark, '<line class="mark" x1="{centre}" x2="{centre}" y1="{top}" y2="{bottom}"/>'))
    legend, rows = _legend(swatches, width, 14)
    top = 18 * rows + 14 if swatches else 4
    ends = [end for group in groups for bar in group.bars for end in (bar.value, *(bar.interval or ()))]
    ends += [group.mark for group in groups if group.mark is not None]
    longest = max((len(bar.text) for group in groups for bar in group.bars), default=0)
    axis = _Axis(min(0.0, *ends, 0.0), max(*ends, 0.0) or 1.0, 4, width - min(7.2 * longest + 16, width * 0.52))
    parts, y, zero = list(legend), float(top), axis.at(0.0)
    for group in groups:
        parts.append(_text(4, y + 14, group.name, "name"))
        y += LINE_PX
        begin = y
        for bar in group.bars:
            parts += _bar(bar, axis, y)
            y += BAR_PX + GAP_PX
        parts.append(
            f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="{begin - 2:.1f}" y2="{y - GAP_PX + 2:.1f}"/>'
        )
        if group.mark is not None:
            at = axis.at(group.mark)
            parts.append(
                f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{begin - 2:.1f}" y2="{y - GAP_PX + 2:.1f}"/>'
            )
        y += 7
    texts = (f"{group.name}: {', '.join(bar.text for bar in group.bars)}" for group in groups)
    return _svg(parts, width, math.ceil(y), "; ".join(texts))


def _bar(bar: Bar, axis: _Axis, y: float) -> list[str]:
    begin, end = sorted((axis.at(0.0), axis.at(bar.value)))
    last = max(end, axis.at(bar.interval[1]) if bar.interval else end)
    parts = [
        f'<rect class="bar s{bar.series % COLOURS}" x="{begin:.1f}" y="{y:.1f}" width="{max(end - begin, 1):.1f}" '
        f'height="{BAR_PX}"/>'
    ]
    if bar.interval:
        low, high = (axis.at(each) for each in bar.interval)
        middle = y + BAR_PX / 2
        line = f'd="M{low:.1f} {middle - 4:g}v8m0 -4H{high:.1f}m0 -4v8"/>'
        parts += [f'<path class="halo" {line}', f'<path class="whisker" {line}']  # seen on any colour of a bar
    return [*parts, _text(last + 8, y + BAR_PX - 3, bar.text, "value")]


# --- parts ------------------------------------------------------------------------------------------------------------


def _legend(swatches: Sequence[tuple[str, str]], width: int, y: float) -> tuple[list[str], int]:
    """The names of series with their swatches, in rows; and the number of rows."""
    parts: list[str] = []
    x, row = 4.0, 0
    for name, swatch in swatches:
        needed = 30 + CHARACTER_PX * len(name) + 18
        if x > 4 and x + needed > width:
            x, row = 4.0, row + 1
        middle = y + 18 * row + 4
        places = {"x": f"{x:g}", "right": f"{x + 22:g}", "centre": f"{x + 11:g}", "middle": f"{middle:g}",
                  "y": f"{middle - 5:g}", "top": f"{middle - 7:g}", "bottom": f"{middle + 7:g}"}  # fmt: skip
        parts += [swatch.format(**places), _text(x + 30, middle + 5, name, "value")]
        x += needed
    return parts, row + 1 if swatches else 0


def _stroke(number: int) -> str:
    dash = _dash(number)
    return f'<line class="curve s{number % COLOURS}"{dash} x1="{{x}}" x2="{{right}}" y1="{{middle}}" y2="{{middle}}"/>'


def _dash(number: int) -> str:
    dashes = DASHES[number % len(DASHES)]
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    where = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}{where}>{escape(text)}</text>'


def _svg(parts: Sequence[str], width: int, height: int, description: str) -> Markup:
    kind = "wide" if width == WIDE else "narrow"
    return Markup(  # noqa: S704 - our own SVG, with escaped texts
        f'<svg class="{kind}" role="img" aria-label="{escape(description)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{"".join(parts)}</svg>'
    )
