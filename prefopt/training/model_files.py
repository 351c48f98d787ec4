"""Models from names and folders, with an error where the weights are not those of the configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from prefopt.training.model_errors import ModelFileError
from prefopt.training.weight_checks import reject_unusable_weights
from prefopt.validation import one_line


def load_causal_lm(name: str, options: dict[str, Any], *, finite: bool = True) -> nn.Module:
    """The causal LM of a name or folder. Raises ModelFileError where weights are damaged, missing, of another shape or
    of a part that the model does not run; what `from_pretrained` raises otherwise.

    options  keyword arguments of `from_pretrained`; ValueError for one that it does not take
    finite   whether weights that are NaN or infinite are refused
    Weights of parts that the architecture lacks, such as an image encoder's, are left out; transformers says so.
    """
    if isinstance(options.get("config"), str):
        raise ValueError(
            f"{name}: from_pretrained ignores the text config={options['config']!r}; give what differs by its names, "
            "such as num_hidden_layers, or a configuration object"
        )
    _reject_damaged_generation_config(Path(name))
    try:
        model, info = AutoModelForCausalLM.from_pretrained(name, **options, output_loading_info=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of files that are cut short, configurations that do not fit, packages that are absent
        raise _load_error(name, options, error) from error
    modules = {_without_numbers(module) for module, _ in model.named_modules()}
    empty = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and not part)
    unread = [
        key
        for key in info["unexpected_keys"]
        if _without_numbers(key.rpartition(".")[0]) in modules or key.startswith(empty)
    ]
    shapes = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    for keys, problem in (
        (info["missing_keys"], "tensors are missing in its files and would be random"),
        (shapes, "tensors have another shape in its files and would be random"),
        (unread, "tensors are in its files, but not in the model of its config.json"),
    ):
        if keys:
            raise ModelFileError(f"{name}: {problem} ({_listing(keys)}); give weights and config.json of one model")
    reject_unusable_weights(name, model, options, finite=finite)
    return model


def _load_error(name: str, options: Mapping[str, Any], error: Exception) -> ValueError:
    """What `from_pretrained` has raised, with the remedy."""
    message = one_line(error)
    problem = f"{name}: the model cannot be loaded ({type(error).__name__}: {message}); "
    quoted = re.findall(r"'([^']*)'", message)
    if wrong := [key for key, value in options.items() if key in quoted or str(value) in quoted]:
        return ValueError(
            f"{problem}{wrong[0]} of model_init_kwargs (model.init in a run file) is wrong: mend or drop it"
        )
    given = f"{', '.join(options)} of model_init_kwargs" if options else "its config.json"
    if isinstance(error, ImportError):
        return ModelFileError(f"{problem}install that, or drop what needs it ({given})")
    overridden = f", or {given} does not fit" if options else ""
    return ModelFileError(
        f"{problem}its files are damaged, missing, or not those of its config.json: get them anew{overridden}"
    )


def _reject_damaged_generation_config(folder: Path) -> None:
    """Raise ModelFileError where from_pretrained would go on in silence without the settings of the file."""
    file = folder / "generation_config.json"
    try:
        if file.is_file() and not isinstance(json.loads(file.read_bytes()), dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{file}: not a readable generation config ({one_line(error)}); get it anew, or remove it"
        ) from error


def _without_numbers(name: str) -> str:
    """The name of a module with `*` for the number of its layer."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _listing(keys: Iterable[str]) -> str:
    first, *others = sorted(keys)
    return f"{first} and {len(others)} more" if others else first
