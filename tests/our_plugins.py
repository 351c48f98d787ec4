"""prefopt-code as if it were installed: its folder on sys.path, beside the entry point that its wheel has."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefopt.tasks import registry
from tests.little_plugins import clear

__all__ = ["code_plugin"]

FOLDER = Path(__file__).parents[1] / "plugins" / "prefopt-code"


@pytest.fixture
def code_plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / "prefopt_code-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entry_points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["prefopt"].items())
    (info / "entry_points.txt").write_text(f"[prefopt]\n{entry_points}")
    for folder in (site, FOLDER):
        monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    clear()
    registry.installed_tasks.cache_clear()
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == "prefopt_code"]:
        del sys.modules[module]
    clear()
    registry.installed_tasks.cache_clear()
