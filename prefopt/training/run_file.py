"""The run file: one YAML document with the model, the data, the objective and the training arguments of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, final

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from prefopt import zoo
from prefopt.data import DataSource, EncodingConfig, Mixture, OnBadRows, OnTooLong, StoppingStrategy
from prefopt.objective_config import ObjectiveConfig
from prefopt.registry import provenance, with_recorded_versions
from prefopt.training.config import PreferenceConfig, training_arguments
from prefopt.training.references import References, environment_references, with_references
from prefopt.validation import Settings, explain, one_line

_DATA_ARGUMENTS = (
    "max_length",
    "max_prompt_length",
    "on_too_long",
    "chat_template_kwargs",
    "on_bad_rows",
    "reference_cache",
)
"""Fields of PreferenceConfig that a run file sets under `data`."""

_ELSEWHERE = dict.fromkeys((*_DATA_ARGUMENTS, "columns"), "belongs under `data`") | {
    "model_init_kwargs": "belongs under `model.init`"
}

_WHAT = "a run file is a mapping with model, data, objective and training"

_SHORT_FORMS = {"model": "name", "data": "train", "objective": "zoo"}
"""Sections that may be a string -> the field that it stands for."""


@final
class RunFileError(ValueError):
    """A run file that cannot be used; one line per problem."""


class _Section(Settings):
    model_config = ConfigDict(protected_namespaces=())


@final
class ModelSection(_Section):
    """`model`: a name or folder, or a mapping.

    name       the policy, for `from_pretrained`
    reference  another model as the reference; null: the policy's own weights at the start
    tokenizer  null: the policy's
    init       keyword arguments of `from_pretrained`, such as dtype or attn_implementation
    peft       fields of peft's LoraConfig; null: all weights are trained
    """

    name: str
    reference: str | None = None
    tokenizer: str | None = None
    init: dict[str, Any] = Field(default_factory=dict)
    peft: dict[str, Any] | None = None


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _as_sources(value: object) -> object:
    return tuple(map(_as_source, value)) if isinstance(value, list | tuple) else (_as_source(value),)


def _as_named_sources(value: object) -> object:
    """Sources by name; the name of one alone is empty."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and "path" not in value:
        return {name: _as_source(source) for name, source in value.items()}
    return {"": _as_source(value)}


def _short(source: DataSource) -> object:
    fields = source.model_dump(mode="json")
    return fields["path"] if fields.keys() == {"path"} else fields


@final
class DataSection(_Section):
    """`data`: a file, folder or hub name, or a mapping. A source is a path or a DataSource's fields.

    train                          a source, or a list of sources: a mixture
    eval                           a source, or a mapping of several by name; optional
    test_split_size                pairs of train that are held out for evaluation: a share below 1, or a number
    mixture, stopping_strategy     how those of train are put together, as `datasets` does it
    split, eval_split              of a hub data set or a saved DatasetDict, where the source names none
    columns                        field -> the data set's column
    max_length, max_prompt_length  tokens
    on_too_long                    truncate, drop or stop
    chat_template_kwargs           for the chat template, such as enable_thinking: false
    on_bad_rows                    stop, or quarantine
    reference_cache                folder for the reference's outputs
    """

    train: Annotated[tuple[DataSource, ...], BeforeValidator(_as_sources), Field(min_length=1)]
    eval: Annotated[dict[str, DataSource], BeforeValidator(_as_named_sources)] = Field(default_factory=dict)
    test_split_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    mixture: Mixture = "concatenate"
    stopping_strategy: StoppingStrategy = "first_exhausted"
    split: str = "train"
    eval_split: str = "test"
    columns: dict[str, str] = Field(default_factory=dict)
    max_length: int | None = Field(default=1024, ge=2)
    max_prompt_length: int | None = Field(default=None, ge=1)
    on_too_long: OnTooLong = "truncate"
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    on_bad_rows: OnBadRows = "stop"
    reference_cache: str | None = None

    @property
    def encoding(self) -> EncodingConfig:
        """How pairs become token ids."""
        return EncodingConfig(**{name: getattr(self, name) for name in EncodingConfig.model_fields})

    @model_validator(mode="after")
    def _check_encoding(self) -> Self:
        self.encoding  # noqa: B018  its own checks, before anything is loaded
        return self

    @model_validator(mode="after")
    def _reject_unused_split(self) -> Self:
        if not self.eval and self.eval_split != type(self).model_fields["eval_split"].default:
            raise ValueError("eval_split is read only with eval; name the evaluation data there, or leave it out")
        return self

    @model_validator(mode="after")
    def _one_evaluation(self) -> Self:
        if self.eval and self.test_split_size is not None:
            raise ValueError("test_split_size holds pairs of train out for evaluation, and eval names others; give one")
        return self

    @model_validator(mode="after")
    def _reject_unused_mixture(self) -> Self:
        interleaves = self.mixture == "interleave"
        if interleaves and len(self.train) == 1:
            raise ValueError("mixture is read where train is a list of sources; make it one, or leave mixture out")
        if not interleaves and self.stopping_strategy != type(self).model_fields["stopping_strategy"].default:
            raise ValueError("stopping_strategy is read only with mixture: interleave; set that, or leave it out")
        weighted = [source.path for source in (*self.train, *self.eval.values()) if source.weight is not None]
        if weighted and not interleaves:
            raise ValueError(f"the weight of {weighted[0]} is read only with mixture: interleave; or give a fraction")
        if weighted and len(weighted) < len(self.train):
            raise ValueError("give all sources of train a weight, or none")
        return self

    @field_serializer("train")
    def _serialize_train(self, train: tuple[DataSource, ...]) -> object:
        return _short(train[0]) if len(train) == 1 else [_short(source) for source in train]

    @field_serializer("eval")
    def _serialize_eval(self, evaluation: dict[str, DataSource]) -> object:
        named = {name: _short(source) for name, source in evaluation.items()}
        return named.get("", named or None)


def _expand_override(override: str) -> str:
    """`model=gpt2` as `model.name=gpt2`, so that the rest of the section stays."""
    section, _, value = override.partition("=")
    return f"{section}.{_SHORT_FORMS[section]}={value}" if section in _SHORT_FORMS else override


def _short_form(section: str) -> BeforeValidator:
    return BeforeValidator(lambda value: {_SHORT_FORMS[section]: value} if isinstance(value, str) else value)


@final
class RunFile(_Section):
    """A resolved run: `model`, `data`, `objective` (see `prefopt.zoo.build`) and `training`, PreferenceConfig's fields.

    >>> RunFile(model="gpt2", data="pairs.jsonl", objective="tdpo2").objective.beta
    0.1
    """

    model: Annotated[ModelSection, _short_form("model")]
    data: Annotated[DataSection, _short_form("data")]
    objective: Annotated[ObjectiveConfig, BeforeValidator(zoo.build)]
    training: dict[str, Any] = Field(default_factory=dict)
    _references: References = PrivateAttr(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a run file and apply dotted overrides such as `objective.beta=0.5`. Raises RunFileError."""
        if malformed := [text for text in overrides if "=" not in text]:
            raise RunFileError(f"override {malformed[0]!r}: write it as section.field=value")
        try:
            document = OmegaConf.load(path)
            if not OmegaConf.is_dict(document):
                raise RunFileError(f"{path}: {_WHAT}")
            for section, field in _SHORT_FORMS.items():
                if isinstance(document.get(section), str):
                    document[section] = {field: document[section]}
            merged = OmegaConf.merge(document, OmegaConf.from_dotlist([_expand_override(text) for text in overrides]))
            references = environment_references(merged)
            fields = OmegaConf.to_container(merged, resolve=True)
        except AssertionError:  # OmegaConf's, of a document that is a number, a date, true or false
            raise RunFileError(f"{path}: {_WHAT}") from None
        except FileNotFoundError:
            raise RunFileError(f"{path}: there is no such file") from None
        except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
            raise RunFileError(f"{path}: not a readable run file: {one_line(error)}") from error
        try:
            run = cls.model_validate(fields)
        except ValidationError as error:
            raise RunFileError("\n".join(f"{path}: {line}" for line in explain(error, cls))) from error
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
        return training_arguments(training, _ELSEWHERE)

    @model_validator(mode="after")
    def _evaluation_has_data(self) -> Self:
        strategy = self.training.get("eval_strategy", "no")
        if not self.data.eval and self.data.test_split_size is None and getattr(strategy, "value", strategy) != "no":
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
