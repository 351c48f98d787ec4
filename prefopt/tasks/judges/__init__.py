"""Judges of two responses, for win rates: a scorer, or a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from prefopt.tasks.judges.base import Judge, ScorerJudge
from prefopt.tasks.judges.endpoint import EndpointJudge, JudgeError
from prefopt.validation import explain

__all__ = ["AnyJudge", "EndpointJudge", "Judge", "JudgeError", "ScorerJudge", "resolve_judge"]

_JUDGES: Mapping[str, type[Judge]] = MappingProxyType({"scorer": ScorerJudge, "endpoint": EndpointJudge})
"""The field that only one kind of judge has -> the kind."""


def resolve_judge(value: object) -> Judge:
    """A judge from a mapping with `scorer` or `endpoint` and the judge's other fields, or from a judge itself.

    Raises ValueError where it is neither, or where a field does not fit.
    """
    if isinstance(value, Judge):
        return value
    fields = [field for field in _JUDGES if isinstance(value, Mapping) and field in value]
    if len(fields) != 1:
        raise ValueError(f"a judge is a mapping with one of {', '.join(_JUDGES)} and its other fields; got {value!r}")
    cls = _JUDGES[fields[0]]
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        raise ValueError(" ".join(explain(error, cls))) from error


AnyJudge = Annotated[
    SerializeAsAny[Judge] | None,
    BeforeValidator(
        lambda value: None if value is None else resolve_judge(value),
        json_schema_input_type=ScorerJudge | EndpointJudge | None,
    ),
]
"""The type of a field that takes what `resolve_judge` does, or null for no judge."""
