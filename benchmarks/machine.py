"""The machine in words, the versions of what ran on it, and the memory of this process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Literal

import torch

__all__ = ["hardware", "memory_mib", "reset_peak_memory", "versions"]

_LIBRARIES = ("prefopt", "torch", "transformers", "trl", "liger-kernel")
_ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def hardware() -> str:
    """Processor, cores, memory, threads, and settings of the allocator where there are any."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    tuned = [name for name in os.environ if name.startswith(_ALLOCATOR)]
    allocator = f", allocator set by {', '.join(sorted(tuned))}" if tuned else ""
    return f"{model}, {os.cpu_count()} cores, {gib:.0f} GiB, {torch.get_num_threads()} threads{allocator}"


def versions() -> dict[str, str]:
    """Of Python and the libraries that are compared."""
    installed = {}
    for library in _LIBRARIES:
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            installed[library] = "not installed"
    return {"Python": platform.python_version(), **installed}


def memory_mib(field: Literal["VmRSS", "VmHWM"]) -> float:
    """Resident memory of this process in MiB, as Linux tells: now (VmRSS), or its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def reset_peak_memory() -> None:
    """Start the peak at the memory of now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
