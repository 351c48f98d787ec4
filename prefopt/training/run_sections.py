"""Sections of a run file: the model and the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_serializer, model_validator

from prefopt.data import DataSource, EncodingConfig, Mixture, OnBadRows, OnTooLong, StoppingStrategy
from prefopt.validation import Seed, Settings, path_name, set_name


class Section(Settings):
    """A group of a run file's fields."""

    model_config = ConfigDict(protected_namespaces=())


_Name = Annotated[str, AfterValidator(path_name)]


@final
class ModelSection(Section):
    """`model`: a name or folder, or a mapping.

    name       the policy, for `from_pretrained`
    reference  another model as the reference; null: the policy's own weights at the start
    tokenizer  null: the policy's
    init       keyword arguments of `from_pretrained`, such as dtype or attn_implementation
    peft       fields of peft's LoraConfig; null: all weights are trained
    """

    name: _Name
    reference: _Name | None = None
    tokenizer: _Name | None = None
    init: dict[str, Any] = Field(default_factory=dict)
    peft: dict[str, Any] | None = None


Source = str | DataSource


@final
class SamplesSection(Section):
    """`samples`: what is sampled on held-out prompts while training (see `SamplesCallback`).

    prompts                  texts, or lists of messages; null: of the first num_prompts pairs of the evaluation data
    every                    steps between samples; null: at every evaluation
    temperature, top_p       0 takes the likeliest token each time
    max_new_tokens, seed     of a sample
    judge                    says which of policy and reference is better: {scorer: ...} or {endpoint: ..., model: ...}
    """

    prompts: tuple[str | tuple[dict[str, Any], ...], ...] | None = Field(default=None, min_length=1)
    num_prompts: int = Field(default=8, ge=1)
    every: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=64, ge=1)
    seed: Seed = 0
    judge: dict[str, Any] | None = None


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _as_sources(value: object) -> object:
    return tuple(map(_as_source, value)) if isinstance(value, list | tuple) else (_as_source(value),)


def _as_named_sources(value: object) -> object:
    """Sources by name; the name of one alone is empty."""
    if value is None:
        return {}
    if isinstance(value, Mapping) and "path" not in value:
        return {set_name(name): _as_source(source) for name, source in value.items()}
    return {"": _as_source(value)}


def _short(source: DataSource) -> object:
    fields = source.model_dump(mode="json")
    return fields["path"] if fields.keys() == {"path"} else fields


@final
class DataSection(Section):
    """`data`: a source or a list of them, which is `train`, or a mapping. A source is a path or a DataSource's fields.

    train                          a source, or a list of sources: a mixture
    eval                           a source, or a mapping of several by name; optional
    test_split_size                pairs of train that are held out for evaluation: a share below 1, or a number
    mixture, stopping_strategy     how those of train are put together, as `datasets` does it
    split, eval_split              of a hub data set or a saved DatasetDict, where the source names none
    streaming, buffer_size         read the rows of train while training, each drawn from the next buffer_size ones
    columns                        field -> the data set's column
    max_length, max_prompt_length  tokens
    on_too_long                    truncate, drop or stop
    chat_template_kwargs           for the chat template, such as enable_thinking: false
    on_bad_rows                    stop, or quarantine
    dataset_num_proc               processes that encode rows
    reference_cache                folder for the reference's outputs
    """

    train: Annotated[
        tuple[DataSource, ...],
        BeforeValidator(_as_sources, json_schema_input_type=Source | list[Source]),
        Field(min_length=1),
    ]
    eval: Annotated[
        dict[str, DataSource],
        BeforeValidator(_as_named_sources, json_schema_input_type=Source | dict[str, Source] | None),
    ] = Field(default_factory=dict)
    test_split_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    mixture: Mixture = "concatenate"
    stopping_strategy: StoppingStrategy = "first_exhausted"
    streaming: bool = False
    buffer_size: int = Field(default=1000, ge=1)
    split: str = "train"
    eval_split: str = "test"
    columns: dict[str, str] = Field(default_factory=dict)
    max_length: int | None = Field(default=1024, ge=2)
    max_prompt_length: int | None = Field(default=None, ge=1)
    on_too_long: OnTooLong = "truncate"
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    on_bad_rows: OnBadRows = "stop"
    dataset_num_proc: int | None = Field(default=None, ge=1)
    reference_cache: _Name | None = None

    @property
    def has_evaluation(self) -> bool:
        """Whether there are pairs for evaluation."""
        return bool(self.eval) or self.test_split_size is not None

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
        size = self.test_split_size
        if size is not None and size >= 1 and size != int(size):
            raise ValueError(f"test_split_size: {size:g} is neither a share below 1 nor a number of pairs")
        if self.eval and size is not None:
            raise ValueError("test_split_size holds pairs of train out for evaluation, and eval names others; give one")
        return self

    @model_validator(mode="after")
    def _reject_unused_mixture(self) -> Self:
        interleaves = self.mixture == "interleave"
        if interleaves and len(self.train) == 1:
            raise ValueError("mixture is read where train is a list of sources; make it one, or leave mixture out")
        if not interleaves and self.stopping_strategy != type(self).model_fields["stopping_strategy"].default:
            raise ValueError("stopping_strategy is read only with mixture: interleave; set that, or leave it out")
        if unread := [source.path for source in self.eval.values() if source.weight is not None]:
            raise ValueError(f"the weight of {unread[0]} is read in train alone; leave it out, or give a fraction")
        weighted = [source.path for source in self.train if source.weight is not None]
        if weighted and not interleaves:
            raise ValueError(f"the weight of {weighted[0]} is read only with mixture: interleave; or give a fraction")
        if weighted and len(weighted) < len(self.train):
            raise ValueError("give all sources of train a weight, or none")
        return self

    @model_validator(mode="after")
    def _reject_unstreamable(self) -> Self:
        if not self.streaming:
            if self.buffer_size != type(self).model_fields["buffer_size"].default:
                raise ValueError("buffer_size is read only with streaming; set that to true, or leave it out")
            return self
        source, whole = self.train[0], "give the pairs as they are (streaming: false), or"
        if len(self.train) > 1:
            raise ValueError(f"streaming: a mixture of sources needs all pairs; {whole} one source")
        for name in ("fraction", "rows"):
            if getattr(source, name) is not None:
                raise ValueError(f"streaming: {name} of {source.path} is drawn from all pairs; {whole} leave it out")
        if self.test_split_size is not None:
            raise ValueError(f"streaming: test_split_size is drawn from all pairs; {whole} name others as eval")
        for name in ("reference_cache", "dataset_num_proc"):
            if getattr(self, name) is not None:
                raise ValueError(f"streaming: {name} needs all pairs before training; {whole} leave it out")
        return self

    @field_serializer("train")
    def _serialize_train(self, train: tuple[DataSource, ...]) -> object:
        return _short(train[0]) if len(train) == 1 else [_short(source) for source in train]

    @field_serializer("eval")
    def _serialize_eval(self, evaluation: dict[str, DataSource]) -> object:
        named = {name: _short(source) for name, source in evaluation.items()}
        return named.get("", named or None)
