"""Pages are filled from templates that share a style; charts are geometry."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError

from prefopt.pages import render
from prefopt.pages.charts import line_chart


def test_a_page_needs_nothing_but_itself_and_asks_browsers_to_see_to_it() -> None:
    page = render("prefopt.pages", "base.html.jinja")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'inspection' is undefined"):
        render("prefopt.inspection", "page.html.jinja", view={})


def test_a_chart_spans_its_plot() -> None:
    chart = line_chart("loss", {"a": [(1, 0.7), (10, 0.2)], "b": [(1, float("nan")), (10, -0.1)]}, takes_in=(0.0, 1.0))
    first, second = chart.lines
    (_, _), (x, _) = [tuple(map(float, point.split(","))) for point in first.points.split()]
    assert x == chart.right
    assert first.last == "0.2"
    assert len(second.points.split()) == 1
    labels = [float(tick.label) for tick in chart.y_ticks]
    assert labels[0] <= -0.1
    assert labels[-1] == 1.0
    assert all(chart.top <= tick.at <= chart.bottom for tick in chart.y_ticks)
