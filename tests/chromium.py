"""A browser without a window, where there is one on the path."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> str:
    path = next((path for name in NAMES if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser to open the page in: none of {', '.join(NAMES)} is on the path")
    return path


def opened(
    browser: str, page: Path | str, *, dark: bool = False, query: str = "", milliseconds: int = 2000
) -> tuple[str, list[str]]:
    """The document of a file or address once its scripts have run so long, and the lines of the console."""
    address = page if isinstance(page, str) else page.as_uri()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--window-size=1280,1000", "--enable-logging=stderr"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom"]
    flags.append(f"--virtual-time-budget={milliseconds}")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *flags, f"--user-data-dir={profile}", f"{address}{query}"]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
