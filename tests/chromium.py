"""A browser without a window, where there is one on the path."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> str:
    path = next((path for name in NAMES if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser to open the page in: none of {', '.join(NAMES)} is on the path")
    return path


def opened(browser: str, page: Path, *, dark: bool = False, query: str = "") -> tuple[str, list[str]]:
    """The document once its scripts have run, and the lines of the console."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1280,1000", "--enable-logging=stderr"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=2000", "--dump-dom"]
    command = [browser, *flags, f"{page.as_uri()}{query}"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
