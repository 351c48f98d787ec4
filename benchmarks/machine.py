"""The machine in words, and the versions of what ran on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

__all__ = ["hardware", "versions"]

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
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return {"Python": platform.python_version(), **found}
