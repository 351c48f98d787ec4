"""Libraries that prefopt does without where nothing asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needed(who: str, library: str, extra: str) -> Iterator[None]:
    """Around the import of an optional library: where it fails, the error says who needs it and what to install."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{who} needs {library}, which cannot be imported ({error}); install it: pip install 'prefopt[{extra}]'"
        ) from error
