"""A new adapter of a configuration, whose names are those of the model's modules."""

from __future__ import annotations

import logging

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from prefopt.validation import did_you_mean, one_line

_LOG = logging.getLogger(__name__)

_WHERE = "peft_config (model.peft in a run file)"


def new_adapter(policy: nn.Module, peft_config: PeftConfig) -> PeftModel:
    """The model with a new adapter. Raises ValueError where PEFT makes none of the configuration, or would leave out a
    module that is to be saved whole; warns of targets that it leaves out."""
    names = [name for name, _ in policy.named_modules()]
    linear = sorted({name.rpartition(".")[2] for name, part in policy.named_modules() if isinstance(part, nn.Linear)})
    listing = f"the model's linear modules are {', '.join(linear)}"
    for part in _listed(peft_config, "modules_to_save"):
        if not any(name.endswith(part) for name in names):
            raise ValueError(
                f"modules_to_save of {_WHERE}: no module's name ends in {part!r}.{did_you_mean(part, linear)} It "
                f"would be left out; mend or drop it; {listing}"
            )
    try:
        adapted = get_peft_model(policy, peft_config)
    except Exception as error:  # whatever PEFT, or the regular expression in its configuration, raises
        message = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{_WHERE} makes no adapter ({message}); mend it: {listing}") from error
    for part in _listed(peft_config, "target_modules"):
        if not any(name == part or name.endswith(f".{part}") for name in names):
            _LOG.warning("target_modules of %s: no module is named %r, so that nothing is added there", _WHERE, part)
    return adapted


def _listed(peft_config: PeftConfig, field: str) -> list[str]:
    """The names of a field, where it is a list of them."""
    value = getattr(peft_config, field, None)
    return sorted(value) if isinstance(value, list | tuple | set) else []


def merged_model(policy: PeftModel, remedy: str) -> nn.Module:
    """The base of the policy with its active adapters in its weights. Raises ValueError, with the remedy, where PEFT
    cannot merge them."""
    try:
        merged: nn.Module = policy.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        kind = policy.active_peft_config.peft_type.value
        raise ValueError(f"the model's adapter ({kind}) cannot be merged into its weights ({error}){remedy}") from error
    return merged
