"""Types of the settings that a migration reads itself; those that it hands on are checked in the run file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from prefopt.training.config import PreferenceConfig
from prefopt.training.migration.notes import Settings
from prefopt.validation import MistakesError, explain


def _listed(value: object) -> object:
    """One loss is a list of one."""
    return [value] if isinstance(value, str) else value


def _whole(value: object) -> object:
    """One data set is the whole mixture."""
    return {value: 1.0} if isinstance(value, str) else value


def _parted(value: object) -> object:
    """A list in text, between commas."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _as_text(value: object) -> object:
    """A name of digits, which YAML reads as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


_Mapping = dict[str, Any] | None
_Number = float | None
_Flag = bool | None
_Text = Annotated[str | None, BeforeValidator(_as_text)]
_Listed = Annotated[list[str] | None, BeforeValidator(_listed)]
_Sources = list[dict[str, Any]] | None


class _Kinds(BaseModel):
    """Settings whose type is not what the run file checks."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class _OfTRL(_Kinds):
    """TRL's settings, and the alignment-handbook's."""

    loss_type: _Listed = None
    loss_weights: list[float] | None = None
    beta: _Number = None
    label_smoothing: _Number = None
    rpo_alpha: _Number = None
    ld_alpha: _Number = None
    discopop_tau: _Number = None
    f_alpha_divergence_coef: _Number = None
    cpo_alpha: _Number = None
    simpo_gamma: _Number = None
    gamma_beta_ratio: _Number = None
    max_steps: int | None = None
    f_divergence_type: _Text = None
    use_weighting: _Flag = None
    reference_free: _Flag = None
    use_peft: _Flag = None
    lora_target_parameters: _Listed = None
    lora_modules_to_save: _Listed = None
    use_dora: _Flag = None
    use_rslora: _Flag = None
    load_in_4bit: _Flag = None
    load_in_8bit: _Flag = None
    use_bnb_nested_quant: _Flag = None
    use_flash_attention_2: _Flag = None
    trust_remote_code: _Flag = None
    disable_dropout: _Flag = None
    padding_free: _Flag = None
    activation_offloading: _Flag = None
    precompute_ref_log_probs: _Flag = None
    generate_during_eval: _Flag = None
    model_init_kwargs: _Mapping = None
    chat_template_kwargs: _Mapping = None
    gradient_checkpointing_kwargs: _Mapping = None
    columns: _Mapping = None
    model_name_or_path: _Text = None
    model_revision: _Text = None
    dataset_name: _Text = None
    dataset_config: _Text = None
    dataset_train_split: _Text = None
    dataset_test_split: _Text = None
    dataset_streaming: _Flag = None
    streaming: _Flag = None
    dataset_mixer: Annotated[dict[str, float] | None, BeforeValidator(_whole)] = None
    dataset_splits: _Listed = None
    dataset_configs: list[str | None] | None = None
    datasets: _Sources = None


class _OfAxolotl(_Kinds):
    rl_beta: _Number = None
    cpo_alpha: _Number = None
    num_epochs: Annotated[float, Field(gt=0)] = 1.0
    evals_per_epoch: Annotated[int, Field(ge=1)] | None = None
    saves_per_epoch: Annotated[int, Field(ge=1)] | None = None
    val_set_size: _Number = None
    lora_target_linear: _Flag = None
    flash_attention: _Flag = None
    sdp_attention: _Flag = None
    xformers_attention: _Flag = None
    datasets: _Sources = None


class _OfLlamaFactory(_Kinds):
    quantization_bit: int | None = None
    double_quantization: _Flag = None
    lora_rank: int | None = None
    max_samples: Annotated[int, Field(ge=1)] | None = None
    dataset_dir: _Text = None
    interleave_probs: Annotated[list[float] | None, BeforeValidator(_parted)] = None


class _Flags(RootModel[dict[str, _Flag]]):
    """Arguments of training that are on or off."""


def _is_only(hint: object, kind: type) -> bool:
    return set(get_args(hint) or (hint,)) <= {kind, type(None)}


_HINTS: Mapping[str, object] = get_type_hints(PreferenceConfig)

TEXTS = {name for name, hint in _HINTS.items() if _is_only(hint, str)} | {
    name for name, field in _OfTRL.model_fields.items() if field.annotation == str | None
}
"""Settings that are text, whatever it looks like."""
FLAGS = {name for name, hint in _HINTS.items() if _is_only(hint, bool)} | {
    name for name, field in _OfTRL.model_fields.items() if field.annotation == bool | None
}
"""Settings that are on or off."""


def typed(settings: Settings) -> Settings:
    """TRL's settings in their types, which text may say. Raises MistakesError for others."""
    others = settings.keys() - _OfTRL.model_fields.keys()
    flags = _validated(_Flags, {name: settings[name] for name in FLAGS & others})
    texts = {name: _as_text(settings[name]) for name in TEXTS & others}
    return settings | flags | texts | _validated(_OfTRL, settings)


def typed_of_axolotl(settings: Settings) -> Settings:
    """Axolotl's own settings in their types."""
    return settings | _validated(_OfAxolotl, settings)


def typed_of_llama_factory(settings: Settings) -> Settings:
    """LLaMA-Factory's own settings in their types."""
    return settings | _validated(_OfLlamaFactory, settings)


def _validated(kinds: type[BaseModel], settings: Settings) -> Settings:
    try:
        validated: Settings = kinds.model_validate(settings).model_dump(exclude_unset=True)
        return validated
    except ValidationError as error:
        raise MistakesError(explain(error, kinds)) from error
