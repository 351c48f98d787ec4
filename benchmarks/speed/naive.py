"""SparsePO as it is published: whole log-probabilities of both models over prompt and response, the divergence as one
expression, a mask for every position.

Written anew after the published trainer; what differs from it is that everything is float32 and that the pair is one
batch of rows, chosen first, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.contender import Contender, differentiated, named
from benchmarks.speed.setting import BETA, Setting, batches, models, objective
from prefopt import zoo
from prefopt.weightings.sparse import SparseMask

__all__ = ["naive"]

_L1 = 0.001
_CONFIG = zoo.sparsepo(BETA, shared=False, l1_reward=_L1, l1_divergence=_L1)


def naive(setting: Setting) -> Contender:
    """Masks have the parameters of prefopt's, and their own computation."""
    policy, reference = models(setting)
    masks = objective(_CONFIG, setting)
    reward_parameters, divergence_parameters = masks.weighting, masks.divergence_weighting
    assert isinstance(reward_parameters, SparseMask)
    assert isinstance(divergence_parameters, SparseMask)
    given = []
    for batch in batches(setting):
        chosen, rejected = (torch.cat([batch.prompt_ids, ids], 1) for ids in (batch.chosen_ids, batch.rejected_ids))
        input_ids = torch.cat([chosen, rejected])
        loss_mask = (torch.arange(input_ids.shape[1], device=setting.device) >= setting.prompt).expand_as(input_ids)
        given.append((input_ids, loss_mask))

    def loss(number: int) -> Tensor:
        input_ids, loss_mask = given[number]
        everything = torch.ones_like(input_ids)
        logits = policy(input_ids, attention_mask=everything, use_cache=False).logits
        with torch.no_grad():
            ref_output = reference(input_ids, attention_mask=everything, use_cache=False, output_hidden_states=True)
        labels, kept = input_ids[:, 1:], loss_mask[:, 1:]
        vocab_logps = logits[:, :-1].float().log_softmax(-1)
        reference_vocab_ps = ref_output.logits[:, :-1].float().softmax(-1)
        reference_vocab_logps = reference_vocab_ps.log()
        per_position_kl = (reference_vocab_ps * (reference_vocab_logps - vocab_logps)).sum(-1)
        logps = vocab_logps.gather(2, labels.unsqueeze(2)).squeeze(2)
        reference_logps = reference_vocab_logps.gather(2, labels.unsqueeze(2)).squeeze(2)
        states = [layer[:, :-1] for layer in ref_output.hidden_states[1:]]
        reward_mask = _mask(reward_parameters, states) * kept
        divergence_mask = _mask(divergence_parameters, states) * kept
        rewards = (reward_mask * (logps - reference_logps)).sum(-1)
        rewards = BETA * (rewards + (divergence_mask * per_position_kl).sum(-1))
        chosen_rewards, rejected_rewards = rewards.chunk(2)
        chosen_charge, rejected_charge = (_L1 * (reward_mask + divergence_mask)).sum(-1).chunk(2)
        return (-F.logsigmoid(chosen_rewards - rejected_rewards) + chosen_charge + rejected_charge).mean()

    return Contender(differentiated(loss), named(policy, masks))


def _mask(parameters: SparseMask, states: list[Tensor]) -> Tensor:
    """Each layer through its own row, then the layers through one: [2B, T]."""
    scores = [
        F.relu(parameters.norm(layer.to(row.dtype)) @ row + bias)
        for layer, row, bias in zip(states, parameters.weight, parameters.bias, strict=True)
    ]
    return F.relu(torch.stack(scores, -1) @ parameters.mixer)
