"""Figures as SVG: what is drawn is where its number is, and both widths have all texts."""

from __future__ import annotations

import re

import pytest

from nanochat.report.figures import MOST_POINTS, Bar, Drawing, Group, Series, amount, bars, curves, nice_ticks, percent


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def placed(svg: str) -> list[tuple[float, float]]:
    (line,) = re.findall(r'<polyline[^>]* points="([^"]*)"', svg)
    return [tuple(map(float, point.split(","))) for point in line.split()]


def forms(drawing: Drawing) -> list[str]:
    return [drawing.wide, drawing.narrow]


def test_a_curve_rises_where_its_numbers_rise_and_stays_inside() -> None:
    for svg in forms(curves([Series("", [(0, 1.0), (10, 3.0), (20, 2.0)])], "step", "loss (nats)")):
        width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
        points = placed(svg)
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert points[1][1] < points[2][1] < points[0][1], "more is higher"
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        assert {"step", "loss (nats)"} <= set(texts(svg))
        assert 'aria-label="loss (nats) over step. loss (nats): 1 to 2"' in svg


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    series = Series("", [(step, 1 / (1 + step)) for step in range(10_000)])
    points = placed(curves([series], "step", "loss").wide)
    assert len(points) <= MOST_POINTS + 1
    assert (points[0][0], points[-1][0]) == (60, 744)


@pytest.mark.parametrize("points", [[], [(5, 1.0)], [(5, 1.0), (5, 1.0)], [(0, 0.0), (1, 0.0)]])
def test_curves_without_a_range_are_drawn(points: list[tuple[float, float]]) -> None:
    assert "nan" not in curves([Series("a", points)], "step", "loss").wide


def test_several_curves_differ_by_more_than_their_colour() -> None:
    svg = curves([Series(name, [(0, 1.0), (1, 2.0)]) for name in "ab"], "step", "loss").wide
    dashes = re.findall(r'<polyline class="curve (s\d)"( stroke-dasharray="[^"]*")?', svg)
    assert len({colour for colour, _ in dashes}) == len({dash for _, dash in dashes}) == 2
    assert {"a", "b"} <= set(texts(svg))


def test_logarithmic_axes_give_equal_factors_equal_lengths() -> None:
    xs = [x for x, _ in placed(curves([Series("", [(1, 1.0), (10, 2.0), (100, 4.0)])], "FLOPs", "loss", log=True).wide)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


@pytest.mark.parametrize("xs", [(1e17, 3e18), (0, 1_234_567), (2, 4, 1e15)])
def test_no_label_of_the_x_axis_is_cut_off(xs: tuple[float, ...]) -> None:
    for log in (False, True):
        for svg in forms(curves([Series("", [(x or 1, 1.0) for x in xs])], "FLOPs", "loss", log=log)):
            width = float(re.findall(r'viewBox="0 0 (\d+) ', svg)[0])
            labels = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="middle">([^<]*)</text>', svg)
            assert labels
            assert all(float(x) + 3.6 * len(text) <= width for x, text in labels)


def test_a_bar_has_its_length_its_text_and_its_interval() -> None:
    groups = [Group("task", [Bar(0.25, "25%", 0, (0.2, 0.3)), Bar(0.5, "50%", 1)], 0.25)]
    for svg in forms(bars(groups, ["this", "<other>"], "a guess")):
        lengths = [
            float(each) for each in re.findall(r'<rect class="bar s\d" x="[^"]*" y="[^"]*" width="([\d.]+)"', svg)
        ]
        assert lengths[-1] == pytest.approx(2 * lengths[-2], rel=0.01)
        assert svg.count('class="whisker"') == 1
        assert svg.count('class="mark"') == 2  # one of them in the legend
        assert {"task", "25%", "50%", "this", "&lt;other&gt;", "a guess"} <= set(texts(svg))


def test_negative_bars_begin_at_zero() -> None:
    svg = bars([Group("core", [Bar(-0.1, "-0.1"), Bar(0.1, "0.1")])]).wide
    (left, _), (right, _) = re.findall(r'<rect class="bar s0" x="([\d.]+)" y="[^"]*" width="([\d.]+)"', svg)
    assert float(left) < float(right)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.8721, 0.8733), (3, 900_000), (-2, 5), (1e17, 3e18)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 6)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 * abs(high) for tick in ticks)


def test_amounts_have_units() -> None:
    assert [amount(each) for each in (0, 0.25, 1500, 25_000, 2.5e6, 3e18)] == [
        "0",
        "0.25",
        "1,500",
        "25 k",
        "2.5 M",
        "3e+18",
    ]
    assert percent(0.125) == "12.5%"
