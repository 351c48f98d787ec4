from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prefopt.hookspecs import KINDS
from tests.cli.test_cli import run
from tests.plugins.environments import ROOT, unpacked, wheels

PLUGINS = sorted((ROOT / "plugins").glob("prefopt-*"))
NAMES = [kind.kind.replace(" ", "-") for kind in KINDS]
NEW = {f"prefopt-new-{kind}": ["--kind", kind] for kind in NAMES}
NEW["prefopt-new-learned"] = ["--kind", "token-weighting", "--learned"]


@pytest.fixture(scope="session")
def prefopt_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prefopt itself, built from a copy: building leaves things behind."""
    folder = tmp_path_factory.mktemp("source") / "prefopt"
    shutil.copytree(ROOT / "prefopt", folder / "prefopt", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    return wheels([folder], tmp_path_factory.mktemp("wheel"))["prefopt"]


@pytest.fixture(scope="session")
def prefopt_path(prefopt_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with prefopt as it is installed, whose bytecode is compiled once for all."""
    return unpacked([prefopt_wheel], tmp_path_factory.mktemp("unpacked"))[0]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of plugins in one: ours, and one of every kind that `prefopt new-plugin` writes."""
    folder = tmp_path_factory.mktemp("sources")
    for plugin in PLUGINS:
        shutil.copytree(plugin, folder / plugin.name, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    for name, options in NEW.items():
        run("new-plugin", name, *options, "--out", str(folder))
    return folder


@pytest.fixture(scope="session")
def built(sources: Path, prefopt_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of prefopt and the plugins, by name."""
    return {"prefopt": prefopt_wheel, **wheels(sorted(sources.iterdir()), tmp_path_factory.mktemp("wheels"))}
