"""Plugins for the length of a test, without a package to install."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from prefopt.component import Named
from prefopt.hookspecs import hookimpl
from prefopt.plugins import TEMPORARY, reload_plugins


@contextmanager
def temporary_plugin(
    *contents: type[Named] | ModuleType | Callable[[], Any], name: str = "temporary"
) -> Iterator[None]:
    """Within it a plugin is installed that brings these contents, each of which is one of

    - a class: a component, a task or a scorer
    - a module that implements hooks, as an entry point names it
    - a function that implements a hook

        with temporary_plugin(DecayWeighting):
            ObjectiveConfig(weighting="decay")

    Raises TypeError for anything else, and PluginError, once a registry is used, where the plugin cannot be used.
    """
    modules: list[object] = []
    hooks: dict[str, Any] = {}
    classes: dict[str, list[type[Named]]] = {}
    for content in contents:
        if isinstance(content, ModuleType):
            modules.append(content)
        elif isinstance(content, type) and issubclass(content, Named):
            classes.setdefault(content.hook, []).append(content)
        elif inspect.isroutine(content):
            hooks[content.__name__] = content
        else:
            raise TypeError(f"a plugin is made of components, modules and hook functions, got {content!r}")
    hooks |= {hook: _returning(brought) for hook, brought in classes.items()}
    numbered = enumerate([*modules, SimpleNamespace(**hooks)], len(TEMPORARY))
    plugins = {f"{name}:{number}": plugin for number, plugin in numbered}
    TEMPORARY.update(plugins)
    reload_plugins()
    try:
        yield
    finally:
        for plugin in plugins:
            del TEMPORARY[plugin]
        reload_plugins()


def _returning(classes: list[type[Named]]) -> Callable[[], list[type[Named]]]:
    @hookimpl
    def hook() -> list[type[Named]]:
        return classes

    return hook
