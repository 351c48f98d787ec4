"""What a launcher of torch or MPI says of the processes that it has started."""

from __future__ import annotations

import os

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which launchers say how many processes they started, as accelerate reads them."""


def started_processes() -> int:
    """The processes that a launcher has started; 1 without one. Raises ValueError for a variable that is no number."""
    return next((number for number in map(_number, WORLD_SIZES) if number >= 0), 1)


def _number(variable: str) -> int:
    text = os.environ.get(variable, "-1")
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"the environment has {variable}={text!r}, where a launcher says how many processes it has started; unset "
            "it, or give that number"
        ) from None


def reject_launch(remedy: str = "start one, without the launcher") -> None:
    """Raise ValueError, with the remedy, where a launcher has started several processes and one is to do the work."""
    if (started := started_processes()) > 1:
        raise ValueError(
            f"{started} processes were started, as WORLD_SIZE or its like says, and each would do the same; {remedy}"
        )
