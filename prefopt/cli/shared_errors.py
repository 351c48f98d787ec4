"""An error that all processes of a launch have is printed by one of them, and one that a single process has by that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(seconds=5)
"""How long a process waits for the launcher's answer, and until another has printed the error that both have."""


def print_once(text: str, show: Callable[[], None]) -> None:
    """Print an error by `show`, unless another process of the launch has printed the same text. Where it cannot be
    known that another has, it is printed once more: no error is lost, and no process waits for much longer than twice
    PATIENCE.

    text  by which an error is the same as another's
    """
    has_address = {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if not has_address or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # no store outlives the processes
        show()
        return
    from torch.distributed import DistError

    digest = hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()
    key = f"prefopt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{digest}"
    try:
        store = _launchers_store()
        is_first = store.add(f"{key}/begun", 1) == 1
        if not is_first:
            store.wait([f"{key}/printed"], PATIENCE)
            return
    except DistError:  # the launcher has ended, or the other process before it had printed
        show()
        return
    show()
    with suppress(DistError):  # then the others print it, too
        store.set(f"{key}/printed", "")


def _launchers_store() -> Any:
    """What torch's launcher has for its processes to meet."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=PATIENCE, wait_for_workers=False)
