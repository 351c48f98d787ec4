"""The optimizer's groups for what an objective learns."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from prefopt.training.config import PreferenceConfig

_LOG = logging.getLogger(__name__)

_SMALL = 1e-3
"""A learning rate below which parameters that start small, under gradients that beta makes smaller, stay there."""


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """A context in which no parameter of the module requires a gradient."""
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def parameter_groups(
    objective: nn.Module, decayed: Collection[str], args: PreferenceConfig
) -> Iterator[dict[str, Any]]:
    """Groups of the objective's parameters at `mask_learning_rate`: those named in `decayed` with
    `mask_weight_decay`, and the others without. Warns where they share a learning rate that is small for them."""
    learned = {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}
    rate = {} if args.mask_learning_rate is None else {"lr": args.mask_learning_rate}
    if learned and not rate and args.learning_rate < _SMALL:
        _LOG.warning(
            "mask_learning_rate is not set: what the objective learns (%s) trains at learning_rate %g, at which it "
            "hardly moves from its start; 5e-3 is one to begin with for a mask, 1e-3 for a baseline",
            *(", ".join(sorted(learned)), args.learning_rate),
        )
    for decay, names in ((args.mask_weight_decay, learned.keys() & decayed), (0.0, learned.keys() - decayed)):
        if parameters := [learned[name] for name in sorted(names)]:
            yield {"params": parameters, "weight_decay": decay, **rate}
