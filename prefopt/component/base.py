"""What a component is: a frozen configuration that is also the mathematics."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import ConfigDict, model_validator

from prefopt.columns import Column
from prefopt.signals import Signal, reject_other_signals
from prefopt.validation import Settings, TensorSettings

__all__ = ["Component", "Named"]


class Named(Settings, ABC):
    """What a plugin can bring: a value that is found by its name.

    A concrete class fixes `name: Literal["..."] = "..."`. It is frozen and refuses unknown fields, compares and hashes
    by value, and round-trips through JSON and YAML.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    kind: ClassVar[str]
    """The kind in words, such as "token weighting"."""
    hook: ClassVar[str]
    """The name of the hook that brings classes of the kind."""

    name: str


class Component(Named, TensorSettings):
    """A part of an objective, as a value: its fields are its hyper-parameters, its call is its mathematics."""

    @property
    def requires(self) -> frozenset[Signal]:
        """The signals that this component reads, as configured. None unless it says so."""
        return frozenset()

    @property
    def activation_kinds(self) -> frozenset[str]:
        """The kinds of activation site to collect where `requires` holds REF_ACTIVATIONS: "mlp", "attn", "resid" and
        "logits" for the mean of a site's features, "mlp.abs" and so on for the mean of their absolute values."""
        return frozenset()

    @property
    def columns(self) -> frozenset[Column]:
        """The extra columns of the data that this component reads, as configured. None unless it says so."""
        return frozenset()

    @property
    def expected_failures(self) -> Mapping[str, str]:
        """The conformance checks that it fails by design, as configured -> the reason. None unless it says so."""
        return {}

    @model_validator(mode="after")
    def _requires_signals(self) -> Self:
        reject_other_signals(self.requires)
        return self
