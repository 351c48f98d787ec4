"""Models with PEFT adapters as a trainer's inputs. One rule: the reference is the model as it was given.

| given | what trains | the reference |
|---|---|---|
| a model and `peft_config` | a new adapter | the policy with that adapter off |
| an adapter's folder, or a PeftModel | its adapter | a frozen copy of that adapter, or its adapter `ref_adapter_name` |
| these and `peft_config` | a new adapter, after the old one was merged | the policy with the new adapter off |
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import AutoConfig

from prefopt.scoring.adapters import REFERENCE_ADAPTER
from prefopt.training.disk import explained
from prefopt.training.loading import MERGED_BASE
from prefopt.training.new_adapter import merged_model, new_adapter
from prefopt.training.updates import checksum
from prefopt.validation import did_you_mean
from prefopt.whole_files import UNFINISHED, publish_folder, remove, weight_digests

_REMEDY = "merge the adapter and save that model, or name another reference (ref_model; model.reference in a run file)"

_INSTEAD = (
    ", so that a new one would replace it; leave peft_config out, which trains that adapter on, or give a model "
    "without an adapter"
)

_UNUSED = {
    "orth_reg_weight": "orthogonal regulariser, as its allocation of ranks,",
    "use_asa": "allocation of ranks",
    "auxiliary_loss_weight": "loss of its own",
    "monteclora_config": "variational loss",
}
"""Fields of adapters' configurations -> what belongs to PEFT's or another trainer's loop."""

_LOG = logging.getLogger(__name__)

_CHECKED = 2**16


def with_new_adapter(
    policy: nn.Module,
    peft_config: PeftConfig,
    folder: Path | None,
    *,
    is_reference: bool,
    overwrite: bool = False,
) -> PeftModel:
    """The model with a new adapter, which alone trains. An adapter that it has is merged into its weights first.

    folder        of the run, where a merged model is written; None: nowhere
    is_reference  whether the model, with the new adapter off, is the reference
    overwrite     whether the merged model of another run there may be replaced
    Raises TypeError for a configuration that is none, ValueError for one of another task, and where an adapter cannot
    be merged, or the reference would change in training.
    """
    if not isinstance(peft_config, PeftConfig):
        raise TypeError(f"peft_config: found {type(peft_config).__name__}; give PEFT's object, such as LoraConfig(...)")
    if peft_config.task_type not in (None, TaskType.CAUSAL_LM):
        raise ValueError(f"peft_config: its task_type is {peft_config.task_type}; a policy's is CAUSAL_LM")
    if isinstance(policy, PeftModel):
        policy = _merged(policy, folder, overwrite=overwrite)
    base = list(policy.parameters())
    before = [_beginning(parameter) for parameter in base]
    adapted = new_adapter(policy, peft_config)
    if not peft_config.is_prompt_learning:  # of AdaLoRA, PEFT marks numbers as trained that are none of its weights
        for name in unsaved_parameters(adapted):
            adapted.get_parameter(name).requires_grad_(False)
    if not is_reference:
        return adapted
    shared = {id(parameter) for parameter in base}
    if trained := [name for name, p in adapted.named_parameters() if p.requires_grad and id(p) in shared]:
        raise ValueError(
            f"peft_config trains {len(trained)} parameters of the model itself ({trained[0]} and others), which is the "
            "reference too and would change with it; set its bias to 'none', or name another reference (ref_model; "
            "model.reference in a run file)"
        )
    if before != [_beginning(parameter) for parameter in base]:
        # PiSSA, OLoRA and others take the adapter's first values out of the model's weights: it is not itself with the
        # adapter off, but with the adapter as it begins.
        keep_reference(adapted)
    return adapted


def _merged(policy: PeftModel, folder: Path | None, *, overwrite: bool) -> nn.Module:
    target = None
    if folder is not None:
        target = folder.absolute() / MERGED_BASE
        if Path(policy.get_base_model().name_or_path).absolute() == target:
            raise ValueError(f"output_dir: {folder} holds the model that the adapter is for, and would be written over")
    merged: Any = merged_model(policy, _INSTEAD)
    if target is not None:
        merged.name_or_path = str(target)  # where the new adapter's configuration says its base is
        _save_base(merged, target, overwrite=overwrite)
    return merged


def _save_base(model: Any, target: Path, *, overwrite: bool) -> None:
    """Write the base of a new adapter. Raises ValueError where the folder holds another one's."""
    unfinished = target.parent / UNFINISHED
    remove(unfinished)
    try:
        with explained("the adapter's base", target):
            model.save_pretrained(unfinished / target.name)
            if not target.exists() or overwrite:
                publish_folder(unfinished / target.name, target)
            elif weight_digests(unfinished / target.name) != weight_digests(target):
                raise ValueError(
                    f"{target} is the base of another adapter, and would be written over; choose another output_dir, "
                    "or --overwrite (overwrite_output_dir)"
                )
    finally:
        remove(unfinished)


def name_unused(policy: nn.Module) -> None:
    """Warn of what the configuration of a policy's adapter asks for and a loss of pairs leaves out."""
    if isinstance(policy, PeftModel):
        for field, part in _UNUSED.items():
            if getattr(policy.active_peft_config, field, None):
                _LOG.warning("the adapter's %s is not used here: its %s plays no part in training", field, part)


def keep_reference(policy: PeftModel, source: str | None = None) -> None:
    """Give the policy the frozen adapter `REFERENCE_ADAPTER`: a copy of the adapter `source`, by default of the one
    that trains. Raises ValueError where PEFT cannot hold it."""
    active, names = policy.active_adapters, sorted(policy.peft_config)
    if source is not None and source not in names:
        raise ValueError(f"ref_adapter_name: the model has no adapter {source!r}.{did_you_mean(source, names)}")
    if source in active or REFERENCE_ADAPTER in active:
        raise ValueError(f"the adapter {source or REFERENCE_ADAPTER!r} trains, so it cannot be the reference")
    if REFERENCE_ADAPTER in names:
        if source is None:
            raise ValueError(
                f"the model has an adapter {REFERENCE_ADAPTER!r} already, as after an earlier trainer; set "
                f"ref_adapter_name to {REFERENCE_ADAPTER!r} to keep it as the reference, or delete it "
                "(model.delete_adapter), so that the reference is the model as it is now"
            )
        if source != REFERENCE_ADAPTER:
            raise ValueError(f"ref_adapter_name is {source!r}, but {REFERENCE_ADAPTER!r} is there too; delete one")
    elif source is None and len(active) > 1:
        raise ValueError(f"{len(active)} adapters are active, which no one frozen adapter is the sum of; {_REMEDY}")
    trained = {id(parameter) for parameter in policy.parameters() if parameter.requires_grad}
    if source != REFERENCE_ADAPTER:
        _copy_adapter(policy, source or active[0])
        trained &= {id(parameter) for parameter in policy.parameters()}
    for name, parameter in policy.named_parameters():
        is_frozen = f".{REFERENCE_ADAPTER}." in f"{name}."
        parameter.requires_grad_(id(parameter) in trained and not is_frozen)


def _copy_adapter(policy: PeftModel, source: str) -> None:
    config = copy.deepcopy(policy.peft_config[source])
    config.inference_mode = True
    blank = copy.deepcopy(config)
    if hasattr(blank, "init_lora_weights"):
        blank.init_lora_weights = True  # other values may take the adapter out of the base's weights a second time
    parameters = [parameter for parameter in policy.parameters() if not parameter.requires_grad]
    before = [_beginning(parameter) for parameter in parameters]
    try:
        policy.add_adapter(REFERENCE_ADAPTER, blank)
        state = {name: value.clone() for name, value in get_peft_model_state_dict(policy, adapter_name=source).items()}
        result = set_peft_model_state_dict(policy, state, adapter_name=REFERENCE_ADAPTER)
        if result.unexpected_keys and not config.is_prompt_learning:
            raise RuntimeError(f"it does not take {result.unexpected_keys[0]}")
        if not any(f".{REFERENCE_ADAPTER}" in name for name, _ in policy.named_parameters()):
            raise RuntimeError("its parameters are not kept apart from others'")
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"PEFT cannot hold a frozen copy of the adapter {source!r} as reference ({error}); {_REMEDY}"
        ) from error
    if before != [_beginning(parameter) for parameter in parameters]:
        raise ValueError(f"a frozen copy of the adapter {source!r} as reference changes the model itself; {_REMEDY}")
    policy.peft_config[REFERENCE_ADAPTER] = config


def _beginning(parameter: nn.Parameter) -> int:
    """A checksum of some of the first elements: what takes an adapter out of a weight changes them all."""
    return checksum(parameter.detach().flatten()[:_CHECKED])


def reject_adapter_options(policy: nn.Module, ref_adapter_name: str | None, *, takes_name: bool) -> None:
    """Raise ValueError where a policy's adapter is not in a PeftModel, or `ref_adapter_name` would not be read.

    takes_name  whether the policy's own adapter trains, with another adapter as its reference
    """
    if ref_adapter_name is not None and not (takes_name and isinstance(policy, PeftModel)):
        raise ValueError(
            "ref_adapter_name is read only with a PeftModel whose adapter trains on, and without ref_model and "
            "peft_config; leave it out"
        )
    if not isinstance(policy, PeftModel) and any(isinstance(module, BaseTunerLayer) for module in policy.modules()):
        raise ValueError(
            "the policy has an adapter, but is no peft.PeftModel; give an adapter's folder by its name, or "
            "PeftModel.from_pretrained(base, folder, is_trainable=True)"
        )


def reject_unsaved(policy: nn.Module, *, may_reload: bool) -> None:
    """Raise ValueError where something trains, or is the base's alone, that PEFT does not save with the adapter.

    may_reload  whether a checkpoint will be loaded again: of a prompt that a network makes, only the prompt is saved
    """
    if not isinstance(policy, PeftModel):
        return
    _reject_unsaved_head(policy)
    if not (names := unsaved_parameters(policy)):
        return
    config = policy.active_peft_config
    if not config.is_prompt_learning:
        raise ValueError(
            f"{len(names)} parameters train that PEFT does not save with the adapter ({names[0]} and others), so that "
            "they would be lost; name their modules in modules_to_save, or set their requires_grad to false"
        )
    if may_reload:
        raise ValueError(
            f"the adapter ({config.peft_type.value}) makes its prompt with a network that PEFT does not save, so that "
            "no checkpoint of it can be loaded to train on; set load_best_model_at_end to false and do not resume"
        )


def _reject_unsaved_head(policy: PeftModel) -> None:
    """Raise ValueError where tokens were added to the base, and PEFT saves its embedding, but not the head."""
    lm = policy.get_base_model()
    embedding, head = lm.get_input_embeddings().weight, lm.get_output_embeddings().weight
    saved = {tensor.data_ptr() for tensor in _saved_tensors(policy)}
    if embedding is head or embedding.data_ptr() not in saved or head.data_ptr() in saved or not lm.name_or_path:
        return
    size = AutoConfig.from_pretrained(lm.name_or_path).get_text_config().vocab_size
    if size != len(embedding):
        raise ValueError(
            f"the base {lm.name_or_path} had {size} token ids and now has {len(embedding)}, and beside an adapter on "
            "the embedding PEFT does not save the head, so that nobody could load it; save the base with its added "
            "tokens as a model (save_pretrained), and adapt that"
        )


def unsaved_parameters(policy: PeftModel) -> list[str]:
    """What trains and is not among what PEFT saves of the policy's active adapters."""
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    saved = _saved_tensors(policy)
    if policy.active_peft_config.is_prompt_learning:  # what is saved is computed from what trains
        return list(trained) if sum(t.numel() for t in saved) < sum(p.numel() for p in trained.values()) else []
    pointers = {tensor.data_ptr() for tensor in saved}
    return [name for name, parameter in trained.items() if parameter.data_ptr() not in pointers]


def _saved_tensors(policy: PeftModel) -> list[Tensor]:
    """What PEFT saves of the policy's active adapters."""
    states = [get_peft_model_state_dict(policy, adapter_name=name) for name in policy.active_adapters]
    return [tensor for state in states for tensor in state.values()]
