"""Finds the installed plugins, leaves out those that are excluded by name, and refuses those that cannot be used."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import final

import pluggy

from prefopt import hookspecs
from prefopt.hookspecs import HOOKS, INTERFACE, PROJECT, SCORERS, TASKS
from prefopt.validation import did_you_mean

__all__ = ["WITHOUT", "PluginError", "exclude", "excluded", "plugin_manager", "plugins", "to_do_without"]

WITHOUT = "PREFOPT_WITHOUT_PLUGINS"
"""The environment variable that names the plugins to leave out, with commas between them."""

logger = logging.getLogger(__name__)


@final
class PluginError(RuntimeError):
    """A plugin that cannot be used: it names the plugin, what is wrong and how to mend it."""


def plugins() -> Mapping[str, importlib.metadata.EntryPoint]:
    """The installed plugins by name, `distribution:entry-point`, excluded or not. Nothing is imported."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for distribution in importlib.metadata.distributions():
        for entry_point in distribution.entry_points.select(group=PROJECT):
            # setdefault: the same distribution may be seen again further down sys.path.
            found.setdefault(f"{distribution.name}:{entry_point.name}", entry_point)
    return found


def exclude(names: Iterable[str]) -> None:
    """Leave these plugins out too, in this process and those that it starts. Call it before the registry is first used.

    A name is a distribution or `distribution:entry-point`. Raises PluginError where one that is excluded is not
    installed.
    """
    if every := [*_asked(), *names]:
        os.environ[WITHOUT] = ",".join(dict.fromkeys(every))
        excluded(plugins())


def excluded(known: Iterable[str]) -> frozenset[str]:
    """Those of these plugins that the environment excludes. Raises PluginError for a name that is not among them."""
    known = list(known)
    distributions = {name: name.partition(":")[0] for name in known}
    choices = sorted({*known, *distributions.values()})
    for name in _asked():
        if name not in choices:
            raise PluginError(
                f"{WITHOUT} excludes {name!r}, but no such plugin is installed.{did_you_mean(name, choices)} "
                f"Installed: {', '.join(choices) or 'none'}."
            )
    asked = set(_asked())
    return frozenset(name for name, distribution in distributions.items() if {name, distribution} & asked)


def to_do_without(*names: str) -> str:
    """The sentence that says how to exclude one of these plugins; the built-in ones cannot be."""
    return " ".join(
        f"To run without {name}: prefopt --without-plugin {name}, or set {WITHOUT}={name}."
        for name in names
        if name.partition(":")[0] != PROJECT
    )


def plugin_manager(built_ins: Sequence[ModuleType]) -> pluggy.PluginManager:
    """These modules and the plugins, registered. Excluded ones are blocked and not imported. Raises PluginError."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    for module in built_ins:
        manager.register(module, name=f"{PROJECT}:{module.__name__.rpartition('.')[2]}")
    found = plugins()
    for name in sorted(excluded(found)):
        logger.warning("plugin %s is excluded by %s: its components are not there", name, WITHOUT)
        manager.set_blocked(name)
    for name, entry_point in found.items():
        if not manager.is_blocked(name):
            _register(manager, name, entry_point)
    _refuse_misspelt_hooks(manager)
    return manager


def _asked() -> list[str]:
    return [name.strip() for name in os.environ.get(WITHOUT, "").split(",") if name.strip()]


def _register(manager: pluggy.PluginManager, name: str, entry_point: importlib.metadata.EntryPoint) -> None:
    distribution = name.partition(":")[0]
    try:
        module = entry_point.load()
    except Exception as error:
        raise PluginError(
            f"plugin {name} cannot be imported ({type(error).__name__}: {error}). "
            f"Mend {entry_point.value}, or uninstall {distribution}. {to_do_without(name)}"
        ) from error
    _refuse_other_interfaces(name, getattr(module, "PREFOPT_INTERFACE", INTERFACE))
    try:
        manager.register(module, name=name)
    except (ValueError, pluggy.PluginValidationError) as error:
        raise PluginError(f"plugin {name} cannot be registered: {error}. {to_do_without(name)}") from error


def _refuse_other_interfaces(name: str, stated: object) -> None:
    versions = stated if isinstance(stated, tuple | list) else (stated,)
    if not versions or not all(isinstance(version, int) for version in versions):
        raise PluginError(
            f"plugin {name}: PREFOPT_INTERFACE is the versions of the plugin interface that it supports, such as "
            f"{INTERFACE} or ({INTERFACE},); got {stated!r}. {to_do_without(name)}"
        )
    if INTERFACE not in versions:
        distribution = name.partition(":")[0]
        newer = PROJECT if min(versions) > INTERFACE else distribution
        raise PluginError(
            f"plugin {name} ({distribution} {importlib.metadata.version(distribution)}) supports the plugin interface "
            f"in version {', '.join(map(str, versions))}, but that of prefopt {importlib.metadata.version(PROJECT)} is "
            f"{INTERFACE}. Install a {newer} that fits: pip install --upgrade {newer}. {to_do_without(name)}"
        )


def _refuse_misspelt_hooks(manager: pluggy.PluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        plugin = manager.get_name(error.plugin) or ""
        callers = manager.get_hookcallers(error.plugin) or []
        unknown = next(hook.name for hook in callers if not hook.has_spec())
        known = sorted([*HOOKS.values(), TASKS, SCORERS])
        raise PluginError(
            f"plugin {plugin} implements {unknown!r}, which is no hook of prefopt."
            f"{did_you_mean(unknown, known)} Hooks: {', '.join(known)}. "
            f"{to_do_without(plugin)}"
        ) from error
