"""Silence from libraries that would write between the lines of a progress display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Without the hints and progress bars of transformers and datasets; errors still come through."""
    logging = transformers.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    no_data_bars = datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if not no_data_bars:
            datasets.enable_progress_bars()


def show_bars(shown: bool) -> None:
    """Turn the progress bars of transformers and datasets on or off."""
    (transformers.logging.enable_progress_bar if shown else transformers.logging.disable_progress_bar)()
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
