"""A policy with a PEFT adapter: how it is its own reference, and what PEFT does that a call of the bare model lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftConfig, PeftModel
from torch import nn

from prefopt.scoring.fsdp import reshard

REFERENCE_ADAPTER = "reference"
"""The name of a frozen adapter, beside the one that trains, with which a policy is its own reference."""


@contextmanager
def as_reference(policy: PeftModel) -> Iterator[None]:
    """A context in which the policy is its own reference: with its adapter off, or with `REFERENCE_ADAPTER` on."""
    if not has_reference_adapter(policy):
        with policy.disable_adapter():
            yield
        return
    names, active = policy.active_adapters, policy.active_adapter
    reshard(policy)  # lest what is gathered be frozen in place of what trains
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    policy.set_adapter(REFERENCE_ADAPTER)
    policy.requires_grad_(False)
    try:
        yield
    finally:
        reshard(policy)
        policy.set_adapter(active)
        if len(names) > 1:
            policy.base_model.set_adapter(names)
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(name in trained)


def has_reference_adapter(policy: nn.Module) -> bool:
    """Whether a frozen adapter, and not the bare base, is what the policy's reference is made of."""
    return isinstance(policy, PeftModel) and REFERENCE_ADAPTER in set(policy.peft_config) - set(policy.active_adapters)


def reference_configs(model: nn.Module) -> list[PeftConfig]:
    """The configurations of the adapters that a reference consists of, the policy where that is its own reference: of
    `REFERENCE_ADAPTER`, or of a model that does not train; [] of a policy with its adapter off."""
    if not isinstance(model, PeftModel):
        return []
    if has_reference_adapter(model):
        return [model.peft_config[REFERENCE_ADAPTER]]
    trains = any(parameter.requires_grad for parameter in model.parameters())
    return [] if trains else [model.peft_config[name] for name in model.active_adapters]


def needs_plain_call(model: nn.Module) -> str | None:
    """Why only PEFT's own call of the model takes its adapter in, in words; None where the model's parts do too."""
    if not isinstance(model, PeftModel):
        return None
    configs = [model.peft_config[name] for name in model.active_adapters]
    if any(config.is_prompt_learning for config in configs):
        return "its adapter acts before the first token, where only the model's own call takes it in"
    if any(getattr(config, "alora_invocation_tokens", None) for config in configs):
        return "its adapter acts from its invocation tokens on, which only the model's own call looks for"
    lm = model.get_base_model()
    with model._enable_peft_forward_hooks():
        hooks = [*lm._forward_pre_hooks.values(), *lm._forward_hooks.values()]
    if any(str(getattr(hook, "__module__", "")).startswith("peft.") for hook in hooks):
        return "its adapter hooks into the model's own call (as ShadowPEFT and X-LoRA do)"
    return None


def keep_draws_off(model: nn.Module) -> None:
    """Set the layers of PEFT to evaluation mode, in which none draws at random, as dropout is off: those of PVeRA and
    MonteCLoRA, rank and module dropout of LoHa, LoKr, BOFT and OFT. All else of training is the same there."""
    for module in model.modules():
        if type(module).__module__.startswith("peft.tuners."):
            module.training = False


def reject_shared_weights(policy: nn.Module, reference: nn.Module) -> None:
    """Raise ValueError where the reference holds weights that the policy trains: to freeze it would freeze the policy,
    and what it says would change in training."""
    trained = {id(parameter) for parameter in policy.parameters() if parameter.requires_grad}
    names = [name for name, parameter in reference.named_parameters() if id(parameter) in trained]
    if names:
        raise ValueError(
            f"the reference holds {len(names)} parameters that the policy trains ({names[0]} and others), so that the "
            "two are one model; leave the reference (ref_model) out, which keeps the model as it was given, or load it "
            "a second time"
        )


def reject_task_adapters(model: nn.Module) -> None:
    """Raise ValueError where an adapter needs a task for each row."""
    if isinstance(model, PeftModel):
        config = model.active_peft_config
        if hasattr(config, "num_tasks") or hasattr(config, "n_tasks"):
            raise ValueError(
                f"the adapter ({config.peft_type.value}) needs a task for each row, and preference data have none; use "
                "an adapter without tasks, such as LoRA"
            )
