"""Names of models and tokenizers: what is wrong with one, before its weights are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from prefopt.training.model_errors import ModelFileError
from prefopt.validation import one_line, path_name

_OF_THE_CONFIG = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")
"""Keyword arguments of a model's `from_pretrained` that reading its config.json needs too."""

_MOST = 300
"""Characters that are shown of a library's message."""


def reject_absent(name: str) -> None:
    """Raise ModelFileError where a name can be a folder's alone, and there is none."""
    try:
        path = Path(path_name(name)).expanduser()
    except ValueError as error:
        raise ModelFileError(f"the name of a model: {error}; give a folder, or OWNER/NAME of the hub") from error
    if path.is_file():
        raise ModelFileError(f"{name}: it is a file; give the folder that it is in")
    if not path.is_dir() and (os.path.isabs(path) or name.startswith((".", "~")) or name.count("/") > 1):
        raise ModelFileError(
            f"{name}: there is no such folder, and the hub has names such as OWNER/NAME; mend the path"
        )


def reject_no_causal_lm(name: str, options: Mapping[str, Any]) -> None:
    """Raise ModelFileError where the config.json of a whole model cannot be read, or is none of a causal LM.

    options  keyword arguments of `from_pretrained`
    """
    reject_absent(name)
    if any(options.get(key) is not None for key in ("config", "gguf_file")):
        return  # which stands in for config.json
    folder = Path(name)
    if folder.is_dir() and not (folder / (options.get("subfolder") or "") / "config.json").is_file():
        raise ModelFileError(f"{name}: the folder has no config.json; give one that save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(name, **{key: options[key] for key in _OF_THE_CONFIG if key in options})
    except Exception as error:  # transformers checks few fields, and fails in its own ways for the others
        remedy = "mend the file, or get it anew" if folder.is_dir() else "mend the name, or fetch the model beforehand"
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise ModelFileError(
            f"{name}: config.json cannot be read ({kind}{shortened(one_line(error))}); {remedy}"
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in getattr(
        config, "auto_map", {}
    ):
        raise ModelFileError(
            f"{name}: its model type is {config.model_type!r}, of which transformers has no causal language model; "
            "give a model that predicts the next token, with no encoder beside it"
        )


def shortened(message: str) -> str:
    """The message, or its beginning where it is long."""
    return message if len(message) <= _MOST else f"{message[:_MOST]} ..."
