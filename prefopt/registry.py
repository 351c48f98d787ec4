"""Registries: the built-in classes of a kind and those of installed plugins, by name, through the same hook."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Generic, TypeVar, cast, final, get_args, get_origin

import pluggy
from pydantic import ValidationError

from prefopt import divergences, losses, regularizers, shapings, units, weightings
from prefopt.component import Component, Named
from prefopt.hookspecs import KINDS
from prefopt.origins import origin_in
from prefopt.plugins import TEMPORARY, WITHOUT, PluginError, excluded, plugin_manager, plugins, without_entry_point
from prefopt.validation import did_you_mean, explain

__all__ = [
    "ComponentError",
    "Owner",
    "PluginError",
    "Registry",
    "available",
    "components_with_field",
    "excluded_plugins",
    "installed",
    "owner",
    "provenance",
    "resolve",
    "with_recorded_versions",
]

N = TypeVar("N", bound=Named)
C = TypeVar("C", bound=Component)

_RECORDED: ContextVar[Mapping[str, str]] = ContextVar("_RECORDED", default=MappingProxyType({}))


@final
class ComponentError(ValueError):
    """No component of that name, or one that does not accept its fields."""


@final
@dataclass(frozen=True)
class Owner:
    """Who brings a class: the distribution, its version, and the plugin as `distribution:entry-point`."""

    distribution: str
    version: str
    plugin: str


@final
class Registry(Generic[N]):
    """The installed classes of one kind, by name.

    kind       the abstract class; its `hook` brings the concrete ones
    built_ins  the modules of this package that implement the hook
    error      what `resolve` raises
    """

    def __init__(self, kind: type[N], built_ins: tuple[ModuleType, ...], error: type[ValueError]) -> None:
        self.kind = kind
        self.built_ins = built_ins
        self.error = error

    @property
    def installed(self) -> Mapping[str, tuple[type[N], Owner]]:
        """The classes and their owners, by name. Raises PluginError where a plugin cannot be used."""
        return _collect(plugin_manager(self.built_ins), self.kind)

    def available(self) -> Mapping[str, type[N]]:
        """The classes by name."""
        return MappingProxyType({name: cls for name, (cls, _) in self.installed.items()})

    def resolve(self, value: object) -> N:
        """An instance from its name, from a mapping with `name` and fields, or from an instance itself.

        Fields that hold components take the same forms. Raises the registry's error, with the nearest right name where
        no class has that name, or with the field where one does not fit.
        """
        if isinstance(value, self.kind):
            return value
        fields = {"name": value} if isinstance(value, str) else value
        if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
            raise self.error(
                f"a {self.kind.kind} is given by name, by a mapping with 'name' and its fields, or as a "
                f"{self.kind.__name__}; got {value!r}"
            )
        classes, name = self.available(), fields["name"]
        if name not in classes:
            raise self.error(
                f"no {self.kind.__name__} named {name!r}.{self._remedy(name)} Installed: {', '.join(sorted(classes))}."
            )
        slots = _component_fields(classes[name])
        filled = {
            key: _fill(*slots[key], part, f"{name}: {key}") if key in slots else part for key, part in fields.items()
        }
        try:
            return classes[name].model_validate(filled)
        except ValidationError as error:
            lines = explain(error, classes[name])
            if issubclass(self.kind, Component):
                unread = {str(detail["loc"][0]) for detail in error.errors() if detail["type"] == "extra_forbidden"}
                lines += filter(None, map(components_with_field, sorted(unread)))
            raise self.error(f"{name}: {' '.join(lines)}") from error

    def _remedy(self, name: str) -> str:
        """What to do about a class that is not installed: include its plugin, install it, or correct the name."""
        distribution, _, version = str(_RECORDED.get().get(f"{self.kind.kind} {name}", "")).rpartition(" ")
        left_out = excluded_plugins()
        if distribution in {plugin.partition(":")[0] for plugin in left_out}:
            return f" {distribution} {version} brought it when this was saved; it is excluded by {WITHOUT}."
        if distribution:
            return f" {distribution} {version} brought it when this was saved: pip install {distribution}=={version}."
        exclusions = f" Excluded by {WITHOUT}: {', '.join(left_out)}." if left_out else ""
        return did_you_mean(name, self.available()) + exclusions + without_entry_point()


_BUILT_INS = (weightings, divergences, shapings, units, losses, regularizers)
_COMPONENTS: Mapping[type[Component], Registry[Component]] = MappingProxyType(
    {kind: Registry(kind, _BUILT_INS, ComponentError) for kind in KINDS}
)


def available(kind: type[C]) -> Mapping[str, type[C]]:
    """The installed components of a kind, by name."""
    return cast("Mapping[str, type[C]]", _COMPONENTS[kind].available())


def resolve(kind: type[C], value: object) -> C:
    """A component of that kind: `Registry.resolve`. Raises ComponentError."""
    return cast("C", _COMPONENTS[kind].resolve(value))


def installed() -> Iterator[tuple[type[Component], Owner]]:
    """Every installed component with its owner, kind by kind, then by name."""
    for registry in _COMPONENTS.values():
        for _, entry in sorted(registry.installed.items()):
            yield entry


def owner(component: type[Component]) -> Owner:
    """Who brings this component. Raises ComponentError where no plugin does."""
    owners = dict(installed())
    if component not in owners:
        raise ComponentError(f"{component.__name__} is not installed: no plugin brings it")
    return owners[component]


def excluded_plugins() -> tuple[str, ...]:
    """The installed plugins that are left out, as `distribution:entry-point`, in the order of their names."""
    return tuple(sorted(excluded(plugins())))


def provenance(components: Iterable[Component]) -> dict[str, str]:
    """`kind name` -> `distribution version`, for these components and those inside them that a plugin brings."""
    owners, versions = dict(installed()), {}
    for component in components:
        if bringer := owners.get(type(component)):
            versions[f"{component.kind} {component.name}"] = f"{bringer.distribution} {bringer.version}"
        values = [getattr(component, name) for name in type(component).model_fields]
        parts = [part for value in values for part in (value if isinstance(value, list | tuple) else (value,))]
        versions |= provenance(part for part in parts if isinstance(part, Component))
    return versions


@contextmanager
def with_recorded_versions(versions: object) -> Iterator[None]:
    """Within it, errors for components that are not installed say what to install, as `provenance` recorded it."""
    if not isinstance(versions, Mapping):
        raise ComponentError(f"components: a mapping of `kind name` to `distribution version`, got {versions!r}")
    token = _RECORDED.set(versions)
    try:
        yield
    finally:
        _RECORDED.reset(token)


def components_with_field(field: str) -> str:
    """The sentence that names the installed components with such a field; empty where there is none."""
    kinds = [
        f"{kind.kind} {', '.join(names)}"
        for kind, registry in _COMPONENTS.items()
        if (names := sorted(name for name, cls in registry.available().items() if field in cls.model_fields))
    ]
    return f"Components that read {field!r}: {'; '.join(kinds)}." if kinds else ""


def _component_fields(cls: type[Named]) -> dict[str, tuple[type[Component], bool]]:
    """The fields that hold components themselves: of which kind, and whether several."""
    slots = {}
    for name, field in cls.model_fields.items():
        arguments = get_args(field.annotation)
        parts = [field.annotation, *arguments, *(part for argument in arguments for part in get_args(argument))]
        kinds = [part for part in parts if isinstance(part, type) and part in KINDS]
        if kinds:
            slots[name] = (kinds[0], get_origin(field.annotation) in (list, tuple))
    return slots


def _fill(kind: type[Component], several: bool, value: object, where: str) -> object:
    if several and isinstance(value, list | tuple):
        return [_fill(kind, False, part, f"{where}.{index}") for index, part in enumerate(value)]
    if several or value is None:  # for the field itself to take or to refuse
        return value
    try:
        return resolve(kind, value)
    except ComponentError as error:
        raise ComponentError(f"{where}: {error}") from error


@functools.cache
def _collect(manager: pluggy.PluginManager, kind: type[N]) -> Mapping[str, tuple[type[N], Owner]]:
    """What the plugins of a manager bring through the kind's hook. Raises PluginError where a plugin fails, brings
    something that is not of that kind, or brings a name that is taken.
    """
    classes: dict[str, tuple[type[N], Owner]] = {}
    for implementation in getattr(manager.hook, kind.hook).get_hookimpls():
        plugin = implementation.plugin_name
        try:
            returned = list(implementation.function())
        except Exception as error:
            origin = origin_in(error, (str(implementation.function.__module__),))
            problem = f"{type(error).__name__}: {error}{origin and f'; {origin}'}"
            fault = f"must return a list of subclasses of {kind.__name__}, but it failed ({problem})"
            raise PluginError(f"plugin {plugin}: {kind.hook} {fault}.", plugin) from error
        for cls in returned:
            if not (isinstance(cls, type) and issubclass(cls, kind)):
                fault = f"returned {cls!r}, which is not a subclass of {kind.__name__}"
                raise PluginError(f"plugin {plugin}: {kind.hook} {fault}.", plugin)
            name = cls.model_fields["name"].default
            if not isinstance(name, str):
                remedy = 'give it `name: Literal["..."] = "..."`'
                raise PluginError(f"{cls.__module__}.{cls.__name__} has no name; {remedy}.", plugin)
            if name in classes:
                other = classes[name][1].plugin
                raise PluginError(
                    f"two components of kind {kind.kind} are named {name!r}: one from plugin {other}, one from plugin "
                    f"{plugin}. Rename one, or uninstall one of the two distributions.",
                    *(other, plugin),
                )
            classes[name] = (cls, _owner(plugin))
    return MappingProxyType(classes)


def _owner(plugin: str) -> Owner:
    distribution = plugin.partition(":")[0]
    version = "temporary" if plugin in TEMPORARY else importlib.metadata.version(distribution)
    return Owner(distribution, version, plugin)
