"""The figures of a mask's health by hand, the faults that they make, and when a watch says them."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from prefopt import Objective, ObjectiveConfig, TokenBatch
from prefopt.component import TokenWeighting
from prefopt.mask_health import MaskHealth, MaskWatch, wordless_metrics
from prefopt.metrics import Mean, MetricSums
from prefopt.training.first_batch import check_first_batch
from prefopt.weightings import SparseWeighting
from tests.batches import random_case

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
IDS = torch.tensor([[5, 0, 1, 6], [7, 0, 0, 0]])
WORDLESS = torch.arange(8) < 2


def tokens() -> TokenBatch:
    return TokenBatch(torch.zeros(2, 4), torch.zeros(2, 4), MASK, IDS)


def figures(all_zero: float, mean: float, wordless: float = 0.0, share: float = 0.2) -> dict[str, Mean]:
    values = {"weights/all_zero": all_zero, "weights/mean": mean, "weights/wordless": wordless, "wordless/share": share}
    return {name: Mean.from_values(torch.tensor([value])) for name, value in values.items()}


def test_weight_on_tokens_without_words_by_hand() -> None:
    """Padding has the id of a token without a word, and counts for nothing, whatever stands there."""
    weights = torch.tensor([[1.0, 2.0, 0.0, 1.0], [3.0, 1.0, 9.0, 9.0]])
    metrics = wordless_metrics("weights", weights, tokens(), WORDLESS)
    assert metrics["weights/wordless"].value == pytest.approx(3 / 8)
    assert metrics["wordless/share"].value == pytest.approx(3 / 6)
    nowhere = wordless_metrics("weights", torch.zeros(2, 4), tokens(), WORDLESS)
    assert nowhere["weights/wordless"].number == 0, "a share of nothing"


def test_the_figures_of_batches_are_those_of_all_their_tokens() -> None:
    """The objective's own metrics, added up: of responses, of tokens, and of weight."""
    torch.manual_seed(0)
    objective = Objective(ObjectiveConfig(weighting=SparseWeighting(init="near_one")), num_layers=3, hidden_size=5)
    cases = [random_case(seed, dtype=torch.float32).tokens() for seed in (0, 1)]
    with torch.no_grad():
        objective.weighting.weight.normal_(std=2)
        objective.weighting.bias.fill_(-3)
    sums, weights, kept = MetricSums(), [], []
    for case in cases:
        output = objective(case)
        sums.add(output.metrics | wordless_metrics("weights", output.weights, case, torch.arange(100) < 3))
        weights += [row[mask] for row, mask in zip(output.weights, case.mask, strict=True)]
        kept += [ids[mask] < 3 for ids, mask in zip(case.token_ids, case.mask, strict=True)]
    flat, flags = torch.cat(weights), torch.cat(kept)
    dead = [not bool(row.any()) for row in weights]
    assert 0 < sum(dead) < len(dead)
    health = MaskHealth.from_metrics(sums.means())
    assert health.all_zero == pytest.approx(sum(dead) / len(dead))
    assert health.mean == pytest.approx(float(flat.mean()))
    assert health.wordless == pytest.approx(float(flat[flags].sum() / flat.sum()))
    assert health.wordless_tokens == pytest.approx(float(flags.float().mean()))


@pytest.mark.parametrize(
    ("health", "faults"),
    [
        (MaskHealth(0.0, 1.0), []),
        (MaskHealth(0.5, 0.5), []),
        (MaskHealth(0.51, 0.5), ["dead"]),
        (MaskHealth(1.0, 0.0), ["dead"]),
        (MaskHealth(0.2, 0.099), ["collapsed"]),
        (MaskHealth(0.0, 1.0, 0.6, 0.3), ["wordless"]),
        (MaskHealth(0.0, 1.0, 0.6, 0.31), []),
        (MaskHealth(0.0, 1.0, 0.5, 0.1), []),
        (MaskHealth(0.0, 0.01, 0.9, 0.1), ["collapsed", "wordless"]),
    ],
)
def test_faults(health: MaskHealth, faults: list[str]) -> None:
    assert list(health.faults(beta=0.1)) == faults


def test_faults_are_in_numbers() -> None:
    assert "a beta of 0.1 acts as one of 0.0033" in MaskHealth(0.0, 0.033).faults(0.1)["collapsed"]
    assert "all weights of 75% of the responses" in MaskHealth(0.75, 0.2).faults(0.1)["dead"]
    text = MaskHealth(0.0, 1.0, 0.92, 0.13).faults(0.1)["wordless"]
    assert "92% of its weight" in text
    assert "which are 13% of the tokens" in text


def watched(*batches: dict[str, Mean]) -> list[str]:
    texts: list[str] = []
    watch = MaskWatch(0.1, texts.append)
    for metrics in batches:
        watch.add(metrics)
    return texts


def test_a_watch_says_each_fault_once() -> None:
    assert not watched(*[figures(0.0, 1.0)] * 20)
    (dead,) = watched(*[figures(1.0, 0.0)] * 20)
    assert "is dead" in dead
    collapsed, wordless = watched(*[figures(0.0, 0.05)] * 10, *[figures(0.0, 0.05, 0.8)] * 10)
    assert "has collapsed" in collapsed
    assert "without words" in wordless


def test_a_watch_says_at_the_first_batch_what_is_dead_from_the_start_and_waits_with_the_rest() -> None:
    assert watched(figures(1.0, 0.0))
    assert not watched(figures(0.9, 0.02, 0.9))
    assert not watched(*[figures(0.9, 0.02, 0.9)] * 4)
    assert watched(*[figures(0.9, 0.02, 0.9)] * 5)


def test_a_watch_does_not_say_what_comes_and_goes() -> None:
    """Five batches are judged together."""
    assert not watched(*[figures(share, 0.2) for share in (0.9, 0.8, 0.1, 0.2, 0.3)] * 4)


class Plain(TokenWeighting):
    """w_t = log pi_ref(y_t) + 2."""

    name: Literal["plain"] = "plain"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, tokens.ref_logps + 2, 0)


def test_weights_below_zero_are_counted_and_the_first_batch_refuses_them() -> None:
    tokens = random_case(6, dtype=torch.float32).tokens()
    objective = Objective(ObjectiveConfig(weighting=Plain()), num_layers=3, hidden_size=5)
    output = objective(tokens)
    number = int((output.weights[tokens.mask] < 0).sum())
    assert 0 < number < int(tokens.mask.sum())
    share = output.metrics["weights/negative"].value
    assert share == pytest.approx(number / int(tokens.mask.sum()))
    with pytest.raises(
        ValueError, match=f"'plain' gives {number} of {int(tokens.mask.sum())} response tokens a weight"
    ):
        check_first_batch(objective, output)
    assert list(MaskHealth(all_zero=0, mean=0.01, negative=share).faults(beta=0.1)) == ["negative"]
