"""What a YAML document takes from the environment: read where it is needed, and written as a reference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from prefopt.validation import one_line

_VARIABLE = re.compile(r"oc\.env:\s*(\w+)")
_NOT_SET = re.compile(r"Environment variable '([^']+)' not found")

_READS_ENVIRONMENT = "oc.env"

Path = tuple[str | int, ...]


class Reference(NamedTuple):
    """A field's text, such as `${oc.env:HF_TOKEN}`, and the value that it had."""

    text: str
    value: Any


References = Mapping[Path, Reference]
"""By the path of the field."""


def variables(references: References) -> list[str]:
    """The names of the environment's variables that a document reads."""
    return sorted({name for reference in references.values() for name in _VARIABLE.findall(reference.text)})


def why_unreadable(error: Exception) -> str:
    """Why a document cannot be read, in a line."""
    if (unset := _NOT_SET.search(str(error))) is None:
        return one_line(error)
    field = getattr(error, "full_key", "") or "it"
    return f"{field} reads the environment variable {unset[1]}, which is not set; set it, or write the value itself"


def environment_references(document: DictConfig) -> References:
    """The fields of a document that hold a value of the environment, also through other fields."""
    texts = dict(_leaves(OmegaConf.to_container(document, resolve=False)))
    values = dict(_leaves(OmegaConf.to_container(document, resolve=True)))
    fields = {path: Reference(text, values.get(path)) for path, text in texts.items() if "${" in str(text)}
    secrets = [str(field.value) for field in fields.values() if _READS_ENVIRONMENT in field.text]
    return {
        path: field
        for path, field in fields.items()
        if _READS_ENVIRONMENT in field.text or any(secret and secret in str(field.value) for secret in secrets)
    }


def with_references(fields: Any, references: References) -> Any:
    """The fields with references in the place of what they stand for, at their paths and wherever the same text is."""
    texts = {field.value: field.text for field in references.values() if isinstance(field.value, str) and field.value}

    def replaced(path: Path, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced((*path, key), inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [replaced((*path, index), inner) for index, inner in enumerate(value)]
        if path in references:
            return references[path].text
        return texts.get(value, value) if isinstance(value, str) else value

    return replaced((), fields)


def without_tokens(arguments: Mapping[str, Any], replacement: str | None = None) -> dict[str, Any]:
    """Training arguments without the tokens of the hub, those for `from_pretrained` included."""
    hidden: dict[str, Any] = {
        name: replacement for name, value in arguments.items() if name.endswith("_token") and value is not None
    }
    options = arguments.get("model_init_kwargs")
    if options and isinstance(options.get("token"), str):
        hidden["model_init_kwargs"] = {**options, "token": replacement}
    return {**arguments, **hidden}


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value
