"""Predicted cost of a step, from shapes alone: floating-point operations and bytes of memory.

The models are traced on tensors without storage, so that their operations and saved tensors are counted for any
architecture, adapter or checkpointing. Head, reference and signals are computed from their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from prefopt.component import StreamedDivergence
from prefopt.scoring.forward import backbone, causal_lm
from prefopt.scoring.input_gradient import embeddings_as_leaf
from prefopt.scoring.lm_head.chunk_sizes import max_chunk_tokens, max_saved_tokens
from prefopt.scoring.lm_head.fused import COMPILED
from prefopt.scoring.lm_head.vocabulary_blocks import block_rows, workers_for
from prefopt.scoring.model import PreferenceModel
from prefopt.scoring.pair_groups import group_pairs
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import RowLimits, best_layout
from prefopt.scoring.tied_embedding import takes_sparse_gradient
from prefopt.signals import SIGNALS
from prefopt.tokens import PreferenceBatch


@final
@dataclass(frozen=True)
class Part:
    """A part of a step: its floating-point operations, and the bytes that it holds when backward begins."""

    name: str
    operations: float
    bytes: int


@final
@dataclass(frozen=True)
class StepPlan:
    """The parts of a forward and backward pass over one batch, without weights, gradients and optimizer state."""

    parts: tuple[Part, ...]

    @property
    def operations(self) -> float:
        """The sum over all parts."""
        return sum(part.operations for part in self.parts)

    @property
    def bytes(self) -> int:
        """The sum over all parts: the most that a step holds at once."""
        return sum(part.bytes for part in self.parts)


def plan_step(model: PreferenceModel, batch: PreferenceBatch) -> StepPlan:
    """The plan of a training step on a batch of these shapes."""
    layout = _layout(model, batch)
    tokens = int(layout.mask.sum())
    forward, backward, saved = _traced(model.policy, layout, trains=True)
    lm = causal_lm(model.policy)
    embedding, sparse = lm.get_input_embeddings().weight, takes_sparse_gradient(lm) and not model.uses_plain_forward
    gradient = embedding.nbytes if embedding.requires_grad and not sparse else 0  # new in every pass
    parts = [Part("policy", forward + backward, saved + gradient), _head(model, layout)]
    if not model.reference_free:
        runs = model.reference_scorer.cache_folder is None
        reference = _traced(model.reference_model, layout, trains=False)[0] if runs else 0.0
        parts.append(Part("reference", reference, 0))
        parts.append(_signals(model, layout, tokens))
    parts.extend(_input_gradients(model, layout))
    return StepPlan(tuple(parts))


def _input_gradients(model: PreferenceModel, layout: Layout) -> Iterator[Part]:
    """The passes that are run for gradients at input embeddings, before those of the step; a cache has the reference's.
    They hold nothing when the step's own backward begins."""
    specs = [SIGNALS[signal] for signal in model.objective.config.requires if SIGNALS[signal].input_gradient]
    if any(not spec.of_reference for spec in specs):
        yield Part("input gradients", sum(_traced(model.policy, layout, trains=False, of_inputs=True)[:2]), 0)
    if any(spec.of_reference for spec in specs) and model.reference_scorer.cache_folder is None:
        operations = sum(_traced(model.reference_model, layout, trains=False, of_inputs=True)[:2])
        yield Part("input gradients of the reference", operations, 0)


def _layout(model: PreferenceModel, batch: PreferenceBatch) -> Layout:
    """The layout that the model will choose, if its models allow shared rows."""
    if model.uses_plain_forward or not model.shared_prefix:
        return Layout.two_rows(batch)
    models = [model.policy] if model.reference_free else [model.policy, model.reference_model]
    limits = RowLimits.from_models(map(causal_lm, models))
    return best_layout(batch, model.config.get_text_config().hidden_size, limits)


def _head(model: PreferenceModel, layout: Layout) -> Part:
    """Products over the vocabulary: forward, again where logits are not saved, and for both gradients. Of a pair beyond
    the budget, those of gradients that are not foreseen: no less."""
    weight = causal_lm(model.policy).get_output_embeddings().weight
    vocabulary, hidden = weight.shape
    config = model.objective.config
    exact = config.exact_divergence
    models = 1 if exact is None else 2
    width = vocabulary * 4
    max_saved = max_saved_tokens(model.logits_budget, weight, exact)
    tokens = int(layout.mask.sum())
    groups = [len(group.tokens) for group in group_pairs(layout.mask, max_saved)]
    if not model.objective.takes_pairs_apart:
        groups = [tokens]
    recomputed = sum(max(0, count - max_saved) for count in groups)
    blockwise = exact is None or isinstance(exact, StreamedDivergence)
    chunk_tokens = min(max(groups), max_chunk_tokens(model.logits_budget, weight, exact))
    chunk = chunk_tokens * width
    if not blockwise:
        temporary = 2 * models * chunk
    elif weight.device.type == "cpu":
        rows = block_rows(chunk_tokens, weight.dtype)
        temporary = workers_for(vocabulary, rows).count * chunk_tokens * (rows * (2 * models - 1) + hidden) * 4
    else:  # the gradient in the products' precision, what passes make that are not compiled, and logits beyond budget
        written = 0 if weight.device.type in COMPILED else 2 * models
        temporary = chunk * (weight.element_size() / 4 + written) + (models * chunk if recomputed else 0)
    runs_reference = not model.reference_free and model.reference_scorer.cache_folder is None
    product = 2.0 * hidden * vocabulary
    forward = product * tokens * (2 if exact or runs_reference else 1)
    if runs_reference and any(SIGNALS[signal].takes_ref_logits for signal in config.requires):
        forward += product * tokens  # beside that of the statistics
    backward = product * tokens * (2 if weight.requires_grad else 1)
    gradient = weight.numel() * 4 if weight.requires_grad else 0
    saved = models * min(max(groups), max_saved) * width + 2 * tokens * hidden * weight.element_size()
    return Part("head", forward + models * product * recomputed + backward, saved + int(temporary) + gradient)


def _signals(model: PreferenceModel, layout: Layout, tokens: int) -> Part:
    """The reference's states, and what the weightings that learn from them save of them."""
    config = causal_lm(model.reference_model).config.get_text_config()
    states = [SIGNALS[signal].states(config.num_hidden_layers) for signal in model.objective.config.requires]
    padded = sum(states) * layout.mask.numel() * config.hidden_size * 4
    masks = sum(1 for module in model.objective.children() if any(True for _ in module.parameters()))
    read = max([1, *states]) * tokens * config.hidden_size
    return Part("signals and masks", 10.0 * masks * read, padded + masks * read * 4)


def _traced(model: nn.Module, layout: Layout, *, trains: bool, of_inputs: bool = False) -> tuple[float, float, int]:
    """Operations forward and backward, and bytes saved for backward: towards the parameters where the model `trains`,
    or towards the input embeddings alone."""
    lm = causal_lm(model)
    body = backbone(lm)
    saved: dict[int, int] = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.set_grad_enabled(trains or of_inputs):
        fakes = [mode.from_tensor(parameter) for parameter in lm.parameters()]  # held, so that they stay the same
        weights = {fake.untyped_storage()._cdata for fake in fakes}

        def save(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = storage.nbytes()
            return tensor

        inputs = {name: mode.from_tensor(value) for name, value in layout.inputs(lm.dtype).items()}
        saving = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
        embeddings: AbstractContextManager[list[Tensor]] = embeddings_as_leaf(lm) if of_inputs else nullcontext([])
        with FlopCounterMode(display=False) as forward, saving, embeddings as inputs_of_layers:
            states = body(**inputs, use_cache=False).last_hidden_state
        leaves = [*inputs_of_layers, *(p for p in body.parameters() if p.requires_grad and trains)]
        with FlopCounterMode(display=False) as backward:
            if leaves:
                torch.autograd.grad(states.sum(), leaves, allow_unused=True)
    checkpoints = _kept_checkpoints(lm) * states.nbytes if trains else 0
    return forward.get_total_flops(), backward.get_total_flops(), sum(saved.values()) + checkpoints


def _kept_checkpoints(lm: PreTrainedModel) -> int:
    """The layers whose inputs are kept on the device to recompute the rest: none where they are offloaded."""
    layers = [layer for layer in lm.modules() if isinstance(layer, GradientCheckpointingLayer)]
    kept = [layer for layer in layers if layer.gradient_checkpointing and layer.training]
    if any(layer._gradient_checkpointing_func.func is not checkpoint for layer in kept):  # within save_on_cpu
        return 0
    if not layers and lm.is_activation_checkpointing:  # modelling code with a loop of its own
        return int(lm.config.get_text_config().num_hidden_layers)
    return len(kept)
