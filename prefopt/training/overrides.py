"""Dotted overrides laid over a document that gives components by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig


def named_components(texts: Sequence[str], depths: Mapping[str, int]) -> list[str]:
    """The overrides, with `PATH.name=NAME` for the `PATH=NAME` that others give fields of, `PATH.FIELD=value`, so that
    the name stays.

    depths  section -> how many parts of a path lead to the mapping of what has components

    >>> named_components(["objective.loss=hinge", "objective.loss.margin=2"], {"objective": 1})
    ['objective.loss.name=hinge', 'objective.loss.margin=2']
    """
    paths = [text.partition("=")[0] for text in texts]

    def names(path: str) -> bool:
        section, *parts = path.split(".")
        return len(parts) >= depths.get(section, len(path)) and any(other.startswith(f"{path}.") for other in paths)

    return [f"{path}.name{text[len(path) :]}" if names(path) else text for path, text in zip(paths, texts, strict=True)]


def name_components(document: object, changes: object) -> None:
    """Write `{name: NAME}` for each NAME in the document of which the changes set fields, so that the name stays."""
    if not (isinstance(document, DictConfig) and isinstance(changes, DictConfig)):
        return
    for key, change in changes.items():
        if isinstance(change, DictConfig) and key in document:
            if isinstance(part := document.get(key), str):
                document[key] = {"name": part}
            name_components(document.get(key), change)
