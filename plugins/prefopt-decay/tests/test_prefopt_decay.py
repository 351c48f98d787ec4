"""The component keeps what every token weighting has to keep, and says what the paper says."""

from __future__ import annotations

import torch
from prefopt_decay import DecayWeighting

from prefopt import Objective, ObjectiveConfig, TokenBatch
from prefopt.testing import conformance


@conformance(DecayWeighting(), DecayWeighting(gamma=0.5), DecayWeighting(gamma=0), DecayWeighting(gamma=1))
def test_conformance(check):
    check()


def test_rewards_decay_with_the_position():
    log_ratios = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    tokens = TokenBatch(logps=log_ratios, ref_logps=torch.zeros(2, 3), mask=mask, token_ids=mask.long())
    config = ObjectiveConfig(beta=1.0, weighting={"name": "decay", "gamma": 0.5})
    rewards = Objective(config, num_layers=1, hidden_size=1)(tokens).rewards
    assert rewards.tolist() == [1 + 2 / 2 + 4 / 4, 1 + 2 / 2]
