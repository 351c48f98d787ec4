"""Dotted overrides laid over a YAML document: `objective.beta=0.5`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prefopt.validation import one_line

_Path = tuple[str, ...]


@final
@dataclass(frozen=True)
class Sections:
    """What the sections of a document are, by path, in which `*` is any name.

    short       sections for which a text may stand -> the field that it is, as `model: gpt2` is {name: gpt2}
    rows        those that are an objective: a row of the zoo, `zoo`, under slots with components; or slots alone
    beside_row  their fields that are no part of the objective
    components  further ones with components inside
    """

    short: Mapping[_Path, str]
    rows: _Path
    beside_row: frozenset[str] = frozenset()
    components: frozenset[str] = frozenset()

    def short_field(self, path: _Path) -> str | None:
        """The field for which a text at this path stands, if it is a section that may be one."""
        return next((field for short, field in self.short.items() if _matches(path, short)), None)

    def field_of_text(self, path: _Path) -> str | None:
        """The same; `name` of a component."""
        inside_row = len(path) > len(self.rows) and _matches(path[: len(self.rows)], self.rows)
        inside = inside_row or (len(path) > 1 and path[0] in self.components)
        return self.short_field(path) or ("name" if inside else None)

    def kept(self, path: _Path, present: DictConfig, change: DictConfig) -> list[str] | None:
        """The fields that stay where the change names another row or component; None where it does not."""
        if _matches(path, self.rows):
            replaced = "zoo" in change and "zoo" not in present
            return [str(key) for key in present if key in self.beside_row] if replaced else None
        named = self.field_of_text(path) == "name" and (path not in self.short or path[0] in self.components)
        return [] if named and "name" in change and change["name"] != present.get("name") else None


def _matches(path: _Path, pattern: _Path) -> bool:
    return len(path) == len(pattern) and all(name in ("*", part) for part, name in zip(path, pattern, strict=True))


def overridden(document: DictConfig, texts: Sequence[str], sections: Sections, error: type[ValueError]) -> DictConfig:
    """The document with the overrides laid over it. Raises `error` for one that cannot be read or does not fit.

    - A text and fields of one section or component are its name and its fields, in any order:
      `objective.loss=hinge objective.loss.margin=2`.
    - A mapping is laid over the one that is there, or replaces it where it names another component.
    - A row of the zoo replaces slots that the document spells out without one.
    """
    changes = OmegaConf.create({})
    for text in texts:
        if "=" not in text or not all(_parts(text)):
            raise error(f"override {text!r}: write it as section.field=value")
        change, path = _as_document(text, sections, error), ".".join(_parts(text))
        if OmegaConf.missing_keys(change):
            raise error(f"override {text!r}: ??? stands for no value; give one")
        present, value = (
            OmegaConf.select(fields, path, throw_on_resolution_failure=False) for fields in (document, change)
        )
        if isinstance(value, DictConfig) and not value and present:
            raise error(
                f"override {text!r}: it changes nothing, as a mapping is laid over the one that is there; take its "
                "fields out of the file"
            )
        try:
            OmegaConf.merge(_with_room(document, change, sections), change)
            _name_texts(changes, change, sections, ())
            _name_texts(change, changes, sections, ())
            changes = OmegaConf.merge(changes, change)
        except (OmegaConfBaseException, TypeError, ValueError) as reason:
            raise error(
                f"override {text!r}: it does not fit what is there ({one_line(reason)}); a list is given whole, a "
                "mapping by its fields"
            ) from reason
    return OmegaConf.merge(_with_room(document, changes, sections), changes)


def _parts(text: str) -> _Path:
    return tuple(part.rstrip("]") for part in re.split(r"[.\[]", text.partition("=")[0]))


def _as_document(text: str, sections: Sections, error: type[ValueError]) -> DictConfig:
    path, _, value = text.partition("=")
    try:
        change, field = OmegaConf.from_dotlist([text]), sections.short_field(_parts(text))
        whole = OmegaConf.select(change, ".".join(_parts(text)), throw_on_resolution_failure=False)
        if field is None or isinstance(whole, DictConfig):
            return change
        return OmegaConf.from_dotlist([f"{path}.{field}={value}"])
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError) as reason:
        raise error(f"override {text!r}: its value is no YAML ({one_line(reason)}); mend or quote it") from reason


def _name_texts(fields: DictConfig, others: DictConfig, sections: Sections, path: _Path) -> None:
    """Write texts, and references to texts, as the mappings for which they stand, where the others have fields."""
    values: Any = OmegaConf.to_container(fields)
    for key, part in others.items_ex(resolve=False):
        at, value = (*path, str(key)), values.get(key)
        if not isinstance(part, DictConfig):
            continue
        if isinstance(value, dict):
            _name_texts(fields[key], part, sections, at)
            continue
        referred = OmegaConf.select(fields, str(key), throw_on_resolution_failure=False)
        field = sections.field_of_text(at)
        if isinstance(value, str) and field is not None and not isinstance(referred, DictConfig):
            fields[key] = {field: value}


def _with_room(document: DictConfig, changes: DictConfig, sections: Sections) -> DictConfig:
    """The document with texts as mappings where the changes have fields for them, without what belongs to other rows
    or components than the changes name."""
    room = document.copy()
    _name_texts(room, changes, sections, ())
    _leave_out(room, changes, sections, ())
    return room


def _leave_out(document: DictConfig, changes: DictConfig, sections: Sections, path: _Path) -> None:
    for key, change in changes.items_ex(resolve=False):
        at = (*path, str(key))
        if not isinstance(change, DictConfig) or OmegaConf.is_interpolation(document, str(key)):
            continue
        if isinstance(present := OmegaConf.select(document, str(key)), DictConfig):
            if (kept := sections.kept(at, present, change)) is not None:
                for name in [name for name in present if name not in kept]:
                    del present[name]
            _leave_out(present, change, sections, at)
