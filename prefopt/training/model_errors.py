"""What is wrong with the files of a model."""

from __future__ import annotations

from typing import final


@final
class ModelFileError(ValueError):
    """Files of a model or tokenizer that are absent, cannot be read, or are not those of the configuration beside
    them."""
