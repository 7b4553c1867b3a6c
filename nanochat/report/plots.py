"""Pictures by matplotlib, as SVG text: of the data card."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, GREY = "#3b82f6", "#8a8f98"


def length_bars(lengths: Sequence[int]) -> str:
    """Documents by length: bar k counts those of 2^k to 2^(k+1) - 1 tokens."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(height=2.4)
    first = next((k for k, count in enumerate(lengths) if count), 0)
    axes.bar(range(first, len(lengths)), lengths[first:], color=LINE, width=0.85, align="edge")
    axes.set_xlabel("tokens of a document", color=GREY)
    axes.set_ylabel("documents", color=LINE)
    axes.xaxis.set_major_formatter(lambda value, _: f"{2**value:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure)


def _figure(height: float = 2.9) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=GREY, labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(GREY)
        spine.set_alpha(0.4)
    axes.grid(color=GREY, alpha=0.15)


def _svg(figure: Figure) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nanochat"}):  # otherwise random ids make equal reports differ
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace("<svg ", '<svg role="img" style="width:100%;height:auto" ', 1)
