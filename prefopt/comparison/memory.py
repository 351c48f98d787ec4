"""How much memory a run needed at most."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["forget_peak", "peak_mib"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Let the peak begin anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # then the peak is that of the whole process so far, which is still a bound
        _CLEAR.write_text("5", encoding="ascii")


def peak_mib() -> float | None:
    """MiB: what was allocated on the GPU, where there is one; else what the process had resident. None where the system
    does not say."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**20)
    if not _STATUS.exists():
        return None
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
