"""Where a contender's step goes: the torch profiler's most expensive operations."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.contender import Entry
from benchmarks.speed.setting import BATCHES, Setting

__all__ = ["costs"]

_STEPS = 3


def costs(entry: Entry, setting: Setting, *, rows: int = 25) -> str:
    """Two tables over a few steps, after one for each batch: by operation, then by operation and shapes of its
    inputs."""
    contender = entry.build(setting)
    for batch in range(BATCHES):
        contender.step(batch)
        contender.clear()
    where = "cuda" if setting.device == "cuda" else "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if where == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        for number in range(_STEPS):
            contender.step(number % BATCHES)
            contender.clear()
    plain = profiler.key_averages()
    shaped = profiler.key_averages(group_by_input_shape=True)
    tables = [
        averages.table(
            sort_by=f"self_{where}_time_total", row_limit=rows, max_shapes_column_width=60, max_name_column_width=45
        )
        for averages in (plain, shaped)
    ]
    return "\n".join([f"{_STEPS} steps", *tables])
