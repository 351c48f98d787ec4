"""Finds the installed plugins, leaves out those that are excluded by name, and refuses those that cannot be used."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import os
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import final

import pluggy

from prefopt import hookspecs
from prefopt.hookspecs import INTERFACE, PROJECT
from prefopt.origins import origin_in
from prefopt.plugin_imports import ImportStoppedError, limited_import, time_limit
from prefopt.validation import did_you_mean, one_line

__all__ = [
    "TEMPORARY",
    "WITHOUT",
    "PluginError",
    "diagnose",
    "exclude",
    "excluded",
    "plugin_manager",
    "plugins",
    "reload_plugins",
    "without_entry_point",
]

WITHOUT = "PREFOPT_WITHOUT_PLUGINS"
"""The environment variable that names the plugins to leave out, with commas between them."""

TEMPORARY: dict[str, object] = {}
"""Plugins that are registered without being installed, by name (see `prefopt.testing.temporary_plugin`)."""

_HOOKS = tuple(sorted(name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")))

logger = logging.getLogger(__name__)


@final
class PluginError(RuntimeError):
    """A plugin that cannot be used: what is wrong, how to mend it, and how to run without it."""

    def __init__(self, problem: str, *names: str) -> None:
        hints = [
            f" To run without {name}: prefopt --without-plugin {name}, or set {WITHOUT}={name}."
            for name in names
            if name.partition(":")[0] != PROJECT
        ]
        super().__init__(problem + "".join(hints))


def plugins() -> Mapping[str, importlib.metadata.EntryPoint]:
    """The installed plugins by name, `distribution:entry-point`, excluded or not. Nothing is imported."""
    entry_points: dict[str, importlib.metadata.EntryPoint] = {}
    for distribution in importlib.metadata.distributions():
        for entry_point in distribution.entry_points.select(group=PROJECT):
            # setdefault: the same distribution may be seen again further down sys.path.
            entry_points.setdefault(f"{distribution.name}:{entry_point.name}", entry_point)
    return entry_points


def without_entry_point() -> str:
    """The sentence that names the installed distributions that require prefopt and are no plugins; empty where there
    is none."""
    plain = {
        distribution.name: not distribution.entry_points.select(group=PROJECT)
        for distribution in importlib.metadata.distributions()
        if any(re.match(rf"{PROJECT}(?![\w.-])", requirement) for requirement in distribution.requires or ())
    }
    names = sorted(name for name, has_none in plain.items() if has_none)
    if not names:
        return ""
    verb = "requires" if len(names) == 1 else "require"
    return (
        f" {', '.join(names)} {verb} {PROJECT} and {'names' if len(names) == 1 else 'name'} no module as a plugin: "
        f"[project.entry-points.{PROJECT}] in a pyproject.toml does."
    )


def exclude(names: Iterable[str]) -> None:
    """Leave these plugins out too, in this process and those that it starts. Call it before the registry is first used.

    A name is a distribution or `distribution:entry-point`. Raises PluginError where one that is excluded is not
    installed.
    """
    if every := [*_exclusions(), *names]:
        os.environ[WITHOUT] = ",".join(dict.fromkeys(every))
        excluded(plugins())


def excluded(names: Iterable[str]) -> frozenset[str]:
    """Those of these plugins that the environment excludes. Raises PluginError where it excludes another."""
    distributions = {name: name.partition(":")[0] for name in names}
    choices = sorted({*distributions, *distributions.values()})
    exclusions = _exclusions()
    for name in exclusions:
        if name not in choices:
            raise PluginError(
                f"{WITHOUT} excludes {name!r}, but no such plugin is installed.{did_you_mean(name, choices)} "
                f"Installed: {', '.join(choices) or 'none'}."
            )
    return frozenset(name for name, distribution in distributions.items() if {name, distribution} & set(exclusions))


@functools.cache
def plugin_manager(built_ins: tuple[ModuleType, ...]) -> pluggy.PluginManager:
    """These modules and the plugins, registered. Excluded ones are blocked and not imported. Raises PluginError."""
    manager = _empty_manager()
    for module in built_ins:
        manager.register(module, name=f"{PROJECT}:{module.__name__.rpartition('.')[2]}")
    entry_points = plugins()
    for name in sorted(excluded(entry_points)):
        logger.warning("plugin %s is excluded by %s: its components are not there", name, WITHOUT)
        manager.set_blocked(name)
    for name, entry_point in entry_points.items():
        if not manager.is_blocked(name):
            _register(manager, name, entry_point)
    for name, plugin in TEMPORARY.items():
        manager.register(plugin, name=name)
    _refuse_misspelt_hooks(manager)
    return manager


def diagnose() -> dict[str, str | None]:
    """The installed plugins by name, each tried by itself: why it cannot be used, "" where it can, None where it is
    excluded. Raises PluginError where the environment excludes one that is not installed."""
    entry_points = plugins()
    left_out = excluded(entry_points)
    problems: dict[str, str | None] = {}
    for name, entry_point in sorted(entry_points.items()):
        manager = _empty_manager()
        try:
            if name not in left_out:
                _register(manager, name, entry_point)
                _refuse_misspelt_hooks(manager)
            problems[name] = None if name in left_out else ""
        except PluginError as error:
            problems[name] = str(error)
    return problems


def reload_plugins() -> None:
    """Read the entry points afresh when a registry is next used, such as after an installation in this process."""
    importlib.invalidate_caches()
    plugin_manager.cache_clear()


def _empty_manager() -> pluggy.PluginManager:
    try:
        time_limit()
    except ValueError as error:
        raise PluginError(str(error)) from None
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _exclusions() -> list[str]:
    return [name.strip() for name in os.environ.get(WITHOUT, "").split(",") if name.strip()]


def _register(manager: pluggy.PluginManager, name: str, entry_point: importlib.metadata.EntryPoint) -> None:
    distribution = name.partition(":")[0]
    try:
        with limited_import():
            module = entry_point.load()
    except (Exception, SystemExit, ImportStoppedError) as error:
        problem = one_line(error)
        if not isinstance(error, ImportStoppedError):
            origin = origin_in(error, (entry_point.module.partition(".")[0],))
            problem = f"{type(error).__name__}: {problem}{origin and f'; {origin}'}"
        raise PluginError(
            f"plugin {name} cannot be imported ({problem}). Mend {entry_point.value}, or uninstall {distribution}.",
            name,
        ) from error
    _refuse_other_interfaces(name, getattr(module, "PREFOPT_INTERFACE", INTERFACE))
    try:
        manager.register(module, name=name)
    except (ValueError, pluggy.PluginValidationError) as error:
        raise PluginError(f"plugin {name} cannot be registered: {error}.", name) from error
    _refuse_unmarked_hooks(manager, name, module)


def _refuse_other_interfaces(name: str, stated: object) -> None:
    versions = stated if isinstance(stated, tuple | list) else (stated,)
    if not versions or not all(isinstance(version, int) for version in versions):
        raise PluginError(
            f"plugin {name}: PREFOPT_INTERFACE is the versions of the plugin interface that it supports, such as "
            f"{INTERFACE} or ({INTERFACE},); got {stated!r}.",
            name,
        )
    if INTERFACE not in versions:
        distribution = name.partition(":")[0]
        newer = PROJECT if min(versions) > INTERFACE else distribution
        raise PluginError(
            f"plugin {name} ({distribution} {importlib.metadata.version(distribution)}) supports the plugin interface "
            f"in version {', '.join(map(str, versions))}, but that of prefopt {importlib.metadata.version(PROJECT)} is "
            f"{INTERFACE}. Install a {newer} that fits: pip install --upgrade {newer}.",
            name,
        )


def _refuse_unmarked_hooks(manager: pluggy.PluginManager, name: str, module: object) -> None:
    """Raise PluginError where the plugin has a function of a hook's name without @hookimpl, or no hook at all."""
    marked = {hook.name for hook in manager.get_hookcallers(module) or []}
    unmarked = [hook for hook in _HOOKS if callable(getattr(module, hook, None)) and hook not in marked]
    remedy = "write @hookimpl, from prefopt, over the function"
    if unmarked:
        raise PluginError(f"plugin {name}: {unmarked[0]} is not marked as a hook; {remedy}.", name)
    if not marked:
        raise PluginError(
            f"plugin {name} brings nothing, as it implements no hook; {remedy} that returns its classes. "
            f"Hooks: {', '.join(_HOOKS)}.",
            name,
        )


def _refuse_misspelt_hooks(manager: pluggy.PluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        plugin = manager.get_name(error.plugin) or ""
        callers = manager.get_hookcallers(error.plugin) or []
        unknown = next(hook.name for hook in callers if not hook.has_spec())
        raise PluginError(
            f"plugin {plugin} implements {unknown!r}, which is no hook of prefopt."
            f"{did_you_mean(unknown, _HOOKS)} Hooks: {', '.join(_HOOKS)}.",
            plugin,
        ) from error
