"""One process of those that test_sharded starts: the loss and the gradients of its share of a batch, under each way of
spreading a model, against those of the whole batch in one process."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
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


WAYS: dict[str, tuple[Callable[[PreferenceModel], None], str, dict[str, object]]] = {
    "root": (root, "llama", {}),
    "root, tied": (root, "gpt2", {}),
    "models": (models, "llama", {}),
    "models, tied": (models, "gpt2", {}),
    "heads": (heads, "llama", {}),
    "tails": (tails, "llama", {}),
    "vocabulary": (vocabulary, "llama", {}),
}


def whole(gradient: Tensor) -> Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def compare(spread: Callable[[PreferenceModel], None], name: str, budget: int, **changes: object) -> dict[str, object]:
    policy, reference = causal(name, 0, **changes), causal(name, 1, **changes)
    alone = PreferenceModel(policy, reference, zoo.tdpo2(), logits_budget=budget)
    spreaded = copy.deepcopy(alone)
    spread(spreaded)
    rank, count = dist.get_rank(), dist.get_world_size()
    together = spread is vocabulary  # its processes see the same pairs
    share = PAIRS if together else PAIRS[rank::count]
    found = {"loss": 0.0, "gradient": 0.0, "gradients": 0, "plain": False}
    for _ in range(2):
        expected = alone(batch(PAIRS)).loss
        expected.backward()
        loss = spreaded(batch(share)).loss
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        found["loss"] = max(found["loss"], abs(mean.item() / count - expected.item()))
        theirs = dict(spreaded.policy.named_parameters())
        for parameter, ours in alone.policy.named_parameters():
            gap = (whole(theirs[parameter].grad) - ours.grad).abs().max().item() / ours.grad.abs().max().item()
            found["gradient"] = max(found["gradient"], gap)
            found["gradients"] += 1
        for module in (alone, spreaded):
            module.zero_grad()
            with torch.no_grad():
                for parameter in module.policy.parameters():
                    parameter.mul_(1.01)
    return found | {"plain": spreaded.plain, "shares": spreaded.shares_prefix}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    out = {}
    for way, (spread, name, changes) in WAYS.items():
        for budget in (0, 2**20):
            try:
                out[f"{way}, {budget}"] = compare(spread, name, budget, **changes)
            except Exception as error:
                import traceback
                out[f"{way}, {budget}"] = traceback.format_exc()[-1500:]
                break
            
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(out))
        for k, v in out.items(): print(k, v, flush=True)
    dist.barrier()
    dist.destroy_process_group()
