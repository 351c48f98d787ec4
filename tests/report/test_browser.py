"""The report's page in a browser. Where there is no Chromium on the path, these tests are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefopt.report import report
from tests.chromium import browser, opened
from tests.comparison.made import made
from tests.report.parsed import Page

__all__ = ["browser"]  # a fixture

pytestmark = pytest.mark.outside

SCRIPT = Path(__file__).with_name("browser.js")
FRAME = """<!doctype html><meta name="color-scheme" content="light dark">
<script>
addEventListener("message", event => {
  const result = document.createElement("script");
  Object.assign(result, { type: "application/json", id: "found", textContent: event.data });
  document.body.append(result);
});
</script>
<iframe src="page.html" width="WIDTH" height="900" style="border: 0"></iframe>
"""
"""A window has a least width, which is more than a phone's; a frame has not."""
LIGHT, DARK = "rgb(252, 252, 250)", "rgb(21, 23, 27)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("made")
    made(folder, fail="tdpo1")
    return report(folder)[0].read_text(encoding="utf-8")


def worked_through(
    browser: str, page: str, folder: Path, *, width: int, dark: bool
) -> tuple[dict[str, Any], list[str]]:
    """What the script seen in the page, and the lines of the console."""
    script = f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
    (folder / "page.html").write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
    path = folder / "frame.html"
    path.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    document, console = opened(browser, path, dark=dark)
    dump = Page(document)
    assert "found" in dump.data, f"the script did not come to its end: {console}"
    return json.loads(dump.data["found"]), console


@pytest.fixture(scope="module")
def wide(browser: str, page: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    return worked_through(browser, page, tmp_path_factory.mktemp("wide"), width=1100, dark=False)


@pytest.fixture(scope="module")
def phone(browser: str, page: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    return worked_through(browser, page, tmp_path_factory.mktemp("phone"), width=390, dark=True)


def test_the_console_is_silent_and_nothing_is_asked_for(wide: Any, phone: Any) -> None:
    for seen, console in (wide, phone):
        assert len(console) == 1, console
        assert "worked through" in console[0]  # what the script says at its end: the console is heard
        assert seen["requests"] == []


def test_the_plots_are_there(wide: Any) -> None:
    charts = wide[0]["charts"]
    assert {chart["plot"] for chart in charts} == {"frontier", "sparsity", "divergence", "curves"}
    for chart in charts:
        assert chart["shapes"] > 0
        assert chart["inside"], chart
        assert chart["area"] > 10_000


def test_every_heading_sorts_both_ways(wide: Any) -> None:
    seen = wide[0]
    for heading, ((up, rising), (down, falling)) in zip(seen["headings"], seen["sorted"], strict=True):
        assert (up, down) == ("ascending", "descending")
        for values, reverse in ((rising, False), (falling, True)):
            present = [value for value in values if value]
            assert values == [*present, *[""] * (len(values) - len(present))], heading  # what is missing comes last
            try:
                numbers: list[Any] = [float(value) for value in present]
            except ValueError:
                numbers = present
            assert numbers == sorted(numbers, reverse=reverse), heading
    assert seen["others"] == 1


def test_heat_maps_switch(wide: Any) -> None:
    seen = wide[0]
    assert list(seen["heat"]) == ["w", "v", "divergence", "log_ratio"]
    shades = {layer: [token["shade"] for token in shown["tokens"]] for layer, shown in seen["heat"].items()}
    assert all(seen["heat"][layer]["legends"] == [layer] for layer in shades)
    assert len({tuple(values) for values in shades.values()}) == 4
    assert all(len({token["background"] for token in shown["tokens"]}) > 5 for shown in seen["heat"].values())
    for token in seen["heat"]["log_ratio"]["tokens"]:
        negative = "log-ratio \u2212" in token["title"]
        assert ("negative" in token["kind"]) == negative
        assert token["line"] == ("dotted" if negative else "solid")
    for token in seen["heat"]["w"]["tokens"]:
        assert token["title"].startswith(f"{token['text'].strip()}: weight w ")
        assert ("zero" in token["kind"]) == ("weight w 0," in token["title"])
    assert seen["detail"] == seen["heat"]["log_ratio"]["tokens"][0]["title"]
    assert seen["next"] == seen["heat"]["log_ratio"]["tokens"][1]["title"]
    assert seen["marked"][:6] == [True, False, False, False, False, True]
    for token, number in zip(seen["heat"]["log_ratio"]["tokens"], seen["numbers"], strict=True):
        assert f"log-ratio {number.strip(chr(34))} (" in token["title"]
    assert seen["prompt"] == "Tell me a story 2"
    assert [card.partition(" (")[0] for card in seen["cards"]] == [
        f"{name}, beta 0.3"
        for name in ("dpo", "tdpo1", "sparsepo", "sparsepo control", "two masks", "two masks control")
    ]


def test_samples_switch(wide: Any, phone: Any) -> None:
    seen = wide[0]
    assert seen["samples"] == ["Prompt 1: go on </script>"]
    assert seen["every"] == 1 + 6 * 3
    assert len(seen["answers"]) == 1 + 6
    assert all(", beta 1.0" in answer for answer in seen["answers"][1:])
    assert seen["lefts"] > 1
    assert phone[0]["lefts"] == 1  # one below the other


def test_a_phone_is_wide_enough(phone: Any) -> None:
    seen = phone[0]
    assert seen["width"] == 390
    assert seen["folded"] <= 390
    assert seen["opened"] <= 390
    assert max(seen["tables"].values()) <= 0, seen["tables"]  # every column is seen without scrolling


def test_dark_has_its_colours(wide: Any, phone: Any) -> None:
    assert (wide[0]["background"], phone[0]["background"]) == (LIGHT, DARK)
    assert wide[0]["ink"] != phone[0]["ink"]
    assert not set(wide[0]["lines"]) & set(phone[0]["lines"])
