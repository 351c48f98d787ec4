"""Checkpoints: a plain `save_pretrained` policy, with the objective and its learned weights beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn

from prefopt.objective import Objective
from prefopt.scoring import PreferenceModel

_REFERENCE = "reference"


def save_checkpoint(
    model: PreferenceModel, folder: str | Path, state: dict[str, Tensor] | None, *, with_reference: bool
) -> None:
    """Write the policy with `save_pretrained` and the objective with `Objective.save`.

    state           the gathered state of a sharded PreferenceModel; None where it is not sharded
    with_reference  also write the reference, to FOLDER/reference: one that changes in training is part of the state
    """

    def part(prefix: str) -> dict[str, Tensor] | None:
        return None if state is None else {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    model.policy.save_pretrained(folder, state_dict=part("policy."))  # type: ignore[operator]
    model.objective.save(folder, part("objective."))
    if with_reference:
        assert model.reference is not None
        model.reference.save_pretrained(Path(folder) / _REFERENCE)  # type: ignore[operator]


def load_checkpoint(model: PreferenceModel, folder: str | Path, *, with_reference: bool) -> None:
    """The inverse of `save_checkpoint`. Raises ValueError where the saved objective has another configuration."""
    saved = Objective.load(folder)
    if saved.config != model.objective.config:
        raise ValueError(
            f"{folder} was trained with another objective than this run's, so it cannot be resumed.\n"
            f"  there: {saved.config.model_dump_json()}\n  here:  {model.objective.config.model_dump_json()}"
        )
    model.objective.load_state_dict(saved.state_dict())
    _load_weights(model.policy, folder)
    if with_reference:
        assert model.reference is not None
        _load_weights(model.reference, Path(folder) / _REFERENCE)


@torch.no_grad()
def _load_weights(model: nn.Module, folder: str | Path) -> None:
    """Load the adapter's weights where the model has an adapter, otherwise all weights."""
    if isinstance(model, PeftModel):
        weights = load_peft_weights(str(folder), device="cpu")
        set_peft_model_state_dict(model, weights, adapter_name=model.active_adapter)
    else:
        saved = type(model).from_pretrained(folder, dtype=model.dtype)  # type: ignore[attr-defined]
        model.load_state_dict(saved.state_dict())


def saved_reference(folder: str | Path) -> Path | None:
    """The folder of the reference in a checkpoint; None where it holds none."""
    path = Path(folder) / _REFERENCE
    return path if path.is_dir() else None
