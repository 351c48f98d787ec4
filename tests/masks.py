"""Masks that fail, each in one way, and what is said of each."""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm
from transformers import PreTrainedModel

from prefopt import Objective, zoo

FAILURES = {
    "dead": r"the mask is dead: all weights of 100% of the responses are zero.* floor 0\.3",
    "collapsed": r"collapsed: the mean weight is 0\.02, so that a beta of 0\.1 acts as one of 0\.002.* floor 0\.3",
    "wordless": r"100% of its weight lies on special tokens.*, which are \d+% of the tokens.* raise the floor",
}
"""The name of a fault -> a pattern of its words."""


@torch.no_grad()
def failing(kind: str, reference: PreTrainedModel, end: int) -> Objective:
    """A learned mask over the reference's embeddings that is zero everywhere, is 0.02 everywhere, or is above zero on
    the token `end` alone.
    """
    config = zoo.build({"zoo": "sparsepo_token", "weighting": {"architecture": "linear", "floor": 0.0}})
    text = reference.config.get_text_config()
    objective = Objective(config, num_layers=text.num_hidden_layers, hidden_size=text.hidden_size)
    mask = objective.weighting
    mask.bias.fill_({"dead": -1.0, "collapsed": 0.02, "wordless": 0.0}[kind])
    if kind == "wordless":
        table = reference.get_input_embeddings().weight
        scores = (standard := layer_norm(table, table.shape[-1:])) @ standard[end]
        second, first = scores.topk(2).values.flip(0).tolist()
        mask.weight[0] = standard[end]
        mask.bias.fill_(-(first + second) / 2)
    return objective
