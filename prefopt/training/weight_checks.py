"""Weights as they are in a model's files: finite numbers, stored as fractions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, cached_file

from prefopt.training.model_errors import ModelFileError

_OF_THE_HUB = ("cache_dir", "revision", "subfolder", "token")

_WHOLE = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL"}
"""What safetensors calls numbers without fractions."""


class _Stored(NamedTuple):
    """Where a tensor is stored, and as what."""

    file: Path
    dtype: str
    is_whole: bool


def reject_unusable_weights(
    name: str, model: PreTrainedModel, options: Mapping[str, Any], *, finite: bool = True
) -> None:
    """Raise ModelFileError where a parameter is NaN or infinite, where the input embeddings are zero throughout, or
    where a file has whole numbers in place of fractions, as a quantised model's without its configuration: transformers
    would convert them without their scale.

    options  keyword arguments of `from_pretrained`, which has loaded the model of this name
    finite   whether NaN and infinity are refused
    """
    stored = _stored_tensors(name, model, options)
    parameters = dict(model.named_parameters())
    if not getattr(model, "is_quantized", False):
        for key in parameters:
            if key in stored and stored[key].is_whole:
                raise ModelFileError(
                    f"{stored[key].file}: {key} is stored as {stored[key].dtype}, whole numbers, and config.json "
                    "has no quantization_config that tells their scale; get the model anew, or with its own"
                )
    embeddings = getattr(model.get_input_embeddings(), "weight", None)
    for key, parameter in parameters.items():
        if embeddings is not None and parameter is embeddings and _is_zero(parameter):
            raise ModelFileError(
                f"{stored[key].file if key in stored else name}: all {parameter.numel()} values of {key} are zero, "
                "as in a file that was not copied or downloaded whole; get the weights anew"
            )
    if finite:
        reject_non_finite(name, parameters, {key: tensor.file for key, tensor in stored.items()})


def reject_non_finite(name: str, parameters: Mapping[str, Tensor], files: Mapping[str, Path]) -> None:
    """Raise ModelFileError where a parameter is NaN or infinite.

    name   of the model, which stands for a file that is not known
    files  parameter -> the file that it is from
    """
    for key, parameter in parameters.items():
        if count := _non_finite(parameter):
            raise ModelFileError(
                f"{files.get(key, name)}: NaN or infinity in {key}, {count} of its {parameter.numel()} values (as "
                f"{parameter.dtype}); get the weights anew, or load them in a wider dtype if their file's is wider"
            )


def _non_finite(parameter: Tensor) -> int:
    """How many of this process's values are NaN or infinite; 0 of another library's type, or without storage."""
    if (values := _local_values(parameter)) is None:
        return 0
    low, high = torch.aminmax(values)  # in which NaN stays, and which is faster than a flag for each value
    return 0 if math.isfinite(low) and math.isfinite(high) else int((~torch.isfinite(values)).sum())


def _is_zero(parameter: Tensor) -> bool:
    values = _local_values(parameter)
    return values is not None and not values.any()


def _local_values(parameter: Tensor) -> Tensor | None:
    """This process's values; None of another library's type, or where there are none."""
    values = parameter.detach()
    values = values.to_local() if isinstance(values, DTensor) else values
    is_plain = type(values) is Tensor or type(values) is torch.nn.Parameter
    if not is_plain or values.is_meta or not values.numel() or not values.is_floating_point() or values.itemsize < 2:
        return None
    return values


def _stored_tensors(name: str, model: PreTrainedModel, options: Mapping[str, Any]) -> dict[str, _Stored]:
    """The tensors in the files of the model, by the names that they have in it; what it renames is left out."""
    folder = Path(name) / str(options.get("subfolder") or "")
    if not folder.is_dir():
        hub = {key: options[key] for key in _OF_THE_HUB if key in options}
        names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
        quiet = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
        paths = (cached_file(name, file, **quiet, **hub) for file in names)
        folder = Path(next((path for path in paths if path is not None), name)).parent
    stored = {}
    safetensors = sorted(folder.glob("model*.safetensors"))
    for file in safetensors:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  it is no mapping
                dtype = tensors.get_slice(key).get_dtype()
                stored[key] = _Stored(file, dtype, dtype in _WHOLE)
    for file in [] if safetensors else sorted(folder.glob("pytorch_model*.bin")):
        for key, tensor in torch.load(file, map_location="meta", weights_only=True).items():
            stored[key] = _Stored(file, str(tensor.dtype), not (tensor.is_floating_point() or tensor.is_complex()))
    prefix = f"{model.base_model_prefix}."
    return {prefix + key: tensor for key, tensor in stored.items()} | stored
