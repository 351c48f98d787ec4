"""Groups of validated fields, and plain-word lines for what pydantic finds wrong, with the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

__all__ = ["Settings", "did_you_mean", "explain", "one_line", "reject_bool"]


class Settings(BaseModel):
    """A group of fields that belong together: frozen, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The text "Did you mean 'x'?" with the nearest option, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def reject_bool(value: object) -> object:
    """The value. Raises ValueError for true and false, which pydantic would read as the numbers 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"a number is needed, not {str(value).lower()}")
    return value


def one_line(error: BaseException) -> str:
    """The message of an error of a library, whatever lines it has, in one."""
    return " ".join(str(error).split())


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem: where it is, what it is, and what would be right.

    `model` is the class that refused the value: its fields are the names that may be used.
    """
    return [_line(detail, model) for detail in error.errors()]


def _line(detail: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    prefix = f"{where}: " if where else ""
    if detail["type"] == "extra_forbidden":
        owner = _model_at(model, detail["loc"][:-1])
        fields = sorted(owner.model_fields)
        name = str(detail["loc"][-1])
        return f"{prefix}no such field in {owner.__name__}.{did_you_mean(name, fields)} Fields: {', '.join(fields)}."
    message = " ".join(detail["msg"].removeprefix("Value error, ").split())
    shown = "" if detail["type"] in ("value_error", "missing") else f", got {detail['input']!r}"
    return f"{prefix}{message}{shown}"


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model class to which a path of field names leads; the last one where it leaves them."""
    for part in path:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        inner = [c for c in (annotation, *get_args(annotation)) if isinstance(c, type) and issubclass(c, BaseModel)]
        if inner:
            model = inner[0]
    return model
