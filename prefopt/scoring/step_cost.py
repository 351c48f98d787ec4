"""What a step will take, told from shapes before anything is computed.

The models are traced on tensors without storage, so their work and what they keep for backward are counted operation by
operation, whatever the architecture, the adapter or the checkpointing. The head, the reference and the signals follow
from the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from prefopt.component import Signal, StreamedDivergence
from prefopt.scoring.chunked_loss import groups
from prefopt.scoring.forward import causal_lm
from prefopt.scoring.lm_head.online_softmax import BLOCK_BYTES
from prefopt.scoring.lm_head.token_statistics import chunk_of, tokens_within
from prefopt.scoring.model import PreferenceModel
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import Limits, layout_of
from prefopt.tokens import PreferenceBatch

__all__ = ["Part", "StepPlan", "plan_step"]


@final
@dataclass(frozen=True)
class Part:
    """A part of a step: its work, in floating-point operations, and the memory that it holds when backward begins."""

    name: str
    operations: float
    bytes: int


@final
@dataclass(frozen=True)
class StepPlan:
    """The parts of a forward and backward pass over one batch, beyond weights, gradients and the optimizer's state."""

    parts: tuple[Part, ...]

    @property
    def operations(self) -> float:
        """Of all parts."""
        return sum(part.operations for part in self.parts)

    @property
    def bytes(self) -> int:
        """Of all parts: the most that a step holds at once."""
        return sum(part.bytes for part in self.parts)


class _Trace(NamedTuple):
    forward: float
    backward: float
    kept: int


def plan_step(model: PreferenceModel, batch: PreferenceBatch) -> StepPlan:
    """The plan of a training step on a batch like this one: only its shapes count."""
    layout = _layout(model, batch)
    tokens = int(layout.mask.sum())
    policy = _traced(model.policy, layout, trains=True)
    embedding = causal_lm(model.policy).get_input_embeddings().weight
    gradient = embedding.nbytes if embedding.requires_grad else 0  # dense, and new in every pass
    parts = [Part("policy", policy.forward + policy.backward, policy.kept + gradient), _head(model, layout)]
    if not model.reference_free:
        asked = model.reference_cache is None
        reference = _traced(model.reference_model, layout, trains=False).forward if asked else 0.0
        parts.append(Part("reference", reference, 0))
        parts.append(_signals(model, layout, tokens))
    return StepPlan(tuple(parts))


def _layout(model: PreferenceModel, batch: PreferenceBatch) -> Layout:
    """The rows that the model will run, where its models agree that pairs may share one."""
    if model.plain or not model.shared_prefix:
        return Layout.of(batch)
    models = [model.policy] if model.reference_free else [model.policy, model.reference_model]
    limits = Limits.of(causal_lm(each) for each in models)
    return layout_of(batch, model.config.get_text_config().hidden_size, limits)


def _head(model: PreferenceModel, layout: Layout) -> Part:
    """Products over the vocabulary: forward, again where logits are not kept, and for both gradients."""
    weight = causal_lm(model.policy).get_output_embeddings().weight
    vocabulary, hidden = weight.shape
    config = model.objective.config
    exact = config.exact_divergence
    models = 1 if exact is None else 2
    width = vocabulary * 4
    most = tokens_within(model.logits_budget, weight, exact)
    tokens = int(layout.mask.sum())
    together = [len(part.tokens) for part in groups(layout.mask, most)]
    if not model.objective.takes_pairs_apart:
        together = [tokens]
    again = sum(max(0, count - most) for count in together)
    streams = exact is None or isinstance(exact, StreamedDivergence)
    passing = BLOCK_BYTES * (2 * models - 1) if streams else 2 * models * chunk_of(width) * width
    asked = not model.reference_free and model.reference_cache is None
    product = 2.0 * hidden * vocabulary
    forward = product * tokens * (2 if exact or asked else 1)
    backward = product * tokens * (2 if weight.requires_grad else 1)
    gradient = weight.numel() * 4 if weight.requires_grad else 0
    held = models * min(max(together), most) * width + passing + gradient
    return Part(
        "head",
        forward + models * product * again + backward,
        held + 2 * tokens * hidden * weight.element_size(),
    )


def _signals(model: PreferenceModel, layout: Layout, tokens: int) -> Part:
    """The reference's states, as they are and as the weightings that learn from them keep them."""
    config = causal_lm(model.reference_model).config.get_text_config()
    signals = model.objective.config.requires
    of_layers = len(signals & {Signal.REF_HIDDEN_STATES, Signal.REF_TOKEN_STATES}) * config.num_hidden_layers
    states = of_layers + len(signals & {Signal.REF_EMBEDDINGS})
    whole = states * layout.mask.numel() * config.hidden_size * 4
    masks = sum(1 for module in model.objective.children() if any(True for _ in module.parameters()))
    read = (config.num_hidden_layers if of_layers else 1) * tokens * config.hidden_size
    return Part("signals and masks", 10.0 * masks * read, whole + masks * read * 4)


def _traced(model: nn.Module, layout: Layout, *, trains: bool) -> _Trace:
    lm = causal_lm(model)
    kept: dict[int, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.set_grad_enabled(trains):
        stand_ins = [mode.from_tensor(parameter) for parameter in lm.parameters()]  # held, so that they stay the same
        weights = {each.untyped_storage()._cdata for each in stand_ins}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        inputs = {name: mode.from_tensor(value) for name, value in layout.inputs(lm.dtype).items()}
        saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with FlopCounterMode(display=False) as forward, saving:
            states = lm.base_model(**inputs, use_cache=False).last_hidden_state
        leaves = [p for p in lm.base_model.parameters() if p.requires_grad] if trains else []
        with FlopCounterMode(display=False) as backward:
            if leaves:
                torch.autograd.grad(states.sum(), leaves, allow_unused=True)
    checkpoints = lm.config.get_text_config().num_hidden_layers * states.nbytes if lm.is_activation_checkpointing else 0
    return _Trace(forward.get_total_flops(), backward.get_total_flops(), sum(kept.values()) + checkpoints)
