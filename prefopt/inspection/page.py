"""The page: one HTML file that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path

from prefopt.inspection.results import Inspection
from prefopt.pages import render
from prefopt.pages.token_view import token_view, visible

__all__ = ["write_page"]


def write_page(inspection: Inspection, path: Path, *, minimum: int) -> None:
    """Write the page; tokens are ranked that occur at least `minimum` times."""
    page = render(
        "prefopt.inspection",
        "page.html.jinja",
        inspection=inspection,
        view=token_view(inspection.distinct, inspection.shown),
        minimum=minimum,
        visible=visible,
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
