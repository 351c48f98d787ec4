"""DeepSpeed ZeRO-3: parameters that a step reads outside of the modules that gather them.

The engine reads the weights of heads, and masks those of their units, without calling the modules that hold them, while
ZeRO-3 gathers a module's parameters when it is called. A step therefore runs as a forward pass of a module that names
them as its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import chain
from typing import Any, final

from torch import Tensor, nn
from transformers import PreTrainedModel

from prefopt.objective import ObjectiveOutput

_KEEPER = -1
"""In place of the number of a module that DeepSpeed sees at work, which are from 0."""


def is_partitioned(module: nn.Module) -> bool:
    """Whether ZeRO-3 has spread the module's parameters over processes."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """A context in which each process has all parameters of the module, where ZeRO-3 has spread them."""
    if not is_partitioned(module):
        yield
        return
    parameters: list[Any] = list(module.parameters())
    with _zero().GatheredParameters(parameters):
        # Else a module that is called in the context would release them for those that are called after it.
        for parameter in parameters:
            parameter.ds_active_sub_modules.add(_KEEPER)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.ds_active_sub_modules.discard(_KEEPER)


def gather_in_steps(module: nn.Module, objective: nn.Module, models: Sequence[PreTrainedModel]) -> None:
    """Have ZeRO-3, where it has spread the models, gather what a forward pass of the module reads itself: the models'
    heads, and what the objective learns."""
    if not any(map(is_partitioned, models)):
        return
    heads = (model.get_output_embeddings().parameters() for model in models)
    step, forward = GatheringStep(chain(objective.parameters(), *heads)), module.forward
    module.add_module("gathering", step)
    module.forward = lambda *arguments: step.call(partial(forward, *arguments))


@final
class GatheringStep(nn.Module):
    """Calls a step as a forward pass in which parameters of other modules are gathered, as in its backward.

    It is a submodule of the model that DeepSpeed's engine gets, whose hooks tell the two passes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()
        for parameter in parameters:
            _zero().register_external_parameter(self, parameter)
        self._output: ObjectiveOutput | None = None

    def call(self, step: Callable[[], ObjectiveOutput]) -> ObjectiveOutput:
        """The output of the step. Its loss alone leads back."""
        loss = self(step)
        output, self._output = self._output, None
        assert output is not None
        return replace(output, loss=loss)

    def forward(self, step: Callable[[], ObjectiveOutput]) -> Tensor:
        """-> the loss []: hooks look for tensors that require gradient."""
        self._output = step()
        return self._output.loss


def _zero() -> Any:
    return import_module("deepspeed.runtime.zero")
