"""The end of another process, which a process of the same run knows by an error of their connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from torch.distributed import DistError

from prefopt.launch import started_processes
from prefopt.validation import one_line

_OF_GLOO = "/gloo/"
"""What an error of gloo names, the source that raises it, as its class is RuntimeError."""

_MOST = 200
"""Characters of the library's error in the message."""


@final
class LostProcessError(RuntimeError):
    """Another process of the run has ended, or does not answer."""


def is_lost_process(error: BaseException) -> bool:
    """Whether the error is one of the connection between processes: of gloo, or of NCCL and the like."""
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and _OF_GLOO in str(error))


@contextmanager
def naming_lost_process() -> Iterator[None]:
    """Raise LostProcessError, with what to do, for an error within that tells of the end of another process."""
    try:
        yield
    except RuntimeError as error:
        if started_processes() == 1 or not is_lost_process(error):
            raise
        raise LostProcessError(
            "another process of this run has ended, or does not answer, and this one ends with it: what that one "
            "printed, or the launcher says of it, is why. Checkpoints are whole, and "
            f"training.resume_from_checkpoint=true goes on from the last ({one_line(error)[:_MOST]})"
        ) from error
