"""The one equation.

    r_t  = w_t log(pi / pi_ref)_t + alpha v_t D_t                           per-token reward
    r(y) = beta shaping(r_1 .. r_T)                                         response reward
    loss = mean over pairs of link(r(y_chosen), r(y_rejected)) + regularisers + penalties of weightings

TDPO writes the divergence as a difference between the two responses; regrouped, each response carries its own, so that
every component but the preference loss sees single responses, and the margin that is reported is the one that is
trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self, final

import torch
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefopt.columns import Column
from prefopt.component import (
    Component,
    Divergence,
    ExactDivergence,
    PreferenceLoss,
    Regularizer,
    RewardShaping,
    Signal,
    TokenWeighting,
    weights_and_penalty,
)
from prefopt.losses import LogisticLoss
from prefopt.metrics import Mean, objective_metrics
from prefopt.registry import ComponentError, provenance, resolve, with_recorded_versions
from prefopt.shapings import SumShaping
from prefopt.tokens import TokenBatch, masked_sum
from prefopt.validation import explain
from prefopt.weightings import UniformWeighting

__all__ = ["DivergenceTerm", "Mean", "Objective", "ObjectiveConfig", "ObjectiveOutput"]

WeightingSlot = Annotated[SerializeAsAny[TokenWeighting], BeforeValidator(partial(resolve, TokenWeighting))]
DivergenceSlot = Annotated[SerializeAsAny[Divergence], BeforeValidator(partial(resolve, Divergence))]
ShapingSlot = Annotated[SerializeAsAny[RewardShaping], BeforeValidator(partial(resolve, RewardShaping))]
LossSlot = Annotated[SerializeAsAny[PreferenceLoss], BeforeValidator(partial(resolve, PreferenceLoss))]
RegularizerSlot = Annotated[SerializeAsAny[Regularizer], BeforeValidator(partial(resolve, Regularizer))]


@final
class DivergenceTerm(BaseModel):
    """alpha v_t D_t: which divergence, how much of it, and under which weights.

    weighting      None: v = w, the weights of the log-ratios
    detach_chosen  no gradient to the policy through the chosen response's divergence (TDPO2, arXiv 2404.11999)

    >>> DivergenceTerm(measure="forward_kl", alpha=0.5).measure.name
    'forward_kl'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: DivergenceSlot
    alpha: float = Field(default=1.0, ge=0)
    weighting: WeightingSlot | None = None
    detach_chosen: bool = False


@final
class ObjectiveConfig(BaseModel):
    """An objective as a value: the five slots and beta. Round-trips through JSON and YAML; a slot takes a component, a
    mapping with its `name` and fields, or just its name.

    beta            strength of the rewards
    reference_free  r_t = w_t log pi_t, and no reference model is run

    >>> ObjectiveConfig(beta=0.5, loss={"name": "hinge"}).loss.margin
    1.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(default=0.1, gt=0)
    weighting: WeightingSlot = UniformWeighting()
    divergence: DivergenceTerm | None = None
    shaping: ShapingSlot = SumShaping()
    loss: LossSlot = LogisticLoss()
    regularizers: tuple[RegularizerSlot, ...] = ()
    reference_free: bool = False

    @property
    def components(self) -> tuple[Component, ...]:
        """Every component in a slot."""
        term = self.divergence
        of_term = () if term is None else (term.measure, *((term.weighting,) if term.weighting else ()))
        return (self.weighting, *of_term, self.shaping, self.loss, *self.regularizers)

    @property
    def requires(self) -> frozenset[Signal]:
        """The signals that the scorer must collect."""
        signals = frozenset({Signal.DIVERGENCE}) if self.divergence else frozenset()
        return signals.union(*(component.requires for component in self.components))

    @property
    def couples_pairs(self) -> bool:
        """Whether the loss of a pair depends on the other pairs of its batch."""
        return self.loss.couples_pairs

    @property
    def exact_divergence(self) -> ExactDivergence | None:
        """The divergence over the whole vocabulary; None where there is none, or an estimate."""
        measure = None if self.divergence is None else self.divergence.measure
        return measure if isinstance(measure, ExactDivergence) else None

    @property
    def activation_kinds(self) -> frozenset[str]:
        """The kinds of activation site that the scorer must collect."""
        return reduce(frozenset.union, (component.activation_kinds for component in self.components))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The extra columns that the data must have, in the order of their names."""
        columns = reduce(frozenset.union, (component.columns for component in self.components))
        return tuple(sorted(columns, key=lambda column: column.name))

    def reading(self, column: Column) -> str:
        """The component that reads a column, in words."""
        part = next(part for part in self.components if column in part.columns)
        return f"{part.kind} {part.name!r}"

    @model_validator(mode="after")
    def _columns_have_names_of_their_own(self) -> Self:
        for one, two in pairwise(self.columns):
            if one.name == two.name:
                raise ValueError(f"two components read the column {one.name!r}, but not alike: {one} and {two}")
        return self

    @model_validator(mode="after")
    def _can_be_scored(self) -> Self:
        for component in self.components:
            if Signal.DIVERGENCE in component.requires and self.divergence is None:
                raise ValueError(
                    f"{component.kind} {component.name!r} reads the divergence, but `divergence` is not set"
                )
            if self.reference_free and any(signal.of_reference for signal in component.requires):
                raise ValueError(
                    f"{component.kind} {component.name!r} reads signals of the reference, but `reference_free` is true"
                )
        if self.divergence is not None and self.reference_free:
            raise ValueError("`divergence` measures the distance from the reference, but `reference_free` is true")
        return self


@final
@dataclass(frozen=True, eq=False)
class ObjectiveOutput:
    """What an objective says of a batch. Rewards, weights and metrics are detached.

    loss []  mean of losses [B]; rewards [N], the trained ones; weights, divergence_weights [N, T] (the latter None
    without a divergence term); mask [N, T]; metrics by name
    """

    loss: Tensor
    losses: Tensor
    rewards: Tensor
    weights: Tensor
    divergence_weights: Tensor | None
    tokens: TokenBatch
    metrics: dict[str, Mean]


@final
class Objective(nn.Module):
    """The objective as a function: (TokenBatch) -> ObjectiveOutput, with what its weightings learn and its loss keeps.

    num_layers and hidden_size describe the reference, for weightings that learn from its states.

    >>> Objective(ObjectiveConfig(weighting="sparse"), num_layers=2, hidden_size=8).weighting.weight.shape
    torch.Size([2, 8])
    """

    def __init__(self, config: ObjectiveConfig, *, num_layers: int, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.shape = {"num_layers": num_layers, "hidden_size": hidden_size}
        self.provenance = provenance(config.components)  # here, lest a broken plugin stop a run when it comes to save
        self.weighting = config.weighting.build(**self.shape)
        term = config.divergence
        weighting = None if term is None else term.weighting
        self.divergence_weighting = None if weighting is None else weighting.build(**self.shape)
        self.loss = config.loss.build()

    @property
    def takes_pairs_apart(self) -> bool:
        """Whether pairs may come a few at a time: none depends on another, and the loss keeps nothing from pair to
        pair."""
        keeps = isinstance(self.loss, nn.Module) and any(True for _ in self.loss.buffers())
        return not self.config.couples_pairs and not keeps

    def forward(self, tokens: TokenBatch) -> ObjectiveOutput:
        """The one equation, in float32 even under autocast. Raises ValueError where the batch lacks a column."""
        config, mask = self.config, tokens.mask
        for column in config.columns:
            if column.name not in tokens.columns:
                raise ValueError(f"the batch lacks the column {column.name!r}, which {config.reading(column)} reads")
        with torch.autocast(mask.device.type, enabled=False):
            w, penalty = weights_and_penalty(self.weighting, tokens)
            penalties = [penalty]
            log_ratios = tokens.logps if config.reference_free else tokens.logps - tokens.ref_logps
            of_log_ratios = token_rewards = torch.where(mask, w * torch.where(mask, log_ratios, 0), 0)
            v = None
            if config.divergence is not None:
                assert tokens.divergence is not None
                v = w
                if self.divergence_weighting is not None:
                    v, penalty = weights_and_penalty(self.divergence_weighting, tokens)
                    penalties.append(penalty)
                divergence = torch.where(mask, tokens.divergence, 0)
                if config.divergence.detach_chosen:
                    divergence = torch.where(tokens.is_chosen[:, None], divergence.detach(), divergence)
                token_rewards = token_rewards + config.divergence.alpha * v * divergence
            rewards = config.beta * config.shaping(token_rewards, mask, tokens.is_chosen)
            chosen, rejected = rewards.chunk(2)
            losses = self.loss(chosen, rejected, tokens)
            for regularizer in config.regularizers:
                losses = losses + regularizer(tokens, w, torch.zeros_like(w) if v is None else v)
            for penalty in penalties:
                if penalty is not None:
                    losses = losses + masked_sum(penalty, mask).view(2, -1).sum(0)
            with torch.no_grad():
                alone = None if v is None else config.beta * config.shaping(of_log_ratios, mask, tokens.is_chosen)
        return ObjectiveOutput(
            loss=losses.mean(),
            losses=losses,
            rewards=rewards.detach(),
            weights=w.detach(),
            divergence_weights=None if v is None else v.detach(),
            tokens=tokens,
            metrics=objective_metrics(config.beta, tokens, rewards, alone, w, v),
        )

    def at_reference(self, tokens: TokenBatch) -> ObjectiveOutput:
        """What this objective says where the policy is the reference: ln 2 for the logistic loss, plus regularisers."""
        divergence = None if tokens.divergence is None else torch.zeros_like(tokens.divergence)
        return self.forward(tokens.replace(logps=tokens.ref_logps, divergence=divergence))

    def save(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write objective.yaml and, where parameters are learned, objective.safetensors: those of `state`, if given."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = {"objective": self.config.model_dump(mode="json"), **self.shape, "components": self.provenance}
        (folder / "objective.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
        tensors = self.state_dict() if state is None else state
        if tensors:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, folder / "objective.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The inverse of `save`. Raises FileNotFoundError where the folder holds no objective or not its weights, and
        ComponentError, with what to install, where a component is not installed."""
        folder = Path(folder)
        file = folder / "objective.yaml"
        description = yaml.safe_load(file.read_text(encoding="utf-8"))
        try:
            with with_recorded_versions(description.pop("components", {})):
                config = ObjectiveConfig.model_validate(description.pop("objective"))
        except ValidationError as error:
            raise ComponentError(f"{file}: {' '.join(explain(error, ObjectiveConfig))}") from error
        objective = cls(config, **description)
        if objective.state_dict():
            objective.load_state_dict(load_file(folder / "objective.safetensors"))
        return objective
