"""The documentation as built, warnings being errors: what its search finds, and that nothing comes from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefopt import zoo
from tests.chromium import browser, opened

__all__ = ["browser"]  # a fixture

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[1]


class Loaded(HTMLParser):
    """What a page loads: scripts, styles, pictures and frames."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        if tag in {"script", "img", "iframe"} or (tag == "link" and fields.get("rel") in {"stylesheet", "icon"}):
            self.addresses += [address for key in ("src", "href") if (address := fields.get(key))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    commands = pytest.importorskip("mkdocs.commands.build", reason="the site needs mkdocs: pip install '.[docs]'")
    pytest.importorskip("material", reason="the site needs mkdocs-material: pip install '.[docs]'")
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    commands.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_search_finds_names_of_code_whole(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    separator = re.compile(index["config"]["separator"])
    pages: dict[str, set[str]] = {}
    for section in index["docs"]:
        text = re.sub(r"<[^>]+>", " ", f"{section['title']} {section['text']}")
        for word in separator.split(text.lower()):
            pages.setdefault(word, set()).add(section["location"].partition("#")[0])
    expected = {
        "all_zero": "metrics.html",
        "mask_learning_rate": "masks.html",
        "tokenbatch": "api/prefopt.html",
        "hard_concrete": "masks.html",
        "prefopt_token_weightings": "api/prefopt.html",
        "precompute_ref_log_probs": "trl.html",
        **dict.fromkeys(zoo.ZOO, "zoo.html"),
    }
    assert [word for word, page in expected.items() if page not in pages.get(word, set())] == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    away = {
        address for page in pages for address in Loaded(page.read_text(encoding="utf-8")).addresses if "//" in address
    }
    assert away == set()
    for folder in ("scripts", "styles"):
        assert not [file for file in (site / folder).iterdir() if "http" in file.read_text(encoding="utf-8")]


def test_the_landing_page_shows_the_heat_map_and_the_equation(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    assert text.count('class="token') > 40
    assert text.count('role="math"') == 3
    assert "<math>" in (site / "zoo.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["index.html", "api/prefopt.html"])
def test_search_works_where_a_page_is_opened_as_a_file(browser: str, site: Path, page: str) -> None:
    document, console = opened(browser, site / page, query="?q=all_zero")
    assert console == []
    results = re.findall(r'<a href="([^"]+)" class="md-search-result__link"', document)
    assert any("metrics.html" in result for result in results), results
