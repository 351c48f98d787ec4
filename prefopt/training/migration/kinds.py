"""Types of the settings that a migration reads itself; those that it hands on are checked in the run file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from prefopt.validation import explain

_Mapping = dict[str, Any] | None
_Number = float | None
_Text = str | None


def _listed(value: object) -> object:
    """One loss is a list of one."""
    return [value] if isinstance(value, str) else value


def _whole(value: object) -> object:
    """One data set is the whole mixture."""
    return {value: 1.0} if isinstance(value, str) else value


class _Kinds(BaseModel):
    """TRL's settings, and the alignment-handbook's."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    loss_type: Annotated[list[str] | None, BeforeValidator(_listed)] = None
    loss_weights: list[float] | None = None
    beta: _Number = None
    label_smoothing: _Number = None
    rpo_alpha: _Number = None
    ld_alpha: _Number = None
    discopop_tau: _Number = None
    f_alpha_divergence_coef: _Number = None
    max_steps: _Number = None
    f_divergence_type: _Text = None
    output_dir: _Text = None
    model_init_kwargs: _Mapping = None
    chat_template_kwargs: _Mapping = None
    gradient_checkpointing_kwargs: _Mapping = None
    columns: _Mapping = None
    dataset_name: _Text = None
    dataset_config: _Text = None
    dataset_train_split: _Text = None
    dataset_test_split: _Text = None
    dataset_mixer: Annotated[dict[str, float] | None, BeforeValidator(_whole)] = None
    dataset_splits: list[str] | None = None
    datasets: list[dict[str, Any]] | None = None


def reject_other_kinds(settings: dict[str, Any]) -> None:
    """Raise ValueError, a line for each, where a setting is of another type than TRL's."""
    try:
        _Kinds.model_validate(settings)
    except ValidationError as error:
        raise ValueError("\n".join(explain(error, _Kinds))) from error
