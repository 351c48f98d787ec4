"""Dotted overrides laid over a YAML document: `objective.beta=0.5`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

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

    def field_of_text(self, path: _Path) -> str | None:
        """The field for which a text at this path stands, if it may."""
        if (field := next((self.short[short] for short in self.short if _matches(path, short)), None)) is not None:
            return field
        inside_row = len(path) > len(self.rows) and _matches(path[: len(self.rows)], self.rows)
        return "name" if inside_row or (len(path) > 1 and path[0] in self.components) else None

    def kept(self, path: _Path, present: DictConfig, change: DictConfig) -> list[str] | None:
        """The fields that stay where the change names another row or component; None where it does not."""
        if _matches(path, self.rows):
            return (
                [str(key) for key in present if key in self.beside_row] if _names_first_row(present, change) else None
            )
        named = self.field_of_text(path) == "name" and (path not in self.short or path[0] in self.components)
        return [] if named and "name" in change and change["name"] != present.get("name") else None


def _names_first_row(present: DictConfig, change: DictConfig) -> bool:
    return "zoo" in change and "zoo" not in present


def _matches(path: _Path, pattern: _Path) -> bool:
    return len(path) == len(pattern) and all(name in ("*", part) for part, name in zip(path, pattern, strict=True))


def overridden(document: DictConfig, texts: Sequence[str], sections: Sections, error: type[ValueError]) -> DictConfig:
    """The document with the overrides merged into it, of the shortest path first and names before mappings, so that a
    name never replaces fields that are given beside it. Raises `error` for one that cannot be read or does not fit.

    - A text for a section or component stays beside its fields: `objective.loss=hinge objective.loss.margin=2`.
    - A mapping is laid over the one that is there, or replaces it where it names another component.
    - A row of the zoo replaces slots that the document spells out without one.
    """
    for text in texts:
        if "=" not in text or not all(_parts(text)):
            raise error(f"override {text!r}: write it as section.field=value")
    for text in sorted(texts, key=lambda override: (len(_parts(override)), "={" in override)):
        change, path = _as_document(text, sections, error), _parts(text)
        if OmegaConf.missing_keys(change):
            raise error(f"override {text!r}: ??? stands for no value; give one")
        present = OmegaConf.select(document, ".".join(path), throw_on_resolution_failure=False)
        value = OmegaConf.select(change, ".".join(path), throw_on_resolution_failure=False)
        if isinstance(value, DictConfig) and not value and present:
            raise error(
                f"override {text!r}: it changes nothing, as a mapping is laid over the one that is there; take its "
                "fields out of the file"
            )
        _make_room(document, change, sections, ())
        try:
            document = OmegaConf.merge(document, change)
        except (OmegaConfBaseException, TypeError, ValueError) as reason:
            raise error(
                f"override {text!r}: it does not fit what is there ({one_line(reason)}); a list is given whole, a "
                "mapping by its fields"
            ) from reason
    return document


def _parts(text: str) -> _Path:
    return tuple(part.rstrip("]") for part in re.split(r"[.\[]", text.partition("=")[0]))


def _as_document(text: str, sections: Sections, error: type[ValueError]) -> DictConfig:
    path, _, value = text.partition("=")
    try:
        change = OmegaConf.from_dotlist([text])
        field = next((sections.short[short] for short in sections.short if _matches(_parts(text), short)), None)
        whole = OmegaConf.select(change, ".".join(_parts(text)), throw_on_resolution_failure=False)
        if field is None or isinstance(whole, DictConfig):
            return change
        return OmegaConf.from_dotlist([f"{path}.{field}={value}"])
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, ValueError) as reason:
        raise error(f"override {text!r}: its value is no YAML ({one_line(reason)}); mend or quote it") from reason


def _make_room(document: DictConfig, change: DictConfig, sections: Sections, path: _Path) -> None:
    """Write texts of the document as the mappings for which they stand, where the change has fields for them, and leave
    out what belongs to another row or component than the change names."""
    for key, part in change.items_ex(resolve=False):
        at = (*path, str(key))
        if not isinstance(part, DictConfig) or key not in document or OmegaConf.is_interpolation(document, str(key)):
            continue
        present = document[key]
        if isinstance(present, str) and (field := sections.field_of_text(at)) is not None:
            document[key] = {field: present}
        elif isinstance(present, DictConfig) and (kept := sections.kept(at, present, part)) is not None:
            document[key] = {name: present[name] for name in kept}
        if isinstance(inner := document[key], DictConfig):
            _make_room(inner, part, sections, at)
