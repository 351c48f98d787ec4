"""The line of a plugin's or a component's code that an error comes from."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator
from importlib.metadata import entry_points
from pathlib import Path

__all__ = ["origin_in", "origin_in_plugins"]


def origin_in(error: BaseException, packages: Collection[str]) -> str:
    """`FILE:LINE, in FUNCTION`: the innermost line of these packages that the error, or what caused it, passed; empty
    where it passed none."""
    for cause in _causes(error):
        for frame, line in reversed(list(traceback.walk_tb(cause.__traceback__))):
            module = str(frame.f_globals.get("__name__"))
            if any(f"{module}.".startswith(f"{package}.") for package in packages):
                return f"{_shown(frame.f_code.co_filename)}:{line}, in {frame.f_code.co_name}"
    return ""


def origin_in_plugins(error: BaseException) -> str:
    """`plugin DISTRIBUTION:ENTRY-POINT, FILE:LINE, in FUNCTION` of the plugin whose code is innermost; empty where the
    error passed none."""
    plugins = {
        point.module.partition(".")[0]: f"{'' if point.dist is None else point.dist.name}:{point.name}"
        for point in entry_points(group="prefopt")
    }
    origin = origin_in(error, plugins)
    names = [name for package, name in plugins.items() if origin and origin == origin_in(error, (package,))]
    return f"plugin {names[0]}, {origin}" if names else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What it was raised from, first of all, then the error itself."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return reversed(chain)


def _shown(file: str) -> str:
    """Relative to the working directory, where it is below."""
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
