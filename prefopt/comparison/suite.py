"""The suite: one YAML document that says which objectives are compared, on what, over which settings and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self, final

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from prefopt import zoo
from prefopt.comparison.paths import missing_paths
from prefopt.comparison.run import REFERENCE, Run, control_name
from prefopt.comparison.statistics import SEEDS_TO_TELL
from prefopt.comparison.suite_fields import (
    Entrant,
    Plane,
    Sweeps,
    as_mapping,
    mistakes_of,
    nest,
    select_objectives,
    set_path,
    without_mistakes,
)
from prefopt.objective_config import ObjectiveConfig
from prefopt.tasks.base import Metric
from prefopt.tasks.held_out import COMMON
from prefopt.tasks.registry import AnyTask
from prefopt.training.config import training_arguments
from prefopt.training.overrides import Sections, overridden, with_origin
from prefopt.training.preflight import reject_mask_rate_without_mask, reject_split_step
from prefopt.training.references import References, environment_references, variables, why_unreadable, with_references
from prefopt.training.trainer_inputs import lora_config
from prefopt.validation import MistakesError, Seed, Settings, did_you_mean, explain

SUITE = "suite.yaml"
"""The name of the suite in the folder of a comparison."""

_WHAT = "a suite is a mapping with task, objectives, sweeps, seeds and training"

_SECTIONS = Sections(
    short={("task",): "name", ("objectives", "*"): "zoo"},
    rows=("objectives", "*"),
    beside_row=frozenset({"training", "sweeps"}),
    components=frozenset({"task"}),
)

_FIXED: dict[str, Any] = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
_DEFAULTS = {"logging_steps": 0.05, **_FIXED, "model_init_kwargs": {"dtype": "float32"}}
ELSEWHERE = {"output_dir": "is what `--out` sets", "seed": "belongs under `seeds`"}
_UPLOADS = "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision".split()
ELSEWHERE |= {"reference_cache": "belongs at the top"} | dict.fromkeys(
    (*_FIXED, *_UPLOADS), "is not for a suite: a run keeps its figures alone"
)
"""Arguments of training that a suite does not take -> why."""


@final
class SuiteError(ValueError):
    """A suite that cannot be used: one line for each problem."""


@contextmanager
def _errors_name(field: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, ImportError) as error:
        raise ValueError(f"{field}: {error}") from error


def _problem(build: Callable[[], object]) -> Iterator[str]:
    try:
        build()
    except ValueError as error:
        yield " ".join(str(error).split())


@final
class Suite(Settings):
    """A comparison: every objective, at every combination of the sweeps, under every seed, and the untrained reference.

    task             what is trained on and measured: a name, or a mapping with `name` and fields
    objectives       name -> see `Entrant`
    baseline         the objective that the others are set against; null: the first
    sweeps           `objective.FIELD` or `training.FIELD` -> values
    seeds            each makes material of its own, and is the seed of training; the fewest that can tell objectives
                     apart, unless they are given
    training         PreferenceConfig's fields, for all runs
    peft             fields of a peft LoraConfig, for all runs; null: all weights train
    controls         whether each run with a mask gets a control without one, at beta times its mean (see `controls`)
    frontier         see `Plane`; null: the default one, where the task has its metrics
    reference_cache  whether runs share the reference's outputs for the pairs, on disk

    >>> suite = Suite.model_validate({"task": "planted", "objectives": {"dpo": "dpo", "tdpo1": "tdpo1"}, "seeds": [0]})
    >>> [str(run) for run in suite.runs()]
    ['reference, seed 0', 'dpo, seed 0', 'tdpo1, seed 0']
    """

    task: AnyTask
    objectives: dict[str, Annotated[Entrant, BeforeValidator(as_mapping)]] = Field(min_length=1)
    baseline: str | None = None
    sweeps: Sweeps = Field(default_factory=dict)
    seeds: list[Seed] = Field(default_factory=lambda: list(range(SEEDS_TO_TELL)), min_length=1)
    training: dict[str, Any] = Field(default_factory=dict)
    peft: dict[str, Any] | None = None
    controls: bool = True
    frontier: Plane | None = None
    reference_cache: bool = True
    _references: References = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Self:
        """Read a suite and lay dotted overrides such as `training.max_steps=10` over it; of its objectives, `only`
        these, if any. Raises SuiteError.
        """
        try:
            read = OmegaConf.to_container(OmegaConf.load(path))
            if not isinstance(read, dict):
                raise SuiteError(f"{path}: {_WHAT}")
            document = OmegaConf.create(nest(read))
            merged = overridden(document, overrides, _SECTIONS, SuiteError)
            references = environment_references(merged)
            fields: Any = OmegaConf.to_container(merged, resolve=True)
        except FileNotFoundError:
            raise SuiteError(f"{path}: there is no such file") from None
        except AssertionError:  # OmegaConf's, of a document that is a number, a date, true or false
            raise SuiteError(f"{path}: {_WHAT}") from None
        except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeError, RecursionError) as error:
            raise SuiteError(f"{path}: not a readable suite: {why_unreadable(error)}") from error
        try:
            suite = cls.model_validate(select_objectives(fields, only))
        except ValueError as error:
            lines = explain(error, cls) if isinstance(error, ValidationError) else [str(error)]
            if isinstance(error, ValidationError) and (rest := without_mistakes(fields, error, only)):
                lines += mistakes_of(cls, rest)
            lines = with_origin(lines, document, merged, _SECTIONS)
            lines += missing_paths(fields.get("task")).values()
            raise SuiteError("\n".join(f"{path}: {line}" for line in lines)) from error
        suite._references = references
        return suite

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if mistakes := dict.fromkeys(self._mistakes()):
            raise MistakesError(mistakes)
        return self

    def _mistakes(self) -> Iterator[str]:
        """What cannot be carried out as it stands, a line each."""
        if REFERENCE in self.objectives:
            yield f"objectives: {REFERENCE!r} is the untrained model's name; choose another"
        for name in self.objectives:
            if control_name(name) in self.objectives:
                yield f"objectives: {control_name(name)!r} is what the control of {name!r} is called"
        if self.baseline is not None and self.baseline not in self.objectives:
            near = did_you_mean(self.baseline, self.objectives)
            yield f"baseline: no objective named {self.baseline!r} here.{near}"
        for name, listed in {"seeds: seeds": self.seeds, **{f"sweeps: {f}": v for f, v in self.sweeps.items()}}.items():
            if any(value in listed[:index] for index, value in enumerate(listed)):
                yield f"{name} names a value twice: {listed}"
        swept = [field for field in self.sweeps if field.startswith(("objective.", "training.")) and field[-1] != "."]
        for field in self.sweeps.keys() - swept:
            yield f"sweeps: {field!r} is neither objective.FIELD nor training.FIELD"
        for name, entrant in self.objectives.items():
            for field in entrant.sweeps.keys() - self.sweeps.keys():
                yield f"objectives.{name}.sweeps: the suite does not sweep {field!r}; add it to `sweeps`"
        measured = [metric.name for metric in self.metrics]
        plane = self.plane
        for field, metric in (("reward", plane.reward), ("distance", plane.distance)) if self.frontier else ():
            if metric not in measured:
                near = did_you_mean(metric, measured)
                yield f"frontier.{field}: the task has no metric {metric!r}.{near} It has {measured}."
        yield from _problem(self._adapter)
        of_all_runs = list(_problem(partial(self._training, "training", self.training)))
        yield from of_all_runs
        check = self._objective if of_all_runs else self._run
        for name in self.objectives:
            lines = [line for setting in self._settings(name) for line in _problem(partial(check, name, setting))]
            yield from {line.partition("}: ")[2] or line: line for line in reversed(lines)}.values()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The task's own metrics, then those that every task has."""
        names = {metric.name for metric in self.task.metrics}
        return (*self.task.metrics, *(metric for metric in COMMON if metric.name not in names))

    @property
    def plane(self) -> Plane:
        plane = self.frontier or Plane()
        return plane.model_copy(update={"reward": plane.reward or self.task.headline})

    @property
    def has_plane(self) -> bool:
        """Whether there are the metrics of the plane."""
        return {self.plane.reward, self.plane.distance} <= {metric.name for metric in self.metrics}

    @property
    def variables(self) -> list[str]:
        """The environment's, which the suite was read with."""
        return variables(self._references)

    @property
    def against(self) -> str:
        """The name of the baseline."""
        return self.baseline or next(iter(self.objectives))

    def runs(self) -> list[Run]:
        """The grid, those of a seed together, the reference first. Raises ValueError for what cannot be built."""
        shared = self._training("training", self.training)
        trained = [self._run(name, setting) for name in self.objectives for setting in self._settings(name)]
        untrained = Run(self.task, 0, REFERENCE, {}, None, shared, False)
        return [run.under(seed) for seed in self.seeds for run in (untrained, *trained)]

    def _settings(self, name: str) -> Iterator[dict[str, Any]]:
        """Each combination of an objective's sweeps, the last field varying first."""
        sweeps = self.sweeps | self.objectives[name].sweeps
        for values in product(*sweeps.values()):
            yield dict(zip(sweeps, values, strict=True))

    def _spec(self, name: str, setting: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of an objective and of its training."""
        entrant = self.objectives[name]
        spec: dict[str, Any] = {"objective": entrant.objective, "training": {**self.training, **entrant.training}}
        for field, value in setting.items():
            set_path(spec, field.split("."), value)
        return spec

    def _objective(self, name: str, setting: Mapping[str, Any]) -> ObjectiveConfig:
        with _errors_name(f"objectives.{name}" + (f" at {setting}" if setting else "")):
            return zoo.build(self._spec(name, setting)["objective"])

    def _run(self, name: str, setting: dict[str, Any]) -> Run:
        objective = self._objective(name, setting)
        training = self._training(f"objectives.{name}.training", self._spec(name, setting)["training"])
        run = Run(self.task, 0, name, setting, objective, training, self.reference_cache, self.peft)
        args = run.arguments(Path("runs"))
        with _errors_name(f"objectives.{name}.training"):
            reject_split_step(objective, args)
            reject_mask_rate_without_mask(objective, args)
        return run

    def _adapter(self) -> None:
        with _errors_name("peft"):
            lora_config(self.peft)

    def _training(self, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
        with _errors_name(where):
            training = {**_DEFAULTS, **training_arguments(given, ELSEWHERE)}
            Run(self.task, 0, REFERENCE, {}, None, training, False).arguments(Path("runs"))
        return training

    def to_yaml(self) -> str:
        """The suite in full, which gives the comparison again; what comes from the environment stays a reference."""
        fields = with_references(self.model_dump(mode="json"), self._references)
        return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
