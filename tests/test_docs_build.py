"""The documentation as built, warnings being errors: what its search finds, and that nothing comes from elsewhere."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

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


_WIDTHS = (1200, 390)

_EVERY_PAGE = """<!doctype html><title>every page</title><link rel="icon" href="data:,"><pre id="wide"></pre><script>
const pages = PAGES, widths = WIDTHS, wide = [];
(async () => {
  for (const page of pages) for (const width of widths) {
    const frame = document.createElement("iframe");
    frame.style = `width: ${width}px; height: 900px; border: 0`;
    frame.src = page;
    const loaded = new Promise((resolve) => { frame.onload = resolve; });
    document.body.append(frame);
    await loaded;
    await new Promise((resolve) => setTimeout(resolve, 200));
    const { scrollWidth } = frame.contentDocument.scrollingElement;
    if (scrollWidth > width) wide.push(`${page} is ${scrollWidth} wide at ${width}`);
    frame.remove();
  }
  document.getElementById("wide").textContent = JSON.stringify({ pages: pages.length, wide });
})();
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site, served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_page_fits_desktop_and_phone_without_a_line_on_the_console(
    browser: str, site: Path, address: str
) -> None:
    pages = sorted(str(page.relative_to(site)) for page in site.rglob("*.html"))
    text = _EVERY_PAGE.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(_WIDTHS))
    (site / "every-page.html").write_text(text, encoding="utf-8")
    try:
        document, console = opened(browser, f"{address}/every-page.html", milliseconds=600_000)
    finally:
        (site / "every-page.html").unlink()
    assert console == []
    result = re.search(r'<pre id="wide">(.+?)</pre>', document)
    assert result is not None, "the pages were not gone through"
    assert json.loads(html.unescape(result[1])) == {"pages": len(pages), "wide": []}


@pytest.mark.parametrize("page", ["index.html", "api/prefopt.html"])
def test_search_works_where_a_page_is_opened_as_a_file(browser: str, site: Path, page: str) -> None:
    document, console = opened(browser, site / page, query="?q=all_zero")
    assert console == []
    results = re.findall(r'<a href="([^"]+)" class="md-search-result__link"', document)
    assert any("metrics.html" in result for result in results), results
