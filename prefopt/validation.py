"""Groups of validated fields, and plain-word lines for what pydantic finds wrong, with the nearest right name."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, final, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

__all__ = [
    "MistakesError",
    "Seed",
    "Settings",
    "TensorSettings",
    "did_you_mean",
    "explain",
    "in_line",
    "one_line",
    "path_name",
    "problem_of",
    "reject_bool",
    "set_name",
]

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""The 32 bits that every generator reads."""

_FLOAT32 = (2.0**-126, (2 - 2.0**-23) * 2.0**127)
"""The smallest and largest size of a number of float32, but for 0."""


class Settings(BaseModel):
    """A group of fields that belong together: frozen; unknown fields are refused, and so are true, false, infinities
    and NaN for numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_bools(cls, value: object, info: ValidationInfo) -> object:
        return reject_bool(value, cls.model_fields[str(info.field_name)].annotation)


class TensorSettings(Settings):
    """Settings whose numbers meet those of tensors: one that float32 or int64 does not have is refused, in a list too.
    It would be 0 or infinite there, or an error at the first step."""

    @field_validator("*")
    @classmethod
    def _numbers_are_those_of_tensors(cls, value: object) -> object:
        smallest, largest = _FLOAT32
        for number in _items(value):
            size = abs(number) if isinstance(number, int | float) else 0
            if isinstance(number, int) and size >= 2**63:
                raise ValueError(f"a whole number of 64 bits is needed, got {number}")
            if isinstance(number, float) and size and math.isfinite(size) and not smallest <= size <= largest:
                raise ValueError(
                    f"a number of float32 is needed, from {smallest:.3g} to {largest:.3g} in size, got {number}"
                )
        return value


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The text "Did you mean 'x'?" with the nearest option, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def reject_bool(value: object, annotation: object, *, field: str = "") -> object:
    """The value. Raises ValueError for true and false, in a list or mapping too, where the annotation has numbers and
    no bool: pydantic would read them as 1 and 0.

    field  its name, where pydantic does not add that to the message
    """
    types = set(_types(annotation))
    if types & {int, float} and bool not in types:
        for item in _items(value):
            if isinstance(item, bool) or str(getattr(item, "dtype", "")) in ("bool", "torch.bool"):
                raise ValueError(f"{field}{': ' if field else ''}a number is needed, not {str(item).lower()}")
    return value


def _types(annotation: object) -> Iterator[object]:
    """The types that an annotation is made of."""
    arguments = () if get_origin(annotation) is Literal else get_args(annotation)
    yield annotation
    for argument in arguments:
        yield from _types(argument)


def _items(value: object) -> Iterator[object]:
    """The value, or those that its lists and mappings hold."""
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping | list | tuple):
        yield value
    elif isinstance(parts, Iterable):
        for part in parts:
            yield from _items(part)


def one_line(error: BaseException) -> str:
    """The message of an error of a library, whatever lines it has, in one."""
    return " ".join(str(error).split())


def in_line(name: str) -> str:
    """A name as it may stand in a line: quoted, with escapes, where it is empty words or does not print."""
    return name if name.isprintable() and name.strip() else repr(name)


def path_name(name: str) -> str:
    """The name of a file, folder or model. Raises ValueError where it is empty or has a control character."""
    if not name or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"a name is needed, without control characters, got {name!r}")
    return name


def set_name(name: object) -> str:
    """The name of a data set among several, which is in names of metrics and files. Raises ValueError where it cannot
    be in a file's."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.@+-][\w.@+ -]*", name):
        raise ValueError(f"{name!r} cannot name a data set: give letters, digits, and . _ - + @ between them")
    return name


@final
class MistakesError(ValueError):
    """All that is wrong with a value, a line for each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem: where it is, what it is, and what would be right.

    `model` is the class that refused the value: its fields are the names that may be used. A validator that raises
    `MistakesError` gives a line for each.
    """
    details = error.errors()
    problems = [detail.get("ctx", {}).get("error") for detail in details]
    return [
        line
        for detail, several in zip(details, problems, strict=True)
        for line in (several.lines if isinstance(several, MistakesError) else [_line(detail, model)])
    ]


_NEEDED = {
    "missing": "it is needed",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number is needed"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number is needed"),
    "finite_number": "a finite number is needed",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false is needed"),
    "string_type": "a text is needed",
    **dict.fromkeys(("list_type", "tuple_type"), "a list is needed"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping is needed"),
    "greater_than": "more than {gt:.10g} is needed",
    "greater_than_equal": "at least {ge:.10g} is needed",
    "less_than": "less than {lt:.10g} is needed",
    "less_than_equal": "at most {le:.10g} is needed",
    "literal_error": "{expected} is needed",
    **dict.fromkeys(("too_short", "string_too_short"), "at least {min_length} is needed"),
}
"""A kind of problem -> what would be right, of its context; the others are told in pydantic's words."""


def problem_of(detail: ErrorDetails) -> str:
    """What is wrong, without where."""
    needed = _NEEDED.get(detail["type"], "").format_map(detail.get("ctx", {}))
    return needed or " ".join(detail["msg"].removeprefix("Value error, ").split())


def _line(detail: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(in_line(str(part)) for part in detail["loc"])
    prefix = f"{where}: " if where else ""
    if detail["type"] == "extra_forbidden":
        owner = _model_at(model, detail["loc"][:-1])
        fields = sorted(owner.model_fields)
        name = str(detail["loc"][-1])
        return f"{prefix}no such field in {owner.__name__}.{did_you_mean(name, fields)} Fields: {', '.join(fields)}."
    message = problem_of(detail)
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
