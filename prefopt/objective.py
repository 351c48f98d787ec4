"""The one equation.

    r_t  = w_t log(pi / pi_ref)_t + alpha v_t D_t                           per-token reward
    r(y) = beta shaping(r_1 .. r_T)                                         response reward
    loss = mean over pairs of link(r(y_chosen), r(y_rejected)) + regularisers + penalties of weightings

With units the shaping takes the reward of each unit of a response, and the link that of each two partners; their mean
or sum is the link of the pair.

TDPO writes the divergence as a difference between the two responses; regrouped, each response carries its own, so that
every component but the preference loss sees single responses, and the margin that is reported is the one that is
trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeGuard, final

import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefopt.component import Component, TokenWeighting, Units, WeightFunction, built, weights_and_penalty
from prefopt.metrics import Mean, objective_metrics
from prefopt.objective_config import ObjectiveConfig
from prefopt.registry import ComponentError, provenance, with_recorded_versions
from prefopt.tokens import TokenBatch, masked_sum
from prefopt.unit_pairs import UnitPairs
from prefopt.validation import explain
from prefopt.whole_files import publish_files, remove, unfinished_name

__all__ = ["Mean", "Objective", "ObjectiveOutput"]


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
    """The objective as a function: (TokenBatch) -> ObjectiveOutput, with what its weightings and units learn and its
    loss keeps.

    num_layers and hidden_size describe the reference, for what learns from its states, and the policy, where something
    learns from the policy's.

    >>> Objective(ObjectiveConfig(weighting="sparse"), num_layers=2, hidden_size=8).weighting.weight.shape
    torch.Size([2, 8])
    """

    def __init__(self, config: ObjectiveConfig, *, num_layers: int, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.shape = {"num_layers": num_layers, "hidden_size": hidden_size}
        self.provenance = provenance(config.components)  # here, lest a broken plugin stop a run when it comes to save
        self.weighting = built(config.weighting, **self.shape)
        term = config.divergence
        weighting = None if term is None else term.weighting
        self.divergence_weighting = None if weighting is None else built(weighting, **self.shape)
        self.units = None if config.units is None else built(config.units, **self.shape)
        self.loss = built(config.loss)
        self._learn = frozenset(self.learned_masks)

    @property
    def weightings(self) -> dict[str, TokenWeighting]:
        """The token weightings that are called, by the name of their metrics."""
        term = self.config.divergence
        other = None if term is None else term.weighting
        return {"weights": self.config.weighting} | ({} if other is None else {"divergence_weights": other})

    @property
    def learned_masks(self) -> dict[str, nn.Module]:
        """The weightings that have learned parameters, by the name of their metrics."""
        functions = {"weights": self.weighting, "divergence_weights": self.divergence_weighting}
        return {name: function for name, function in functions.items() if _has_parameters(function)}

    @property
    def learners(self) -> tuple[Component, ...]:
        """The components that have learned parameters."""
        masks = (self.weightings[name] for name in self.learned_masks)
        units = self.config.units
        return (*masks, *((units,) if units is not None and _has_parameters(self.units) else ()))

    @property
    def takes_pairs_apart(self) -> bool:
        """Whether pairs may come a few at a time: none depends on another, and the loss keeps nothing from pair to
        pair."""
        keeps = isinstance(self.loss, nn.Module) and any(True for _ in self.loss.buffers())
        return not self.config.couples_pairs and not keeps

    def forward(self, tokens: TokenBatch) -> ObjectiveOutput:
        """The one equation, in float32 even under autocast. Raises ValueError where the batch lacks a column or a
        signal, a component gives a result of another shape, or weights to learn carry no gradient in training."""
        config, mask = self.config, tokens.mask
        for column in config.columns:
            if column.name not in tokens.columns:
                raise ValueError(f"the batch lacks the column {column.name!r}, which {config.reading(column)} reads")
        for signal in sorted(config.requires):
            if getattr(tokens, signal) is None:
                raise ValueError(f"the batch lacks the signal {signal.value!r}, which {config.requiring(signal)} reads")
        with torch.autocast(mask.device.type, enabled=False):
            w, penalty = self._weigh("weights", self.weighting, tokens)
            penalties = [penalty]
            log_ratios, excluded = tokens.logps, tokens.logps.isinf()
            if not config.reference_free:
                log_ratios, excluded = log_ratios - tokens.ref_logps, excluded | tokens.ref_logps.isinf()
            # What a model excludes: 0 times its infinity would be nan, in value and gradient, where its weight is 0.
            counted = mask & ~(excluded & (w == 0))
            of_log_ratios = token_rewards = torch.where(mask, w * torch.where(counted, log_ratios, 0), 0)
            v = None
            if config.divergence is not None:
                assert tokens.divergence is not None
                v = w
                if self.divergence_weighting is not None:
                    v, penalty = self._weigh("divergence_weights", self.divergence_weighting, tokens)
                    penalties.append(penalty)
                share = config.divergence.alpha * v
                silent = (share == 0) & (tokens.divergence.isinf() | excluded & tokens.divergence.isnan())
                divergence = torch.where(mask & ~silent, tokens.divergence, 0)
                if config.divergence.detach_chosen:
                    divergence = torch.where(tokens.is_chosen[:, None], divergence.detach(), divergence)
                token_rewards = token_rewards + share * divergence
            units = None if config.units is None else self._match(config.units, tokens)
            if units is None:
                shaped = config.shaping(token_rewards, mask, tokens.is_chosen)
                rewards = config.beta * _require_shape(shaped, mask.shape[:1], config.shaping)
                chosen, rejected = rewards.chunk(2)
                losses = _require_shape(self.loss(chosen, rejected, tokens), chosen.shape, config.loss)
            else:
                of_units = config.beta * units.rewards(config.shaping, token_rewards)
                rewards, losses = of_units.sum(1), units.losses(self.loss, of_units)
            for regularizer in config.regularizers:
                added = regularizer(tokens, w, torch.zeros_like(w) if v is None else v)
                losses = losses + _require_shape(added, losses.shape, regularizer)
            for penalty in penalties:
                if penalty is not None:
                    losses = losses + masked_sum(penalty, mask).view(2, -1).sum(0)
            with torch.no_grad():
                if v is None:
                    alone = None
                elif units is None:
                    alone = config.beta * config.shaping(of_log_ratios, mask, tokens.is_chosen)
                else:
                    alone = config.beta * units.rewards(config.shaping, of_log_ratios).sum(1)
        return ObjectiveOutput(
            loss=losses.mean(),
            losses=losses,
            rewards=rewards.detach(),
            weights=w.detach(),
            divergence_weights=None if v is None else v.detach(),
            tokens=tokens,
            metrics={
                **objective_metrics(config.beta, tokens, rewards, alone, w, v),
                **({} if units is None else units.metrics()),
            },
        )

    def _weigh(self, slot: str, function: WeightFunction, tokens: TokenBatch) -> tuple[Tensor, Tensor | None]:
        """A slot's weights [N, T], and their penalty."""
        weighting = self.weightings[slot]
        weights, penalty = weights_and_penalty(function, tokens)
        _require_shape(weights, tokens.mask.shape, weighting)
        has_gradient = weights.requires_grad or (penalty is not None and penalty.requires_grad)
        if slot in self._learn and not has_gradient and self._trains(function):
            raise ValueError(
                f"{weighting.kind} {weighting.name!r} has parameters to learn, and its weights carry no gradient to "
                "them; take the detach, or the no_grad, out of its forward"
            )
        return weights, penalty

    def _match(self, units: Units, tokens: TokenBatch) -> UnitPairs:
        pairs = UnitPairs.match(units, tokens, self.units)
        if not (pairs.shifts is not None and pairs.shifts.requires_grad) and self._trains(self.units):
            raise ValueError(
                f"{units.kind} {units.name!r} has parameters to learn, and no baseline carries a gradient to them; "
                "give its module a method `baseline`, without a detach or a no_grad around what it learns"
            )
        return pairs

    def _trains(self, function: object) -> bool:
        """Whether it is a module that is trained in this call."""
        if not (self.training and torch.is_grad_enabled() and isinstance(function, nn.Module)):
            return False
        return any(parameter.requires_grad for parameter in function.parameters())

    def at_reference(self, tokens: TokenBatch) -> ObjectiveOutput:
        """What this objective says where the policy is the reference: ln 2 for the logistic loss, plus regularisers."""
        divergence = None if tokens.divergence is None else torch.zeros_like(tokens.divergence)
        return self.forward(tokens.replace(logps=tokens.ref_logps, divergence=divergence))

    def save(self, folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write objective.yaml and, where parameters are learned, objective.safetensors: those of `state`, if given.
        What an earlier save left there is replaced once both are whole."""
        folder = Path(folder)
        beside = unfinished_name(folder / "objective")
        beside.mkdir(parents=True)
        try:
            description = {"objective": self.config.model_dump(mode="json"), **self.shape}
            description["components"] = self.provenance
            (beside / "objective.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
            tensors = self.state_dict() if state is None else state
            if tensors:
                contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
                save_file(contiguous, beside / "objective.safetensors")
            publish_files(beside, folder)
        finally:
            remove(beside)

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


def _has_parameters(function: object) -> TypeGuard[nn.Module]:
    return isinstance(function, nn.Module) and next(function.parameters(), None) is not None


def _require_shape(result: Tensor, shape: torch.Size, component: Component) -> Tensor:
    """The result. Raises ValueError where it has another shape, which would be broadcast into another objective."""
    if not isinstance(result, Tensor) or result.shape != shape:
        given = f"of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"{component.kind} {component.name!r} gives a result {given}, where one of shape {tuple(shape)} is needed; "
            f"`prefopt check {component.name}` tries it"
        )
    return result
