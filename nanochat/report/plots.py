"""Curves and bars as SVG text for HTML pages, with colours for light and dark themes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, SECOND, GREY = "#3b82f6", "#f97316", "#8a8f98"


def training_curve(events: Sequence[Mapping[str, float]], evaluation: str, label: str) -> str:
    """Smoothed training loss over steps, and the evaluations, on a second axis."""
    figure, axes = _figure()
    axes.plot([e["done"] for e in events], [e["smoothed_loss"] for e in events], color=LINE, linewidth=1.5)
    axes.set_xlabel("step", color=GREY)
    axes.set_ylabel("training loss (nats a token)", color=LINE)
    evaluated = [e for e in events if evaluation in e]
    if evaluated:
        right = axes.twinx()
        _plain(right)
        right.plot([e["done"] for e in evaluated], [e[evaluation] for e in evaluated], "o-", color=SECOND, markersize=4)
        right.set_ylabel(label, color=SECOND)
    return _svg(figure)


def reward_curve(events: Sequence[Mapping[str, float]], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Mean reward of each step, and pass@1 on held-out problems with its interval, on a second axis."""
    figure, axes = _figure()
    axes.plot([e["done"] for e in events], [e["reward"] for e in events], color=LINE, linewidth=1)
    axes.set_xlabel("step", color=GREY)
    axes.set_ylabel("mean reward", color=LINE)
    right = axes.twinx()
    _plain(right)
    steps = [e["step"] for e in evaluations]
    low, high = ([e["interval"][end] for e in evaluations] for end in range(2))
    right.fill_between(steps, low, high, color=SECOND, alpha=0.15)
    right.plot(steps, [e["pass_at_1"] for e in evaluations], "o-", color=SECOND, markersize=4)
    right.set_ylabel("held-out problems: pass@1", color=SECOND)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _svg(figure)


def answers_curve(events: Sequence[Mapping[str, float]]) -> str:
    """Entropy of the policy, and the mean length of answers, on a second axis."""
    figure, axes = _figure()
    sampled = [e for e in events if "policy_entropy" in e]
    axes.plot([e["done"] for e in sampled], [e["policy_entropy"] for e in sampled], color=LINE, linewidth=1)
    axes.set_xlabel("step", color=GREY)
    axes.set_ylabel("entropy (nats a token)", color=LINE)
    right = axes.twinx()
    _plain(right)
    right.plot([e["done"] for e in events], [e["answer_tokens"] for e in events], color=SECOND, linewidth=1)
    right.set_ylabel("tokens of an answer", color=SECOND)
    return _svg(figure)


def accuracy_bars(tasks: Mapping[str, Mapping[str, float]]) -> str:
    """Accuracy of each task as a bar, with a tick at chance."""
    figure, axes = _figure(height=0.6 + 0.42 * len(tasks))
    names = list(tasks)[::-1]
    axes.barh(names, [tasks[name]["accuracy"] for name in names], color=LINE, height=0.55)
    for row, name in enumerate(names):
        chance = tasks[name]["baseline"]
        axes.plot([chance, chance], [row - 0.38, row + 0.38], color=SECOND, linewidth=2)
        axes.text(tasks[name]["accuracy"] + 0.01, row, f"{tasks[name]['accuracy']:.0%}", va="center", color=GREY)
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _svg(figure)


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


def language_bars(languages: Mapping[str, float]) -> str:
    """Share of each language among the documents sampled."""
    figure, axes = _figure(height=0.6 + 0.24 * len(languages))
    names = list(languages)[::-1]
    axes.barh(names, [languages[name] for name in names], color=LINE, height=0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _svg(figure)


def scaling_curve(points: Sequence[tuple[float, float, str]], law: Callable[[float], float] | None) -> str:
    """Bits per byte over FLOPs, with names, and the law `law(flops)` up to ten times the largest FLOPs."""
    figure, axes = _figure()
    flops = [x for x, _, _ in points]
    if law:
        range_ = [min(flops) * (10 * max(flops) / min(flops)) ** (i / 50) for i in range(51)]
        axes.plot(range_, [law(x) for x in range_], color=GREY, linewidth=1, linestyle="--")
    axes.plot(flops, [y for _, y, _ in points], "o-", color=LINE, linewidth=1.5)
    for x, y, name in points:
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 6), color=GREY)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("training FLOPs", color=GREY)
    axes.set_ylabel("bits per byte", color=LINE)
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
