"""Finds components: the built-in ones and those of installed plugins, through the same hooks."""

from __future__ import annotations

import functools
import importlib.metadata
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar, cast, final, get_args, get_origin

import pluggy
from pydantic import ValidationError

from prefopt import divergences, losses, regularizers, shapings, weightings
from prefopt.component import Component, Named
from prefopt.hookspecs import HOOKS
from prefopt.plugins import WITHOUT, PluginError, plugin_manager, plugins, to_do_without
from prefopt.validation import did_you_mean, explain

__all__ = [
    "ComponentError",
    "Owner",
    "PluginError",
    "available",
    "brought",
    "brought_by",
    "excluded_plugins",
    "installed",
    "owner",
    "readers",
    "recorded",
    "resolve",
    "resolve_named",
]

C = TypeVar("C", bound=Component)
N = TypeVar("N", bound=Named)

_BUILT_INS = (weightings, divergences, shapings, losses, regularizers)

_RECORDED: ContextVar[Mapping[str, str]] = ContextVar("_RECORDED", default=types.MappingProxyType({}))


@final
class ComponentError(ValueError):
    """No component of that name, or one that does not accept its fields."""


@final
@dataclass(frozen=True)
class Owner:
    """Who brings a component: the distribution, its version, and the plugin as `distribution:entry-point`."""

    distribution: str
    version: str
    plugin: str


def available(kind: type[C]) -> Mapping[str, type[C]]:
    """The installed components of a kind, by name."""
    return types.MappingProxyType({name: cast("type[C]", cls) for name, (cls, _) in _components(kind).items()})


def owner(component: type[Component]) -> Owner:
    """Who brings this installed component."""
    for kind in HOOKS:
        if issubclass(component, kind):
            for found, bringer in _components(kind).values():
                if found is component:
                    return bringer
            raise ComponentError(f"{component.__name__} is not installed: no plugin brings it")
    raise ComponentError(f"{component.__name__} is of no kind that prefopt knows")


def installed() -> Iterator[tuple[type[Component], Owner]]:
    """Every installed component with its owner, kind by kind, then by name."""
    for kind in HOOKS:
        for _, entry in sorted(_components(kind).items()):
            yield entry


def excluded_plugins() -> tuple[str, ...]:
    """The installed plugins that are left out, as `distribution:entry-point`, in the order of their names."""
    return tuple(sorted(name for name in plugins() if _manager().is_blocked(name)))


def brought_by(components: Iterable[Component]) -> dict[str, str]:
    """`kind name` -> `distribution version`, for these components and those inside them that a plugin brings."""
    found = {}
    for part in components:
        for component, bringer in installed():
            if component is type(part):
                found[f"{part.kind} {part.name}"] = f"{bringer.distribution} {bringer.version}"
        values = [getattr(part, name) for name in type(part).model_fields]
        inside = [each for value in values for each in (value if isinstance(value, list | tuple) else (value,))]
        found |= brought_by(each for each in inside if isinstance(each, Component))
    return found


@contextmanager
def recorded(components: object) -> Iterator[None]:
    """Within it, errors for components that are not installed say what to install, as `brought_by` wrote it down."""
    if not isinstance(components, Mapping):
        raise ComponentError(f"components: a mapping of `kind name` to `distribution version`, got {components!r}")
    token = _RECORDED.set(components)
    try:
        yield
    finally:
        _RECORDED.reset(token)


def resolve(kind: type[C], value: object) -> C:
    """A component of that kind from its name, from a mapping with `name` and fields, or from a component itself.

    Fields that hold components take the same forms.
    Raises ComponentError with the nearest right name where there is none so called, or where a field does not fit.
    """
    if isinstance(value, kind):
        return value
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise ComponentError(
            f"a {kind.kind} is given by name, by a mapping with 'name' and its fields, or as a {kind.__name__}; "
            f"got {value!r}"
        )
    known = available(kind)
    name = fields["name"]
    if name not in known:
        raise ComponentError(
            f"no {kind.__name__} named {name!r}.{_remedy(kind, name)} Installed: {', '.join(sorted(known))}."
        )
    inner = _inner_slots(known[name])
    filled = {
        key: _filled(*inner[key], part, f"{name}: {key}") if key in inner else part for key, part in fields.items()
    }
    try:
        return known[name].model_validate(filled)
    except ValidationError as error:
        unread = {str(detail["loc"][0]) for detail in error.errors() if detail["type"] == "extra_forbidden"}
        lines = [*explain(error, known[name]), *filter(None, map(readers, sorted(unread)))]
        raise ComponentError(f"{name}: {' '.join(lines)}") from error


def readers(field: str) -> str:
    """The sentence that names the installed components with such a field; empty where there is none."""
    found = [
        f"{kind.kind} {', '.join(names)}"
        for kind in HOOKS
        if (names := sorted(name for name, cls in available(kind).items() if field in cls.model_fields))
    ]
    return f"Components that read {field!r}: {'; '.join(found)}." if found else ""


def _remedy(kind: type[Component], name: str) -> str:
    """What to do about a component that is not installed: include its plugin, install it, or spell the name right."""
    distribution, _, version = str(_RECORDED.get().get(f"{kind.kind} {name}", "")).rpartition(" ")
    excluded = excluded_plugins()
    if distribution in {plugin.partition(":")[0] for plugin in excluded}:
        return f" {distribution} {version} brought it when this was saved; it is excluded by {WITHOUT}."
    if distribution:
        return f" {distribution} {version} brought it when this was saved: pip install {distribution}=={version}."
    without = f" Excluded by {WITHOUT}: {', '.join(excluded)}." if excluded else ""
    return did_you_mean(name, available(kind)) + without


def _inner_slots(component: type[Component]) -> dict[str, tuple[type[Component], bool]]:
    """The fields of a component that hold components themselves: of which kind, and whether several."""
    found = {}
    for name, field in component.model_fields.items():
        parts = [field.annotation, *(part for argument in get_args(field.annotation) for part in _unwrapped(argument))]
        kinds = [part for part in parts if isinstance(part, type) and part in HOOKS]
        if kinds:
            found[name] = (kinds[0], get_origin(field.annotation) in (list, tuple))
    return found


def _unwrapped(annotation: object) -> tuple[object, ...]:
    return (annotation, *get_args(annotation))


def _filled(kind: type[Component], several: bool, value: object, where: str) -> object:
    if several and isinstance(value, list | tuple):
        return [_filled(kind, False, part, f"{where}.{index}") for index, part in enumerate(value)]
    if several or value is None:  # for the field itself to take or to refuse
        return value
    try:
        return resolve(kind, value)
    except ComponentError as error:
        raise ComponentError(f"{where}: {error}") from error


@functools.cache
def _manager() -> pluggy.PluginManager:
    return plugin_manager(_BUILT_INS)


@functools.cache
def _components(kind: type[Component]) -> Mapping[str, tuple[type[Component], Owner]]:
    return brought(_manager(), HOOKS[kind], kind)


def brought(manager: pluggy.PluginManager, hook: str, kind: type[N]) -> Mapping[str, tuple[type[N], Owner]]:
    """What the plugins of a manager bring through a hook, by name, with the owner.

    Raises PluginError where a plugin fails, brings something that is not of that kind, or a name that is taken.
    """
    found: dict[str, tuple[type[N], Owner]] = {}
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        bringer = _owner_of(implementation.plugin_name)
        try:
            classes = list(implementation.function())
        except Exception as error:
            raise PluginError(
                f"plugin {bringer.plugin}: {hook} must return a list of subclasses of {kind.__name__}, "
                f"but it failed ({type(error).__name__}: {error}). {to_do_without(bringer.plugin)}"
            ) from error
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, kind)):
                raise PluginError(
                    f"plugin {bringer.plugin}: {hook} returned {cls!r}, "
                    f"which is not a subclass of {kind.__name__}. {to_do_without(bringer.plugin)}"
                )
            name = _name(cls, bringer.plugin)
            if name in found:
                raise PluginError(
                    f"two components of kind {kind.kind} are named {name!r}: one from plugin "
                    f"{found[name][1].plugin}, one from plugin {bringer.plugin}. Rename one, or uninstall one of the "
                    f"two distributions. "
                    f"{to_do_without(found[name][1].plugin, bringer.plugin)}"
                )
            found[name] = (cls, bringer)
    return types.MappingProxyType(found)


def resolve_named(
    kind: type[N], value: object, available: Callable[[], Mapping[str, type[N]]], error: type[ValueError]
) -> N:
    """One of what is available from its name, from a mapping with `name` and fields, or from one itself."""
    if isinstance(value, kind):
        return value
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise error(
            f"a {kind.kind} is given by name, by a mapping with 'name' and its fields, or as a {kind.__name__}; "
            f"got {value!r}"
        )
    classes, name = available(), fields["name"]
    if name not in classes:
        raise error(
            f"no {kind.__name__} named {name!r}.{did_you_mean(name, classes)} Installed: {', '.join(sorted(classes))}."
        )
    try:
        return classes[name].model_validate(fields)
    except ValidationError as problem:
        raise error(f"{name}: {' '.join(explain(problem, classes[name]))}") from problem


def _owner_of(plugin: str) -> Owner:
    distribution = plugin.partition(":")[0]
    return Owner(distribution, importlib.metadata.version(distribution), plugin)


def _name(component: type[Named], plugin: str) -> str:
    name = component.model_fields["name"].default
    if not isinstance(name, str):
        where = f"{component.__module__}.{component.__name__}"
        raise PluginError(f'{where} has no name; give it `name: Literal["..."] = "..."`. {to_do_without(plugin)}')
    return name
