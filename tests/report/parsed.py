"""The tables and charts of a report's page, parsed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any


@dataclass
class Table:
    """Headings, and the cells of each row: data-value, or else the text; with the row's attributes."""

    attributes: dict[str, Any]
    head: list[str] = field(default_factory=list)
    rows: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)


@dataclass
class Chart:
    """Attributes of the figure, of its lines and of its marks; ticks: (coordinate, label) of x and y."""

    attributes: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)


class Page(HTMLParser):
    """tables, charts: in their order; data: the text of scripts of JSON by id; ids of sections."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.charts: list[Chart] = []
        self.data: dict[str, str] = {}
        self.sections: list[str] = []
        self._text: list[str] = []
        self._grid = 0.0
        self._open: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        attributes = dict(attrs)
        self._open.append((tag, attributes))
        self._text = []
        if tag == "section":
            self.sections.append(attributes["id"])
        elif tag == "table" and "data-table" in attributes:
            self.tables.append(Table(attributes))
        elif tag == "table":
            self.tables.append(Table({"data-table": ""}))
        elif tag == "tr":
            self.tables[-1].rows.append((attributes, []))
        elif tag == "figure":
            self.charts.append(Chart(attributes))
        elif tag == "line" and attributes["class"] == "grid":
            self._grid = float(attributes["y1"])
        elif tag in ("polyline", "circle"):
            {"polyline": self.charts[-1].lines, "circle": self.charts[-1].marks}[tag].append(attributes)

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1][0] != tag:
            self._open.pop()
        attributes = self._open.pop()[1] if self._open else {}
        text = "".join(self._text).strip()
        if tag == "td":
            self.tables[-1].rows[-1][1].append(attributes.get("data-value", text))
        elif tag == "button" and self.tables:
            self.tables[-1].head.append(text)
        elif tag == "text" and "text-anchor" in attributes:
            if attributes["text-anchor"] == "middle":
                self.charts[-1].x_ticks.append((float(attributes["x"]), text))
            else:
                self.charts[-1].y_ticks.append((self._grid, text))
        elif tag == "script" and attributes.get("type") == "application/json":
            self.data[attributes["id"]] = text

    def tables_of(self, kind: str) -> list[Table]:
        return [table for table in self.tables if table.attributes["data-table"] == kind]
