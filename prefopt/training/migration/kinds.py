"""Types of the settings that a migration reads itself; those that it hands on are checked in the run file."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from prefopt.validation import explain

_Mapping = dict[str, Any] | None
_Number = float | None
_Text = str | None


class _Kinds(BaseModel):
    """TRL's settings, and the alignment-handbook's."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    loss_type: str | list[str] | None = None
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
    dataset_mixer: str | dict[str, float] | None = None
    dataset_splits: list[str] | None = None
    datasets: list[dict[str, Any]] | None = None


def reject_other_kinds(settings: dict[str, Any]) -> None:
    """Raise ValueError, a line for each, where a setting is of another type than TRL's."""
    try:
        _Kinds.model_validate(settings)
    except ValidationError as error:
        raise ValueError("\n".join(dict.fromkeys(explain(error, _Kinds)))) from error
