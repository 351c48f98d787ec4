"""The gradient of an embedding that is the head too, as the rows of the tokens that were read.

Both are parts of one gradient [V, H], of which the head's product fills every row,

    dL/dW = sum over tokens of dL/dz^T h  +  sum over positions of onehot(x)^T dL/de

A dense one of the embedding would be another [V, H] in each step, of zeros but for a few thousand rows. The rows of a
sparse one autograd adds in place to a dense one that comes after it, and to a copy of one that came before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from prefopt.scoring.forward import ModelStates, backbone
from prefopt.scoring.fsdp import is_sharded
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.lm_head.precision import wide
from prefopt.scoring.zero import is_partitioned


def states_and_head(lm: PreTrainedModel, collect: Callable[[], ModelStates]) -> tuple[ModelStates, Head]:
    """What a pass of the model's backbone collects, and its head, to which the loss has to lead back: where
    `takes_sparse_gradient`, the embedding's gradient is sparse."""
    if not (torch.is_grad_enabled() and takes_sparse_gradient(lm)):
        return collect(), Head.from_model(lm)
    # Autograd goes back through what is newest first, and comes to a view from before the pass after all of it.
    head, embedding = Head.from_model(lm).map(lambda tensor: tensor.expand_as(tensor)), lm.get_input_embeddings()
    embedding.sparse = True  # which its forward pass reads, and backward remembers
    try:
        return collect(), head
    finally:
        embedding.sparse = False


def takes_sparse_gradient(lm: PreTrainedModel) -> bool:
    """Whether the embedding is torch's own, tied to a head that is trained on a CPU, in one piece and not compiled.

    In half precision the sum over a frequent token's positions would be rounded after each. Accelerators, where
    additions to one row have no order, were not tried.
    """
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    if type(embedding) is not nn.Embedding or embedding.weight is not getattr(head, "weight", None):
        return False
    weight = embedding.weight
    return (
        weight.requires_grad
        and weight.device.type == "cpu"
        and weight.dtype == wide(weight.dtype)
        and not (embedding.sparse or embedding.scale_grad_by_freq)
        and backbone(lm)._compiled_call_impl is None
        and not (is_sharded(lm) or is_partitioned(lm))
    )
