"""Silence from the libraries that would speak between the lines of a progress display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the hints and bars of transformers and datasets, nor those of reading data, while the block runs; errors
    still come through."""
    hints = transformers.logging
    verbosity, bars, data_bars = (
        hints.get_verbosity(),
        hints.is_progress_bar_enabled(),
        datasets.are_progress_bars_disabled(),
    )
    hints.set_verbosity_error()
    hints.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        hints.set_verbosity(verbosity)
        if bars:
            hints.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()
