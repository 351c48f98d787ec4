"""Checkpoints: a plain `save_pretrained` policy, and the objective with its learned weights beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn

from prefopt.objective import Objective
from prefopt.scoring import PreferenceModel

__all__ = [
    "load_objective",
    "load_policy",
    "load_reference",
    "save_objective",
    "save_policy",
    "save_reference",
    "saved_reference",
]

_POLICY, _OBJECTIVE = "policy.", "objective."
_REFERENCE = "reference"


def save_policy(policy: nn.Module, folder: str | Path, state: dict[str, Tensor] | None) -> None:
    """Write the policy as its own `save_pretrained` does. `state` is that of the whole PreferenceModel, where a sharded
    one had to be gathered.
    """
    policy.save_pretrained(folder, state_dict=_of(_POLICY, state))  # type: ignore[operator]


def save_objective(objective: Objective, folder: str | Path, state: dict[str, Tensor] | None) -> None:
    """Write the objective as its own `save` does; `state` as in `save_policy`."""
    objective.save(folder, _of(_OBJECTIVE, state))


def _of(part: str, state: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """The state of a part of the PreferenceModel, in the part's own names."""
    return None if state is None else {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}


@torch.no_grad()
def load_policy(policy: nn.Module, folder: str | Path) -> None:
    """Put a checkpoint's weights into the policy: its adapter's where it has one, otherwise all."""
    if isinstance(policy, PeftModel):
        weights = load_peft_weights(str(folder), device="cpu")
        set_peft_model_state_dict(policy, weights, adapter_name=policy.active_adapter)
        return
    saved = type(policy).from_pretrained(folder, dtype=policy.dtype)  # type: ignore[attr-defined]
    policy.load_state_dict(saved.state_dict())


def save_reference(model: PreferenceModel, folder: str | Path) -> None:
    """Write a reference that changes in training to FOLDER/reference, so that a resumed run finds it as it was."""
    assert model.reference is not None
    model.reference.save_pretrained(Path(folder) / _REFERENCE)  # type: ignore[operator]


def load_reference(model: PreferenceModel, folder: str | Path) -> None:
    """The inverse of `save_reference`."""
    assert model.reference is not None
    load_policy(model.reference, Path(folder) / _REFERENCE)


def saved_reference(folder: str | Path) -> Path | None:
    """Where `save_reference` has put one; None where it has not."""
    path = Path(folder) / _REFERENCE
    return path if path.is_dir() else None


def load_objective(objective: Objective, folder: str | Path) -> None:
    """Put a checkpoint's weights into the objective. Raises ValueError where it was saved with another
    configuration."""
    saved = Objective.load(folder)
    if saved.config != objective.config:
        raise ValueError(
            f"{folder} was trained with another objective than this run's, so it cannot be resumed.\n"
            f"  there: {saved.config.model_dump_json()}\n  here:  {objective.config.model_dump_json()}"
        )
    objective.load_state_dict(saved.state_dict())
