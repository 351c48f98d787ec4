"""Checkpoints: a plain `save_pretrained` policy, with the objective and its learned weights beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from prefopt.objective import Objective
from prefopt.scoring import PreferenceModel
from prefopt.scoring.adapters import REFERENCE_ADAPTER, has_reference_adapter
from prefopt.training.adapters import reject_unsaved
from prefopt.training.manifest import CheckpointError

_REFERENCE = "reference"


def save_checkpoint(
    model: PreferenceModel, folder: str | Path, state: dict[str, Tensor] | None, *, with_reference: bool
) -> None:
    """Write the policy with `save_pretrained` and the objective with `Objective.save`. Of a policy with adapters, the
    active ones are written, to FOLDER/NAME or, where the name is "default", to FOLDER, and the frozen one that is the
    reference to FOLDER/reference.

    state           the gathered state of a sharded PreferenceModel; None where it is not sharded
    with_reference  also write the reference, to FOLDER/reference: one that changes in training is part of the state
    """

    def part(prefix: str, lm: nn.Module | None = None) -> dict[str, Tensor] | None:
        if state is None:
            return None
        tensors = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        # Gathered, a head that is the embedding too is there twice; a file has it once, as without spreading.
        ties = getattr(lm, "all_tied_weights_keys", {}).items()
        return tensors | {name: tensors[source] for name, source in ties if {name, source} <= tensors.keys()}

    adapters = {}
    if isinstance(model.policy, PeftModel):
        adapters["selected_adapters"] = _adapters(model.policy)
    model.policy.save_pretrained(folder, state_dict=part("policy.", model.policy), **adapters)  # type: ignore[operator]
    model.objective.save(folder, part("objective."))
    if with_reference:
        assert model.reference is not None
        state_of_reference = part("reference_scorer.model.", model.reference)
        model.reference.save_pretrained(Path(folder) / _REFERENCE, state_dict=state_of_reference)  # type: ignore[operator]


def load_checkpoint(
    model: PreferenceModel, folder: str | Path, *, with_reference: bool, other_objective: bool = False
) -> None:
    """The inverse of `save_checkpoint`. Raises CheckpointError where the saved objective has another configuration,
    unless `other_objective`, or other parameters; ValueError where the checkpoint lacks an adapter of the policy or has
    another one as reference."""
    saved = Objective.load(folder)
    if saved.config != model.objective.config and not other_objective:
        raise CheckpointError(
            f"{folder} was trained with another objective than this run's, so it cannot be resumed: there "
            f"{saved.config.model_dump_json()}, here {model.objective.config.model_dump_json()}"
        )
    try:
        model.objective.load_state_dict(saved.state_dict())
    except RuntimeError:
        raise CheckpointError(
            f"{folder}: what its objective has learned does not fit this run's objective; resume with that objective"
        ) from None
    _load_weights(model.policy, folder)
    if with_reference:
        assert model.reference is not None
        _load_weights(model.reference, Path(folder) / _REFERENCE)


@torch.no_grad()
def _load_weights(model: nn.Module, folder: str | Path) -> None:
    """Load the adapters' weights where the model has adapters, otherwise all weights."""
    if isinstance(model, PeftModel):
        reject_unsaved(model, may_reload=True)
        for name in _adapters(model):
            path = Path(folder) if name == "default" else Path(folder) / name
            if not (path / "adapter_config.json").is_file():
                raise ValueError(
                    f"{folder}: it holds no adapter {name!r}, which this run has; give the run's own models"
                )
            weights = load_peft_weights(str(path), device="cpu")
            if name == REFERENCE_ADAPTER and not _same(weights, get_peft_model_state_dict(model, adapter_name=name)):
                raise ValueError(
                    f"{folder}: its reference adapter is another than this run's; start from the same model"
                )
            set_peft_model_state_dict(model, weights, adapter_name=name)
    else:
        saved = type(model).from_pretrained(folder, dtype=model.dtype)  # type: ignore[attr-defined]
        model.load_state_dict(saved.state_dict())


def _adapters(policy: PeftModel) -> list[str]:
    """The active adapters, and the frozen one that is the reference."""
    return [*policy.active_adapters, *([REFERENCE_ADAPTER] if has_reference_adapter(policy) else [])]


def _same(saved: dict[str, Tensor], present: dict[str, Tensor]) -> bool:
    return all(torch.equal(present[name].cpu().to(value), value) for name, value in saved.items())


def saved_adapter(folder: str | Path) -> Path | None:
    """The folder of the policy's adapter in a checkpoint; None where the policy is a whole model. Raises
    ValueError where there are several."""
    folder = Path(folder)
    files = [folder / "adapter_config.json", *sorted(folder.glob("*/adapter_config.json"))]
    others = (_REFERENCE, f"{PREFIX_CHECKPOINT_DIR}-")
    paths = [file.parent for file in files if file.parent == folder or not file.parent.name.startswith(others)]
    paths = [path for path in paths if (path / "adapter_config.json").is_file()]
    if not paths or (folder / "config.json").is_file():
        return None
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise ValueError(
            f"{folder}: it holds several adapters ({names}), and not which one the policy is; load one of them"
        )
    return paths[0]


def saved_reference(folder: str | Path) -> Path | None:
    """The folder of the reference in a checkpoint; None where it holds none."""
    path = Path(folder) / _REFERENCE
    return path if path.is_dir() else None
