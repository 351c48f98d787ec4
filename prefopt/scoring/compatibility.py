"""What a policy and its reference have to be, checked before the first step: decoders that hold the batch's token ids
and positions, do not look ahead, and give one answer to one batch.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from prefopt.objective import Objective
from prefopt.objective_config import ObjectiveConfig
from prefopt.scoring.adapters import reject_shared_weights, reject_task_adapters
from prefopt.scoring.forward import causal_lm, forward_hidden_states, without_gradients
from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.lm_head.token_statistics import require_one_vocabulary
from prefopt.scoring.proof import Role
from prefopt.scoring.rows.layout import Layout
from prefopt.signals import Signal
from prefopt.tokens import PreferenceBatch

_LOG = logging.getLogger(__name__)

_POSITIONS = re.compile(r"(^|\.)(wpe|pos_encoding|embed_positions|positions?_embed(dings)?)$")
"""Names of tables of positions. Rotary embeddings have none."""


@final
class ModelLimits(NamedTuple):
    """What a model can be given.

    token_ids  V: ids are 0 to V - 1, both in its embedding and in its head
    positions  rows of its table of positions; None without one, as with rotary embeddings
    """

    name: str
    token_ids: int
    positions: int | None

    @classmethod
    def from_model(cls, name: str, model: nn.Module) -> Self:
        """The limits of a policy or a reference, as `name` says."""
        lm = causal_lm(model)
        embedded = getattr(lm.get_input_embeddings(), "num_embeddings", None) or vocabulary(lm)
        return cls(f"{name} ({type(lm).__name__})", min(embedded, vocabulary(lm)), _positions(model, lm))

    def violation(self, token_id: int, positions: int) -> str | None:
        """What is wrong with a pair of which these are the highest token id, or a negative one, and the tokens of its
        longer side."""
        if token_id < 0:
            return f"token id {token_id}, and ids are not negative: what is not to be scored is masked, not in the data"
        if token_id >= self.token_ids:
            return (
                f"token id {token_id}, but the {self.name} has the ids 0 to {self.token_ids - 1}: its tokenizer is "
                f"another one, or has added tokens, for which resize_token_embeddings({token_id + 1}) makes room"
            )
        if self.positions is not None and positions > self.positions:
            return (
                f"{positions} tokens with its prompt, but the {self.name} has a table of {self.positions} positions: "
                f"set max_length to {self.positions} or less"
            )
        return None

    def require(self, batch: PreferenceBatch) -> None:
        """Raise ValueError for the pair of the batch that the model cannot be given."""
        ids = torch.cat([batch.prompt_ids, batch.chosen_ids, batch.rejected_ids], 1)
        mask = torch.cat([batch.prompt_mask, batch.chosen_mask, batch.rejected_mask], 1)
        lowest, highest = torch.where(mask, ids, 0).aminmax(dim=1)
        furthest = torch.where(lowest < 0, lowest, highest)
        positions = batch.prompt_mask.sum(1) + torch.maximum(batch.chosen_mask.sum(1), batch.rejected_mask.sum(1))
        outside = (furthest < 0) | (furthest >= self.token_ids)
        pair = outside.int().argmax() if bool(outside.any()) else positions.argmax()
        if violation := self.violation(int(furthest[pair]), int(positions[pair])):
            raise ValueError(f"pair {int(batch.rows[pair])} has {violation}")


@final
class Compatibility:
    """The checks of a PreferenceModel's models, and which of them draw at random in training mode."""

    def __init__(self) -> None:
        self._limits: list[ModelLimits] = []
        self._drawing: set[str] = set()

    def require(self, roles: Callable[[], Sequence[Role]], batch: PreferenceBatch, device: torch.device) -> None:
        """Raise ValueError for a batch that is beyond the limits of a model; for the first one, of a model also, which
        is given pairs on the device."""
        if is_first := not self._limits:
            self._limits = [ModelLimits.from_model(role.name, role.model) for role in roles()]
        for limits in self._limits:
            limits.require(batch)
        for role in roles() if is_first else ():
            if draws_in_training(role, batch, device):
                self._drawing.add(role.name)
                keep_in_evaluation(role.model)

    def keep_noise_off(self, **models: nn.Module) -> None:
        """Set those that draw back to evaluation mode, by their names."""
        for name in self._drawing:
            keep_in_evaluation(models[name])


def vocabulary(lm: PreTrainedModel) -> int:
    """The token ids of the head, also of one that is quantised or sharded."""
    head = lm.get_output_embeddings()
    head = getattr(head, "original_module", head)  # PEFT's copy of a tied head has its sizes the other way round
    return int(getattr(head, "out_features", None) or lm.config.get_text_config().vocab_size)


def require_compatible(policy: nn.Module, reference: nn.Module | None, objective: ObjectiveConfig) -> None:
    """Raise ValueError where a reference is missing or shares what trains, a model has an encoder, an adapter takes
    tasks, or an exact divergence would compare unlike vocabularies."""
    if reference is None and not objective.reference_free and not hasattr(policy, "disable_adapter"):
        raise ValueError(
            "this objective needs a reference: pass one, or a policy with a PEFT adapter, whose base it then is"
        )
    reject_task_adapters(policy)
    models = [model for model in (policy, reference) if model is not None]
    for lm in map(causal_lm, models):
        if lm.config.is_encoder_decoder:
            raise ValueError(
                f"{type(lm).__name__} is an encoder-decoder: it reads the prompt in its encoder, and log-probabilities "
                "here are those of one sequence, prompt and response. Use a decoder-only model"
            )
    if reference is not None:
        reject_shared_weights(policy, reference)
        require_one_vocabulary(objective.exact_divergence, *(vocabulary(causal_lm(model)) for model in models))


def require_one_width(policy: nn.Module, reference: nn.Module | None, objective: Objective) -> None:
    """Raise ValueError where something learns from the policy's states, and those of the reference, by whose size an
    objective is built, have another size."""
    sizes = [causal_lm(model or policy).config.get_text_config().hidden_size for model in (policy, reference)]
    learners = [part for part in objective.learners if Signal.LAST_STATES in part.requires]
    if learners and sizes[0] != sizes[1]:
        raise ValueError(
            f"{learners[0].kind} {learners[0].name!r} learns from the policy's states, which are of size {sizes[0]}, "
            f"and the reference's are of size {sizes[1]}; take a reference of the policy's size"
        )


@without_gradients()
def draws_in_training(role: Role, batch: PreferenceBatch, device: torch.device) -> bool:
    """Whether a model that takes its inputs on a device draws random numbers in training mode, as for a jitter of its
    router.

    Two plain calls are compared, on [prompt | response] and [prompt | another response] of the batch's first pair,
    whose first tokens are predicted from the prompt alone. Raises ValueError for a model that looks ahead, or gives
    two answers in evaluation mode too.
    """
    name, model = role.name, role.model
    layout = Layout.two_rows(_unlike_responses(batch, vocabulary(causal_lm(model)))).to(device)
    modes = {module: module.training for module in model.modules()}
    try:
        model.train()
        with role.context():
            logits, agree, draws = _two_calls(model, layout)
            if draws or not agree:  # what was drawn may not matter for these tokens, and for others it may
                keep_in_evaluation(model)
                logits, agree, _ = _two_calls(model, layout)
    finally:
        for module, training in modes.items():
            module.training = training
    kind = type(causal_lm(model)).__name__
    if not agree:
        raise ValueError(
            f"the {name} ({kind}) gives two answers to one batch: it draws at random, in evaluation mode too, and "
            "log-ratios would measure that. Turn it off in the model's configuration (hash_seed, noise), or use another"
        )
    first, other = logits[:: len(logits) // 2].to(wide(logits.dtype)).log_softmax(-1)
    difference = (first - other).abs().nan_to_num(0, posinf=0).max().item()
    if difference > _rounding(logits):
        raise ValueError(
            f"the {name} ({kind}) is not causal: log-probabilities of the first token change by {difference:.2g} nats "
            "with the tokens after it. Use a causal language model, or set is_decoder where its configuration has it"
        )
    if draws:
        _LOG.info("the %s (%s) draws at random in training mode; its layers stay in evaluation mode", name, kind)
    return draws


def keep_in_evaluation(model: nn.Module) -> None:
    """Set all modules to evaluation mode but those that read it to recompute activations."""
    for module in model.modules():
        if not isinstance(module, GradientCheckpointingLayer | PreTrainedModel):
            module.training = False


def _unlike_responses(batch: PreferenceBatch, token_ids: int) -> PreferenceBatch:
    """One pair: the chosen response of the first, and the same with other tokens."""
    prompt, chosen = batch.prompt_ids[0][batch.prompt_mask[0]], batch.chosen_ids[0][batch.chosen_mask[0]]
    sides = ([ids.tolist()] for ids in (prompt, chosen, (chosen + token_ids // 2) % token_ids))
    return PreferenceBatch.from_ids(*sides, pad_token_id=0)


def _two_calls(model: nn.Module, layout: Layout) -> tuple[Tensor, bool, bool]:
    """Logits [M, V] of a plain call, whether a second one has the same but for rounding, and whether either drew from a
    random number generator."""
    device = next(model.parameters()).device
    # MPS has one generator without a device, of which only its effect is seen.
    accelerator = None if device.type in ("cpu", "mps") else torch.get_device_module(device)
    forked = {"devices": []} if accelerator is None else {"devices": [device.index], "device_type": device.type}
    with torch.random.fork_rng(**forked):
        before = _generators(accelerator, device)
        one, two = (forward_hidden_states(model, layout, plain_forward=True).logits for _ in range(2))
        drawn = any(not torch.equal(*states) for states in zip(before, _generators(accelerator, device), strict=True))
    assert one is not None
    assert two is not None
    agree = torch.equal(one, two) or bool(one.isnan().any())  # NaN ends the step that it is in anyway
    return one, agree or (not drawn and (one - two).abs().max().item() <= _rounding(one)), drawn


def _generators(accelerator: Any, device: torch.device) -> Iterable[Tensor]:
    """States of the random number generators that a model may draw from."""
    return [torch.get_rng_state(), *([] if accelerator is None else [accelerator.get_rng_state(device)])]


def _rounding(values: Tensor) -> float:
    """Most that rounding changes values of this size, in nats."""
    size = max(1.0, values.nan_to_num(0, 0, 0).abs().max().item())
    return min(256 * torch.finfo(values.dtype).eps * size, 0.1)


def _positions(model: nn.Module, lm: PreTrainedModel) -> int | None:
    """Positions of the smallest table, less those that an adapter's virtual tokens take."""
    declared = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(declared, int):
        return None
    rows = [len(buffer) for name, buffer in lm.named_buffers() if buffer.ndim == 2 and _POSITIONS.search(name)]
    for name, module in lm.named_modules():
        if isinstance(module, nn.Embedding) and _POSITIONS.search(name):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1  # as in RoBERTa
            rows.append(module.num_embeddings - getattr(module, "offset", reserved))
    virtual = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    tables = [count for count in rows if count >= declared - 8]  # not those of images or sounds
    return min(tables) - virtual if tables else None
