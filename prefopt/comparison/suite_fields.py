"""The parts of a suite, and the forms in which they may be written: names or mappings, fields dotted or nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from prefopt.validation import Settings, did_you_mean, explain


def as_mapping(value: object) -> object:
    """A name of the zoo as the mapping that it is short for."""
    return {"zoo": value} if isinstance(value, str) else value


def flatten(fields: object, prefix: str = "") -> object:
    """`{objective: {beta: [...]}}` as `{objective.beta: [...]}`."""
    if not isinstance(fields, Mapping):
        return fields
    dotted: dict[str, object] = {}
    for name, value in fields.items():
        inner = flatten(value, f"{prefix}{name}.")
        dotted |= inner if isinstance(inner, dict) else {f"{prefix}{name}": value}
    return dotted


Sweeps = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], BeforeValidator(flatten)]


@final
class Entrant(BaseModel):
    """An objective of the suite: what `prefopt.zoo.build` takes, as further fields, and what is for it alone.

    training  laid over the arguments of all runs
    sweeps    other values for fields that the suite sweeps, such as the betas at which this objective goes as far from
              the reference as others do at theirs
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    training: dict[str, Any] = Field(default_factory=dict)
    sweeps: Sweeps = Field(default_factory=dict)

    @property
    def objective(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


@final
class Plane(Settings):
    """`frontier`: the plane in which objectives are compared at the same distance from the reference.

    reward, distance  metrics; without a reward it is the task's headline
    over              the swept field along which a frontier runs
    at                distances at which rewards are compared; none: three between those which most runs are around
    within            the distance up to which the hypervolume is taken; null: the greatest of any run
    """

    reward: str = ""
    distance: str = "sequence_kl"
    over: str = "objective.beta"
    at: tuple[float, ...] = ()
    within: float | None = Field(default=None, gt=0)


def set_path(fields: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Set a field of nested mappings, which are copied on the way; a value that is no mapping becomes its `name`."""
    *outer, last = path
    for name in outer:
        inner = fields.get(name) or {}
        fields[name] = dict(inner) if isinstance(inner, Mapping) else {"name": inner}
        fields = fields[name]
    fields[last] = value


def nest(read: dict[Any, Any]) -> dict[Any, Any]:
    """The suite with mappings in the place of names, and nested sweeps, as dotted overrides need them."""
    full = dict(read)
    if isinstance(task := read.get("task"), str):
        full["task"] = {"name": task}
    if isinstance(objectives := read.get("objectives"), dict):
        full["objectives"] = {name: _nest_sweeps(as_mapping(value)) for name, value in objectives.items()}
    return dict(_nest_sweeps(full))


def _nest_sweeps(fields: Any) -> Any:
    sweeps = flatten(fields.get("sweeps")) if isinstance(fields, dict) else None
    if not isinstance(sweeps, dict):
        return fields
    inside: dict[str, Any] = {}
    for field, values in sweeps.items():
        set_path(inside, str(field).split("."), values)
    return {**fields, "sweeps": inside}


def select_objectives(fields: dict[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The suite with the objectives `only`, if any are named. Raises ValueError for an unknown name."""
    objectives = fields.get("objectives")
    if not only or not isinstance(objectives, dict):
        return fields
    if unknown := [name for name in only if name not in objectives]:
        raise ValueError(f"--objective: none named {unknown[0]!r}.{did_you_mean(unknown[0], objectives)}")
    kept = {name: spec for name, spec in objectives.items() if name in only}
    baseline = fields.get("baseline")
    return {**fields, "objectives": kept, "baseline": baseline if baseline in kept else None}


def without_mistakes(fields: dict[str, Any], error: ValidationError, only: Sequence[str]) -> dict[str, Any]:
    """A suite's fields without those that the error is about, which hide what is wrong between the others.

    A task that cannot be read has a small one in its place, and no frontier, whose metrics are the task's. Nothing
    where too little is left: a suite that holds together already, or no objective or sweep that can be read.
    """
    locations = [mistake["loc"] for mistake in error.errors() if mistake["loc"]]
    mistaken = {location[0] for location in locations}
    objectives = select_objectives(fields, only).get("objectives")
    if not mistaken or "sweeps" in mistaken or not isinstance(objectives, dict):
        return {}
    wrong = {location[1] for location in locations if location[0] == "objectives" and len(location) > 1}
    sound = {name: entrant for name, entrant in objectives.items() if name not in wrong}
    rest = {field: value for field, value in fields.items() if field not in mistaken} | {"objectives": sound}
    if rest.get("baseline") in wrong:
        del rest["baseline"]
    if "task" in mistaken:
        rest = {field: value for field, value in rest.items() if field != "frontier"} | {"task": "planted"}
    return rest if sound else {}


def mistakes_of(suite: type[BaseModel], fields: Mapping[str, Any]) -> list[str]:
    """The lines of what is wrong with the fields of a suite."""
    try:
        suite.model_validate(fields)
    except ValidationError as error:
        return explain(error, suite)
    return []
