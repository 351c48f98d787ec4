"""The run file: one YAML document with the model, the data, the objective and the training arguments of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, final

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from prefopt import zoo
from prefopt.objective_config import ObjectiveConfig
from prefopt.registry import provenance, with_recorded_versions
from prefopt.training.config import PreferenceConfig, training_arguments
from prefopt.training.overrides import Sections, overridden, with_origin
from prefopt.training.references import References, environment_references, why_unreadable, with_references
from prefopt.training.run_sections import DataSection, ModelSection, SamplesSection, Section, Source
from prefopt.validation import explain

_DATA_ARGUMENTS = (
    "max_length",
    "max_prompt_length",
    "on_too_long",
    "chat_template_kwargs",
    "on_bad_rows",
    "dataset_num_proc",
    "reference_cache",
)
"""Fields of PreferenceConfig that a run file sets under `data`."""

ELSEWHERE = dict.fromkeys((*_DATA_ARGUMENTS, "columns"), "belongs under `data`") | {
    "model_init_kwargs": "belongs under `model.init`"
}
"""Arguments of training that a run file sets in another section -> in which."""

_WHAT = "a run file is a mapping with model, data, objective and training"

_SHORT_FORMS = {"model": "name", "data": "train", "objective": "zoo"}
"""Sections that may be a string -> the field that it stands for."""

_LISTS = frozenset({"data"})
"""Those that may be a list too, for the same field."""

_SECTIONS = Sections(short={(section,): field for section, field in _SHORT_FORMS.items()}, rows=("objective",))


@final
class RunFileError(ValueError):
    """A run file that cannot be used; one line per problem."""


def _in_full(section: str, value: object) -> object:
    is_short = isinstance(value, str | list | tuple if section in _LISTS else str)
    return {_SHORT_FORMS[section]: value} if is_short else value


def _short_form(section: str, kind: Any) -> BeforeValidator:
    return BeforeValidator(partial(_in_full, section), json_schema_input_type=str | kind)


@final
class RunFile(Section):
    """A resolved run: `model`, `data`, `objective` (see `prefopt.zoo.build`) and `training`, PreferenceConfig's fields,
    and optionally `samples`.

    >>> RunFile(model="gpt2", data="pairs.jsonl", objective="tdpo2").objective.beta
    0.1
    """

    model: Annotated[ModelSection, _short_form("model", ModelSection)]
    data: Annotated[DataSection, _short_form("data", list[Source] | DataSection)]
    objective: Annotated[ObjectiveConfig, BeforeValidator(zoo.build)]
    training: dict[str, Any] = Field(default_factory=dict)
    samples: SamplesSection | None = Field(default=None, exclude_if=lambda value: value is None)
    _references: References = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a run file and apply dotted overrides such as `objective.beta=0.5`. Raises RunFileError."""
        try:
            document = OmegaConf.load(path)
            if not OmegaConf.is_dict(document):
                raise RunFileError(f"{path}: {_WHAT}")
            sections: Any = OmegaConf.to_container(document)
            for section in sections.keys() & _SHORT_FORMS.keys():
                document[section] = _in_full(section, sections[section])
            merged = overridden(document, overrides, _SECTIONS, RunFileError)
            references = environment_references(merged)
            fields = OmegaConf.to_container(merged, resolve=True)
        except AssertionError:  # OmegaConf's, of a document that is a number, a date, true or false
            raise RunFileError(f"{path}: {_WHAT}") from None
        except FileNotFoundError:
            raise RunFileError(f"{path}: there is no such file") from None
        except UnicodeDecodeError as error:
            raise RunFileError(
                f"{path}: not UTF-8 text, at byte {error.start} ({error.object[error.start]:#04x}); save it as UTF-8"
            ) from error
        except RunFileError:
            raise
        except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
            raise RunFileError(f"{path}: not a readable run file: {why_unreadable(error)}") from error
        try:
            run = cls.model_validate(fields)
        except ValidationError as error:
            lines = with_origin(explain(error, cls), document, merged, _SECTIONS)
            raise RunFileError("\n".join(f"{path}: {line}" for line in lines)) from error
        run._references = references
        return run

    @model_validator(mode="wrap")
    @classmethod
    def _read_recorded_versions(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """`components`, which `to_yaml` adds, is for the error where a component is not installed."""
        if not isinstance(value, Mapping):
            return handler(value)
        with with_recorded_versions(value.get("components", {})):
            return handler({key: part for key, part in value.items() if key != "components"})

    @field_validator("training")
    @classmethod
    def _convert_arguments(cls, training: Mapping[str, Any]) -> dict[str, Any]:
        return training_arguments(training, ELSEWHERE)

    @model_validator(mode="after")
    def _evaluation_has_data(self) -> Self:
        strategy = self.training.get("eval_strategy", "no")
        evaluates, has_data = getattr(strategy, "value", strategy) != "no", self.data.has_evaluation
        if self.samples is not None and self.samples.prompts is None and not has_data:
            raise ValueError("samples needs prompts; give samples.prompts, or evaluation data, whose prompts are taken")
        if self.samples is not None and self.samples.every is None and not evaluates:
            raise ValueError("samples are drawn at every evaluation; give samples.every, or training.eval_strategy")
        if self.data.streaming and self.training.get("max_steps", -1) <= 0:
            raise ValueError("data.streaming needs training.max_steps, as nobody knows the length of a stream")
        if not has_data and evaluates:
            raise ValueError(
                "training.eval_strategy needs evaluation data; name it as data.eval, hold some of train out with "
                "data.test_split_size, or leave eval_strategy out"
            )
        return self

    def preference_config(self) -> PreferenceConfig:
        """The trainer's arguments. Raises RunFileError where transformers rejects them."""
        try:
            return PreferenceConfig(
                **{"output_dir": "runs/train"} | self.training,
                **{name: getattr(self.data, name) for name in _DATA_ARGUMENTS},
                columns=dict(self.data.columns),
                model_init_kwargs=dict(self.model.init),
            )
        except (TypeError, ValueError, ImportError) as error:
            raise RunFileError(f"training: {error}") from error

    def to_yaml(self) -> str:
        """The resolved run, which repeats it, and the distributions of its components. What comes from the environment
        stays a reference to it."""
        components = provenance(self.objective.components)
        fields = with_references(self.model_dump(mode="json"), self._references)
        return yaml.safe_dump({**fields, "components": components}, sort_keys=False)
