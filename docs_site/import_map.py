"""The map of imports: the rooms of prefopt, read off the code, and drawn."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

import prefopt

PACKAGE = Path(prefopt.__file__).parent
_WIDTH, _BOX, _HEIGHT, _GAP = 920, 104, 44, 58


@dataclass
class Room:
    """A top-level module or subpackage of prefopt: its purpose, its lines of Python and the rooms it imports."""

    purpose: str = ""
    lines: int = 0
    imports: set[str] = field(default_factory=set)


def rooms(package: Path = PACKAGE) -> dict[str, Room]:
    """Every room of the package by name, function-local imports counted; without the facade `prefopt/__init__.py`."""
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    plan = {name: Room() for name in sorted(names - {"__init__", "__main__"})}
    for name, room in plan.items():
        folder = package / name
        files = sorted(folder.rglob("*.py")) if folder.is_dir() else [package / f"{name}.py"]
        for file in files:
            source = file.read_text(encoding="utf-8")
            tree = ast.parse(source)
            room.lines += len(source.splitlines())
            room.imports |= set(_imported(ast.walk(tree))) & plan.keys() - {name}
            if file == files[0]:
                room.purpose = (ast.get_docstring(tree) or "").split(". ")[0].split("\n\n")[0].replace("\n", " ")
    return plan


def _imported(nodes: Iterable[ast.AST]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in dotted if name.startswith("prefopt."))


def levels(plan: Mapping[str, Room]) -> list[list[str]]:
    """The rooms bottom up: each level imports from lower ones alone."""
    height: dict[str, int] = {}
    for name in TopologicalSorter({name: room.imports for name, room in plan.items()}).static_order():
        height[name] = 1 + max((height[lower] for lower in plan[name].imports), default=-1)
    return [[name for name in plan if height[name] == level] for level in range(1 + max(height.values()))]


def direct(plan: Mapping[str, Room]) -> set[tuple[str, str]]:
    """The imports without those that others imply (the transitive reduction)."""
    reach: dict[str, set[str]] = {}
    for level in levels(plan):
        for name in level:
            reach[name] = plan[name].imports.union(*(reach[lower] for lower in plan[name].imports))
    return {
        (name, lower)
        for name, room in plan.items()
        for lower in room.imports
        if not any(lower in reach[other] for other in room.imports - {lower})
    }


def picture(plan: Mapping[str, Room]) -> str:
    """The map as SVG: a box a room, the upper ones import the lower ones."""
    rows = levels(plan)[::-1]
    centre = {
        name: (_WIDTH * (2 * column + 1) / (2 * len(row)), 6 + number * (_HEIGHT + _GAP))
        for number, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    lines = []
    for upper, lower in sorted(direct(plan)):
        (x, top), (z, bottom) = centre[upper], centre[lower]
        start, end = top + _HEIGHT, bottom - 4
        bend = (end - start) / 2
        lines.append(
            f'<path d="M{x:.0f} {start:.0f}C{x:.0f} {start + bend:.0f} {z:.0f} {end - bend:.0f} {z:.0f} {end:.0f}" '
            'fill="none" stroke="currentColor" stroke-opacity=".35" marker-end="url(#tip)"/>'
        )
    for name, (x, y) in centre.items():
        room = plan[name]
        lines.append(
            f"<g><title>{escape(room.purpose)}</title>"
            f'<rect x="{x - _BOX / 2:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="6" '
            'fill="var(--md-code-bg-color, #eee)" stroke="currentColor" stroke-opacity=".5"/>'
            '<text text-anchor="middle" fill="currentColor">'
            f'<tspan x="{x:.0f}" y="{y + 19:.0f}" font-weight="bold">{name}</tspan>'
            f'<tspan x="{x:.0f}" y="{y + 35:.0f}" font-size="11">{room.lines:,} lines</tspan></text></g>'
        )
    height = 12 + len(rows) * (_HEIGHT + _GAP) - _GAP
    return "\n".join(
        [
            '<div style="overflow-x:auto">'
            f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" style="width:100%;min-width:44rem" font-size="13" '
            'aria-label="The rooms of prefopt: arrows lead from a room to those it imports">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="currentColor" fill-opacity=".5"/></marker></defs>',
            *lines,
            "</svg></div>",
        ]
    )
