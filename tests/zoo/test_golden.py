"""Golden numbers: what every row of the zoo, at its defaults, says of one batch that is written in sines.

A change of golden.json is a change of numerics: it needs a reason, and the formula that it follows. To write the rows
that are new or other:

    python -m tests.zoo.test_golden
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prefopt import Objective, TokenBatch, zoo
from prefopt.signals import SIGNALS, Signal
from tests.batches import KINDS, columns_of, padded, signals_but, without_noise

FILE = Path(__file__).with_name("golden.json")
ROWS = {name: row() for name, row in zoo.ZOO.items()} | {"sparsepo-independent": zoo.sparsepo(shared=False)}
LENGTHS = (5, 2, 7, 3, 4, 6)
LAYERS, HIDDEN = 3, 4


def waves(step: float, *shape: int) -> Tensor:
    """sin(step), sin(2 step), ... in float64: numbers that no generator of random ones can change."""
    count = math.prod(shape)
    return torch.tensor([math.sin(step * (index + 1)) for index in range(count)], dtype=torch.float64).view(shape)


def golden_batch() -> TokenBatch:
    """Three pairs of unequal lengths; log-ratios of about half a nat a token; rubbish on the padding."""
    mask = torch.arange(8) < torch.tensor(LENGTHS)[:, None]

    ref_logps = -2 - 1.9 * waves(0.37, 6, 8)
    signals = {
        "ref_logps": ref_logps,
        "divergence": 0.4 * (1 + waves(0.71, 6, 8)),
        "log_collision": -1.5 - waves(0.83, 6, 8),
        "ref_hidden_states": 3 * waves(0.53, LAYERS, 6, 8, HIDDEN),
        "ref_token_states": 3 * waves(0.47, LAYERS, 6, 8, HIDDEN),
        "ref_embeddings": 3 * waves(0.43, 1, 6, 8, HIDDEN),
        "ref_activations": waves(0.91, len(KINDS), 6, 8),
    }
    signals |= signals_but(signals, partial(waves, 0.59), rows=6, width=8, layers=LAYERS, hidden=HIDDEN)
    fields = {name: padded(values, mask, SIGNALS[Signal(name)].row_axis) for name, values in signals.items()}
    fields["divergence"].requires_grad_()
    return TokenBatch(
        logps=padded(torch.clamp(ref_logps + 0.7 * waves(1.13, 6, 8), max=-0.01), mask, 0).requires_grad_(),
        mask=mask,
        token_ids=torch.zeros(6, 8, dtype=torch.long),
        **fields,
        activation_kinds=KINDS,
        columns=columns_of(waves(0.61, 6), 1.2 * waves(0.97, 6, 8), mask),
    )


def numbers(name: str) -> dict[str, object]:
    """The loss, the losses of the pairs, and the norm of the loss's gradient in the batch and in what is learned."""
    objective = without_noise(Objective(ROWS[name], num_layers=LAYERS, hidden_size=HIDDEN).double())
    tokens = golden_batch()
    with torch.no_grad():
        for index, parameter in enumerate(objective.parameters()):
            parameter.copy_(0.6 + 0.5 * waves(0.29 + 0.1 * index, *parameter.shape))
    output = objective(tokens)
    leaves = [tokens.logps, tokens.divergence, *objective.parameters()]
    gradients = torch.autograd.grad(output.loss, leaves, allow_unused=True)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None))
    return {"loss": output.loss.item(), "losses": output.losses.tolist(), "gradient_norm": norm}


def test_every_row_has_its_golden_numbers() -> None:
    assert sorted(json.loads(FILE.read_text())) == sorted(ROWS)


def test_the_numbers_tell_the_rows_apart() -> None:
    golden = {name: tuple(entry["losses"]) for name, entry in json.loads(FILE.read_text()).items()}
    assert golden.pop("f_dpo_reverse_kl") == golden["dpo"]  # by definition
    assert len(set(golden.values())) == len(golden)


def agree(computed: dict[str, object], golden: dict[str, object]) -> bool:
    return all(computed[key] == pytest.approx(value, rel=1e-9, abs=1e-12) for key, value in golden.items())


@pytest.mark.parametrize("name", ROWS)
def test_the_numbers_are_the_golden_ones(name: str) -> None:
    golden = json.loads(FILE.read_text())[name]
    assert golden["gradient_norm"] > 1e-6
    assert agree(numbers(name), golden), numbers(name)


if __name__ == "__main__":
    golden = json.loads(FILE.read_text())
    rows = {name: numbers(name) for name in dict.fromkeys([*golden, *ROWS]) if name in ROWS}
    same = {name: golden[name] for name in rows if name in golden and agree(rows[name], golden[name])}
    FILE.write_text(json.dumps(rows | same, indent=1) + "\n")
