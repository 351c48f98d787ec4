"""An objective as a value: what its run file, its checkpoint and its row of the zoo say."""

from __future__ import annotations

from functools import partial, reduce
from itertools import pairwise
from typing import Annotated, Self, final

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

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
    Units,
)
from prefopt.losses import LogisticLoss
from prefopt.registry import resolve
from prefopt.shapings import SumShaping
from prefopt.validation import TensorSettings
from prefopt.weightings import UniformWeighting

__all__ = ["DivergenceTerm", "ObjectiveConfig"]

WeightingSlot = Annotated[SerializeAsAny[TokenWeighting], BeforeValidator(partial(resolve, TokenWeighting))]
DivergenceSlot = Annotated[SerializeAsAny[Divergence], BeforeValidator(partial(resolve, Divergence))]
ShapingSlot = Annotated[SerializeAsAny[RewardShaping], BeforeValidator(partial(resolve, RewardShaping))]
UnitsSlot = Annotated[SerializeAsAny[Units], BeforeValidator(partial(resolve, Units))]
LossSlot = Annotated[SerializeAsAny[PreferenceLoss], BeforeValidator(partial(resolve, PreferenceLoss))]
RegularizerSlot = Annotated[SerializeAsAny[Regularizer], BeforeValidator(partial(resolve, Regularizer))]


@final
class DivergenceTerm(TensorSettings):
    """alpha v_t D_t: which divergence, how much of it, and under which weights.

    weighting      None: v = w, the weights of the log-ratios
    detach_chosen  no gradient to the policy through the chosen response's divergence (TDPO2, arXiv 2404.11999)

    >>> DivergenceTerm(measure="forward_kl", alpha=0.5).measure.name
    'forward_kl'
    """

    measure: DivergenceSlot
    alpha: float = Field(default=1.0, ge=0)
    weighting: WeightingSlot | None = None
    detach_chosen: bool = False


@final
class ObjectiveConfig(TensorSettings):
    """An objective as a value: the six slots and beta. Round-trips through JSON and YAML; a slot takes a component, a
    mapping with its `name` and fields, or just its name.

    beta            strength of the rewards
    units           None: one unit, the response; written down only where it is set
    reference_free  r_t = w_t log pi_t, and no reference model is run

    >>> ObjectiveConfig(beta=0.5, loss={"name": "hinge"}).loss.margin
    1.0
    """

    beta: float = Field(default=0.1, gt=0)
    weighting: WeightingSlot = UniformWeighting()
    divergence: DivergenceTerm | None = None
    shaping: ShapingSlot = SumShaping()
    units: UnitsSlot | None = Field(default=None, exclude_if=lambda units: units is None)
    loss: LossSlot = LogisticLoss()
    regularizers: tuple[RegularizerSlot, ...] = ()
    reference_free: bool = False

    @property
    def components(self) -> tuple[Component, ...]:
        """Every component in a slot."""
        term = self.divergence
        of_term = () if term is None else (term.measure, *((term.weighting,) if term.weighting else ()))
        units = () if self.units is None else (self.units,)
        return (self.weighting, *of_term, self.shaping, *units, self.loss, *self.regularizers)

    @property
    def requires(self) -> frozenset[Signal]:
        """The signals that the scorer must collect."""
        signals = frozenset({Signal.DIVERGENCE}) if self.divergence else frozenset()
        return signals.union(*(component.requires for component in self.components))

    @property
    def policy_signals(self) -> frozenset[Signal]:
        """Those of `requires` that take no reference."""
        return self.requires - self.reference_signals

    @property
    def reference_signals(self) -> frozenset[Signal]:
        """Those of `requires` that take a reference."""
        return frozenset(signal for signal in self.requires if signal.of_reference)

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

    def requiring(self, signal: Signal) -> str:
        """What reads a signal, in words."""
        parts = (f"{part.kind} {part.name!r}" for part in self.components if signal in part.requires)
        return next(parts, "the divergence term")

    @model_validator(mode="after")
    def _columns_have_names_of_their_own(self) -> Self:
        for one, two in pairwise(self.columns):
            if one.name == two.name:
                raise ValueError(f"two components read the column {one.name!r}, but not alike: {one} and {two}")
        return self

    @model_validator(mode="after")
    def _units_are_of_one_pair(self) -> Self:
        if self.units is not None and self.loss.couples_pairs:
            raise ValueError(
                f"loss {self.loss.name!r} compares the rewards of a whole batch, and would compare units of different "
                f"responses; leave out `units`, or take a loss that sees one pair, such as 'logistic'"
            )
        if self.units is not None and self.loss.reads_whole_responses:
            raise ValueError(
                f"loss {self.loss.name!r} has a term of whole responses, which every unit of a pair would add once "
                f"more; leave out `units`, or take a loss of rewards alone, such as 'logistic'"
            )
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
