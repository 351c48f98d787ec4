"""One process of those that test_sharded starts: the loss and the gradients of its share of a batch, under each way of
spreading a model, against those of the whole batch in one process."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from transformers import AutoConfig, AutoModelForCausalLM

from prefopt import PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from tests.scoring.conftest import ARCHITECTURES, SHAPE, drawn

PAIRS = drawn([(3, 6, 4), (5, 1, 7), (1, 4, 4), (6, 2, 3)])


def batch(pairs: list) -> PreferenceBatch:
    return PreferenceBatch.from_ids(*zip(*pairs, strict=True), pad_token_id=0)


def causal(name: str, seed: int, **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**SHAPE, **ARCHITECTURES[name], **changes}))
    return model.double()


def blocks(lm: nn.Module) -> nn.ModuleList:
    return lm.base_model.h if hasattr(lm.base_model, "h") else lm.base_model.layers


def each_block(lm: nn.Module) -> None:
    for block in blocks(lm):
        fully_shard(block)


def root(model: PreferenceModel) -> None:
    """As accelerate does: blocks, and then all that is left with the module that is called."""
    each_block(model.policy)
    each_block(model.reference)
    fully_shard(model)


def models(model: PreferenceModel) -> None:
    """The two models on their own, as transformers and anyone's own loop do."""
    for lm in (model.policy, model.reference):
        each_block(lm)
        fully_shard(lm, reshard_after_forward=True)


def adapter(model: PreferenceModel) -> None:
    """A policy that is its own reference with the adapter off."""
    each_block(model.policy.get_base_model())
    fully_shard(model.policy)


def frozen_adapter(model: PreferenceModel) -> None:
    """A policy that is its own reference with another adapter."""
    adapter(model)


def heads(model: PreferenceModel) -> None:
    """The head in a group of its own."""
    for lm in (model.policy, model.reference):
        each_block(lm)
        fully_shard(lm.get_output_embeddings())
        fully_shard(lm)


def tails(model: PreferenceModel) -> None:
    """The last norm and the head in one group."""
    for lm in (model.policy, model.reference):
        each_block(lm)
        fully_shard([lm.base_model.norm, lm.get_output_embeddings()], reshard_after_forward=False)
        fully_shard(lm)


def vocabulary(model: PreferenceModel) -> None:
    """Each process has a part of the vocabulary."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for lm in (model.policy, model.reference):
        parallelize_module(lm, mesh, {"lm_head": ColwiseParallel(output_layouts=Replicate())})


def accelerated(model: PreferenceModel, *, from_first: bool = False) -> None:
    """By accelerate's own hand, as Trainer has it done where there are accelerators.

    from_first  the first process has the weights and sends the others their parts, as accelerate's launcher asks for
    """
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=from_first
    )
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator = SimpleNamespace(state=state, mixed_precision="no", is_main_process=True, device=torch.device("cpu"))
    fsdp2_prepare_model(accelerator, model)
    assert all(isinstance(block, FSDPModule) for lm in (model.policy, model.reference) for block in blocks(lm))


def sent(model: PreferenceModel) -> None:
    """So, with the weights of the first process."""
    accelerated(model, from_first=True)
    for lm in (model.policy, model.reference):
        is_tied = lm.get_input_embeddings().weight is lm.get_output_embeddings().weight
        assert is_tied == lm.config.tie_word_embeddings


WAYS: dict[str, tuple[Callable[[PreferenceModel], None], str]] = {
    "root": (root, "llama"),
    "root, tied": (root, "gpt2"),
    "accelerate": (accelerated, "llama"),
    "accelerate, tied": (accelerated, "gpt2"),
    "sent": (sent, "llama"),
    "sent, tied": (sent, "gpt2"),
    "models": (models, "llama"),
    "models, tied": (models, "gpt2"),
    "adapter": (adapter, "llama"),
    "frozen adapter": (frozen_adapter, "llama"),
    "heads": (heads, "llama"),
    "tails": (tails, "llama"),
    "vocabulary": (vocabulary, "llama"),
}


def whole(gradient: Tensor) -> Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def compare(spread: Callable[[PreferenceModel], None], name: str) -> dict[str, object]:
    policy, reference = causal(name, 0), causal(name, 1)
    if spread in (adapter, frozen_adapter):
        torch.manual_seed(0)
        lora = LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False, modules_to_save=["norm"])
        policy, reference = get_peft_model(reference, lora).double(), None
        if spread is frozen_adapter:
            policy.add_adapter("reference", lora)
            policy.double()
    alone = PreferenceModel(policy, reference, zoo.tdpo2(), logits_budget=0)  # logits are computed again in backward
    spreaded = copy.deepcopy(alone)
    spread(spreaded)
    rank, count = dist.get_rank(), dist.get_world_size()
    together = spread is vocabulary  # its processes see the same pairs
    share = PAIRS if together else PAIRS[rank::count]
    gaps: dict[str, Any] = {"loss": 0.0, "gradient": 0.0, "gradients": 0}
    for _ in range(2):
        expected = alone(batch(PAIRS)).loss
        expected.backward()
        loss = spreaded(batch(share)).loss
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        gaps["loss"] = max(gaps["loss"], abs(mean.item() / count - expected.item()))
        theirs = dict(spreaded.policy.named_parameters())
        for parameter, ours in alone.policy.named_parameters():
            if not ours.requires_grad:
                continue
            gap = (whole(theirs[parameter].grad) - ours.grad).abs().max().item() / ours.grad.abs().max().item()
            gaps["gradient"] = max(gaps["gradient"], gap)
            gaps["gradients"] += 1
        for module in (alone, spreaded):
            module.zero_grad()
            with torch.no_grad():
                for parameter in module.policy.parameters():
                    parameter.mul_(1.01)
    return gaps | {"plain": spreaded.uses_plain_forward, "shares": spreaded.shares_prefix}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    gaps = {way: compare(spread, name) for way, (spread, name) in WAYS.items()}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(gaps))
    dist.destroy_process_group()
