"""Our packages of tasks as if they were installed: a folder on sys.path, beside the entry point that its wheel has."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefopt.plugins import reload_plugins

__all__ = ["code_plugin", "lexicon_plugin", "tis_plugin", "words_plugin"]

ROOT = Path(__file__).parents[1]


def as_installed(folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The project in the folder, until the generator goes on."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = project["name"].replace("-", "_")
    info = site / f"{package}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entry_points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["prefopt"].items())
    (info / "entry_points.txt").write_text(f"[prefopt]\n{entry_points}")
    for path in (site, folder):
        monkeypatch.syspath_prepend(path)
    reload_plugins()
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[module]
    reload_plugins()


@pytest.fixture
def code_plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from as_installed(ROOT / "plugins" / "prefopt-code", tmp_path_factory.mktemp("site"), monkeypatch)


@pytest.fixture
def tis_plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from as_installed(ROOT / "plugins" / "prefopt-tis", tmp_path_factory.mktemp("site"), monkeypatch)


@pytest.fixture
def lexicon_plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from as_installed(ROOT / "plugins" / "prefopt-lexicon", tmp_path_factory.mktemp("site"), monkeypatch)


@pytest.fixture
def words_plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from as_installed(ROOT / "benchmarks" / "words", tmp_path_factory.mktemp("site"), monkeypatch)
