"""The engines of comparisons by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from prefopt.comparison.engines.base import Engine, EngineError
from prefopt.comparison.engines.local import LocalEngine
from prefopt.comparison.engines.ray import RayEngine
from prefopt.comparison.engines.slurm import SlurmEngine
from prefopt.validation import did_you_mean, explain, one_line

__all__ = ["ENGINES", "Engine", "EngineError", "LocalEngine", "RayEngine", "SlurmEngine", "load_engine"]

ENGINES: Mapping[str, type[Engine]] = MappingProxyType({"local": LocalEngine, "ray": RayEngine, "slurm": SlurmEngine})
"""Name -> what checks the fields of an engine and starts its executor."""


def load_engine(name: str, fields: Mapping[str, Any] | None = None) -> Engine:
    """The engine of that name, or that of a YAML file with `name` and fields of the engine.

    fields  laid over those of the file
    Raises EngineError with a line for each mistake.
    """
    read: Any = {"name": name}
    if name.endswith((".yaml", ".yml")):
        try:
            read = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            raise EngineError(
                f"{name}: not a readable engine: {one_line(error)}; give a YAML file with the `name` of one and its "
                f"fields, or one of {', '.join(ENGINES)}"
            ) from error
    kind = read.get("name") if isinstance(read, dict) else None
    if not isinstance(kind, str) or kind not in ENGINES:
        near = did_you_mean(str(kind), ENGINES)
        raise EngineError(
            f"{name}: no engine named {kind!r}.{near} Engines: {', '.join(ENGINES)}; or a YAML file with the `name` of "
            "one and its fields"
        )
    if unknown := [field for field in fields or {} if field not in ENGINES[kind].model_fields]:
        raise EngineError(f"{name}: {unknown[0]}: the engine {kind} has none, which the engine local has; leave it out")
    try:
        return ENGINES[kind].model_validate({**read, **(fields or {})})
    except ValidationError as error:
        where = "" if name != kind else f"; fields are given in a YAML file, with `name: {kind}`"
        lines = explain(error, ENGINES[kind])
        raise EngineError("\n".join(f"{name}: {line}{where}" for line in lines)) from error
