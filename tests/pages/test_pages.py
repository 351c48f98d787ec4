"""Pages are filled from templates that share a style."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError

from prefopt.pages import render


def test_a_page_needs_nothing_but_itself_and_asks_browsers_to_see_to_it() -> None:
    page = render("prefopt.pages", "base.html.jinja")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'inspection' is undefined"):
        render("prefopt.inspection", "page.html.jinja", pairs=[])
