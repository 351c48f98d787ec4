"""The states of the random generators that a training step may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor


@final
@dataclass(frozen=True, eq=False)
class RandomStates:
    """Those of Python, numpy, torch on the CPU, and torch on this process's GPU, if it has one."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls) -> Self:
        """The present states; nothing is read from a device."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(random.getstate(), tuple(np.random.get_state(legacy=True)), torch.get_rng_state(), cuda)

    def put_back(self) -> None:
        """Set the generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda)

    def tensors(self) -> dict[str, Tensor]:
        """Those that are tensors, for a file of safetensors."""
        numpy = torch.from_numpy(self.numpy[1].astype(np.int64))
        states = {"random.cpu": self.cpu, "random.numpy": numpy}
        return states if self.cuda is None else states | {"random.cuda": self.cuda}

    def plain(self) -> dict[str, Any]:
        """The others, for a file of JSON."""
        version, state, gauss = self.python
        name, _, *rest = self.numpy
        return {"python": [version, list(state), gauss], "numpy": [name, *rest]}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> Self:
        """The inverse of `tensors` and `plain`."""
        version, state, gauss = plain["python"]
        name, *rest = plain["numpy"]
        keys = tensors["random.numpy"].numpy().astype(np.uint32)
        numpy = (name, keys, *rest)
        return cls((version, tuple(state), gauss), numpy, tensors["random.cpu"], tensors.get("random.cuda"))


@contextmanager
def drawing_from(states: RandomStates) -> Iterator[None]:
    """A context in which the generators start at these states, and after which they are as they were."""
    before = RandomStates.now()
    states.put_back()
    try:
        yield
    finally:
        before.put_back()
