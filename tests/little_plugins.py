"""Little distributions as plugins: a package and its dist-info on sys.path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefopt.plugins import reload_plugins

__all__ = ["HALVING", "HOOK", "Install", "install"]

Install = Callable[..., None]

HALVING = """
from typing import Literal
from prefopt import TokenWeighting, hookimpl

class Halving(TokenWeighting):
    name: Literal["{name}"] = "{name}"
    power: int = 1

    def __call__(self, tokens):
        return tokens.mask * tokens.logps.new_tensor(0.5 ** self.power)

@hookimpl
def prefopt_token_weightings():
    return [Halving]
"""

HOOK = """
from prefopt import hookimpl

@hookimpl
def {signature}:
    return {value}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution whose one entry point names a module of that source."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(distribution: str, source: str, *, entry_point: str = "components", module: str | None = None) -> None:
        module = module or distribution.replace("-", "_")
        (tmp_path / module).mkdir(exist_ok=True)
        (tmp_path / module / "__init__.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[prefopt]\n{entry_point} = {module}\n")
        reload_plugins()

    yield write
    for module in set(sys.modules) - before:
        del sys.modules[module]
    reload_plugins()
