"""A policy with a PEFT adapter: how it is its own reference, and what PEFT does that a call of the bare model lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn

from prefopt.scoring.fsdp import local_tensor, reshard
from prefopt.scoring.rows.layout import Layout

REFERENCE_ADAPTER = "reference"
"""The name of a frozen adapter, beside the one that trains, with which a policy is its own reference."""

_STEP = 0.1
"""Standard deviation of what is added to an adapter whose first values change nothing, so that it shows."""

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
_HALF_TOLERANCE = 0.1
"""Largest difference of log-probabilities, in nats, that rounding explains in a dtype."""


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


@torch.no_grad()
def reject_dependent_rows(name: str, model: nn.Module, two_rows: Layout) -> None:
    """Raise ValueError where an adapter, moved off its first values, answers a row in another way with other rows
    beside it, or on another call. The log-probability of a response is then not defined.

    name  what the model is called in the message
    """
    if not isinstance(model, PeftModel):
        return
    length = int(two_rows.attention_mask[0].sum())
    other = int(two_rows.attention_mask.sum(-1).argmax())
    ids, mask = two_rows.input_ids, two_rows.attention_mask
    with _moved(model):
        alone = _logps(model, ids[:1, :length], mask[:1, :length])[0]
        beside = _logps(model, ids[[0, other, other]], mask[[0, other, other]])[0, : length - 1]
    tolerance = _TOLERANCES.get(model.dtype, _HALF_TOLERANCE)
    if torch.is_autocast_enabled(ids.device.type):
        tolerance = _HALF_TOLERANCE
    if not torch.allclose(alone, beside, rtol=tolerance, atol=tolerance, equal_nan=True):
        kind = model.active_peft_config.peft_type.value
        raise ValueError(
            f"{name}: with its adapter ({kind}), the log-probabilities of a row differ by up to "
            f"{(alone - beside).abs().max().item():.2g} nats from call to call, or with the rows beside it, so that a "
            "response has none of its own; use an adapter that neither draws at random nor mixes rows, such as LoRA"
        )


def _logps(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """ids, mask [R, S] -> log-probabilities of the tokens that follow, [R, S - 1]."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -ids.shape[1] :]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


@contextmanager
def _moved(model: nn.Module) -> Iterator[None]:
    """A context in which what trains is off its values; afterwards they are what they were, bit by bit."""
    local = [local_tensor(parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    kept = [tensor.clone() for tensor in local]
    try:
        for tensor in local:
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel()))
            tensor.add_(_STEP * noise.to(tensor))
        reshard(model)
        yield
    finally:
        for tensor, value in zip(local, kept, strict=True):
            tensor.copy_(value)
        reshard(model)
        torch.clear_autocast_cache()  # which holds casts of the moved parameters
