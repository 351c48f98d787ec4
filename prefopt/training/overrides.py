"""Dotted overrides laid over a YAML document: `objective.beta=0.5`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
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
    - A field of what is a text or a number, which it would replace, does not fit.
    """
    changes = OmegaConf.create({})
    for index, text in enumerate(texts):
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
            before = OmegaConf.merge(_with_room(document, OmegaConf.merge(changes, change), sections), changes)
            changes = OmegaConf.merge(changes, change)
        except (OmegaConfBaseException, TypeError, ValueError) as reason:
            raise error(
                f"override {text!r}: it does not fit what is there ({one_line(reason)}); a list is given whole, a "
                "mapping by its fields"
            ) from reason
        if lost := _lost_value(before, _parts(text)):
            where, whole = ".".join(lost[0]), _nested(_parts(text)[len(lost[0]) :], text.partition("=")[2])
            raise error(
                f"override {text!r}: {where} is {lost[1]!r}, which it would replace; to do so, give {where} "
                f"whole: '{where}={whole}'"
            )
        if not isinstance(OmegaConf.select(change, path, throw_on_resolution_failure=False), DictConfig):
            for earlier in texts[:index]:
                if len(parts := _parts(earlier)) > len(_parts(text)) and parts[: len(_parts(text))] == _parts(text):
                    raise error(f"override {text!r}: it would replace what {earlier!r} gives; leave out one of the two")
    return OmegaConf.merge(_with_room(document, changes, sections), changes)


def with_origin(lines: Iterable[str], document: DictConfig, merged: DictConfig, sections: Sections) -> list[str]:
    """The lines on what is wrong with the merged document. Where an override names another row than the document does,
    those on fields that the document gave the old one say so."""
    before, after = _written(document), _written(merged)
    origins = {line: " ".join(_origins(line, before, after, sections, ())) for line in lines}
    return [f"{line.rstrip('.')}. {origin}" if origin else line for line, origin in origins.items()]


def _origins(line: str, before: Any, after: Any, sections: Sections, path: _Path) -> Iterator[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return
    if len(path) < len(sections.rows):
        for key, value in before.items():
            yield from _origins(line, value, after.get(key), sections, (*path, str(key)))
        return
    row, other, where = before.get("zoo"), after.get("zoo"), ".".join(path)
    if not _matches(path, sections.rows) or row in (None, other) or not line.startswith((f"{where}: ", f"{where} at ")):
        return
    for key, value in before.items():
        is_kept = key not in ("zoo", *sections.beside_row) and (value == after.get(key) or isinstance(value, dict))
        if is_kept and re.search(rf"\b{re.escape(str(key))}\b", line):
            yield f"The file gives {key} beside `zoo: {row}`, and it stays beside {other}: override it, or take it out."


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


def _lost_value(fields: DictConfig, path: _Path) -> tuple[_Path, object] | None:
    """The beginning of the path at which the fields have a text or a number, below which no field has a place, and that
    value as it is written."""
    for depth, part in enumerate(path[:-1], 1):
        if part not in fields.keys():  # noqa: SIM118  `in` itself leaves out what cannot be resolved
            return None
        value = OmegaConf.select(fields, part, throw_on_resolution_failure=False)
        if isinstance(value, DictConfig):
            fields = value
            continue
        is_free = value is None and not OmegaConf.is_interpolation(fields, part)
        return None if is_free or isinstance(value, ListConfig) else (path[:depth], _written(fields)[part])
    return None


def _written(fields: DictConfig) -> Any:
    return OmegaConf.to_container(fields)


def _nested(path: _Path, value: str) -> str:
    if not path:
        return value
    inner = _nested(path[1:], value)
    return f"[{inner}]" if path[0].isdigit() else f"{{{path[0]}: {inner}}}"


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
