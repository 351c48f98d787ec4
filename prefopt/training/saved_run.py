"""A saved run, loaded: policy, reference, objective with its learned weights, and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from prefopt.objective import Objective
from prefopt.scoring import PreferenceModel
from prefopt.scoring.forward import causal_lm
from prefopt.training.checkpoints import saved_adapter, saved_reference
from prefopt.training.failed_step import FAILED_STEP
from prefopt.training.loading import load_model, load_tokenizer
from prefopt.training.run_file import RunFile
from prefopt.training.run_sections import DataSection
from prefopt.training.trainer_inputs import ensure_pad_token


@final
class SavedRunError(ValueError):
    """A folder that is not a saved run, or one whose parts do not fit together."""


@final
@dataclass(frozen=True, eq=False)
class SavedRun:
    """The contents of a folder of `prefopt train`, of `PreferenceTrainer.save_model`, or of a checkpoint.

    >>> run = SavedRun.load("runs/train")  # doctest: +SKIP

    model      policy, reference and objective, in evaluation mode, on the accelerator where there is one
    reference  the reference's name or folder, in words; None where the objective is reference-free
    data       the `data` section of its run file; None without a run file
    """

    folder: Path
    model: PreferenceModel
    tokenizer: PreTrainedTokenizerBase
    reference: str | None
    data: DataSection | None

    @classmethod
    def load(cls, folder: str | Path, *, reference: str | None = None) -> Self:
        """Load a run. `reference`, a model's name or folder, overrides the run's own.

        By default it is the reference that was saved with the run (TR-DPO), the run file's, the base of the policy's
        adapter, or the model that the run started from. Raises SavedRunError where the folder is not a run or the
        reference is unknown, RunFileError, ComponentError, and what `from_pretrained` raises.
        """
        folder = Path(folder)
        _require_run(folder)
        objective = Objective.load(folder)
        run = run_file_of(folder)
        init = {} if run is None else run.model.init
        policy = _policy(folder, init)
        if reference is not None and objective.config.reference_free:
            raise SavedRunError(f"{folder}: its objective is reference-free and would never run {reference}; omit it")
        name = reference or _reference_name(folder, objective, run, adapted=isinstance(policy, PeftModel))
        ref_model = None if name is None else load_model(name, init, finite=False)
        if ref_model is not None:
            _require_fitting_reference(name, ref_model, policy, objective)
        tokenizer = ensure_pad_token(load_tokenizer(str(folder)))
        model = PreferenceModel(policy, ref_model, objective, tokenizer=tokenizer).eval()
        if torch.accelerator.is_available():
            model.to(torch.accelerator.current_accelerator())
        return cls(
            folder=folder,
            model=model,
            tokenizer=tokenizer,
            reference=None if objective.config.reference_free else name or "the policy, with its adapter off",
            data=None if run is None else run.data,
        )


def _require_run(folder: Path) -> None:
    if not folder.is_dir():
        raise SavedRunError(f"{folder}: there is no such folder; give the output_dir of a run of prefopt train")
    if not (folder / "objective.yaml").is_file():
        checkpoints = sorted(folder.glob("checkpoint-*/objective.yaml"), key=lambda file: file.stat().st_mtime)
        remedy = "give the output_dir of a run of prefopt train, or one of its checkpoints"
        if checkpoints:
            remedy = f"its training has not ended; give its last checkpoint, {checkpoints[-1].parent}"
        raise SavedRunError(f"{folder}: not a run, for it has no objective.yaml; {remedy}")


def run_file_of(folder: Path) -> RunFile | None:
    """The run's run file, which for a checkpoint is one folder up, and for a failed step's weights two."""
    home = folder.absolute()
    if home.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-"):
        home = home.parent
    elif home.parent.name == FAILED_STEP:
        home = home.parent.parent
    file = home / "run.yaml"
    return RunFile.load(file) if file.is_file() else None


def _policy(folder: Path, init: dict[str, Any]) -> nn.Module:
    try:
        adapter = saved_adapter(folder)
        return load_model(str(folder if adapter is None else adapter), init, finite=False)
    except ValueError as error:
        raise SavedRunError(str(error)) from error


def _reference_name(folder: Path, objective: Objective, run: RunFile | None, *, adapted: bool) -> str | None:
    """The name or folder of the run's reference; None where it is the policy without its adapter, or unused."""
    if objective.config.reference_free:
        return None
    if (saved := saved_reference(folder)) is not None:
        return str(saved)
    if run is not None and run.model.reference is not None:
        return run.model.reference
    if adapted:
        return None
    if run is None:
        raise SavedRunError(
            f"{folder}: its reference is not known, for there is no run.yaml; name the model that it was trained from "
            "with --reference (reference=, in Python)"
        )
    return run.model.name


def _require_fitting_reference(name: str | None, reference: nn.Module, policy: nn.Module, objective: Objective) -> None:
    config = causal_lm(reference).config.get_text_config()
    shape = {"num_layers": config.num_hidden_layers, "hidden_size": config.hidden_size}
    if next(objective.parameters(), None) is not None and shape != objective.shape:
        raise SavedRunError(
            f"reference {name}: it has {_describe(shape)}, but what the objective learned reads a reference with "
            f"{_describe(objective.shape)}; name the one of the run"
        )
    sizes = [causal_lm(model).get_output_embeddings().weight.shape[0] for model in (policy, reference)]
    if objective.config.exact_divergence is not None and sizes[0] != sizes[1]:
        raise SavedRunError(
            f"reference {name}: its vocabulary has {sizes[1]:,} tokens, the policy's {sizes[0]:,}, so that there is no "
            "divergence between the two; name the reference of the run"
        )


def _describe(shape: dict[str, int]) -> str:
    return f"{shape['num_layers']} layers of size {shape['hidden_size']}"
