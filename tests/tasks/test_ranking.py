from __future__ import annotations

import pytest
import torch

from prefopt.tasks.ranking import auroc, average_precision, sparsity_error


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([1, 2, 3, 4], [False, False, True, True], 1.0),
        ([4, 3, 2, 1], [False, False, True, True], 0.0),
        ([1, 1, 1, 1], [False, True, False, True], 0.5),
        ([0, 0, 1, 0], [False, True, True, False], 0.75),
        ([1, 2], [True, True], None),
        ([1, 2], [False, False], None),
    ],
)
def test_auroc_by_hand(scores: list[float], positive: list[bool], expected: float | None) -> None:
    assert auroc(torch.tensor(scores), torch.tensor(positive)) == expected


def test_auroc_counts_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (60,), generator=generator).float()
    positive = torch.rand(60, generator=generator) < 0.3
    above, below = scores[positive][:, None], scores[~positive]
    counted = ((above > below).float() + (above == below).float() / 2).mean()
    assert auroc(scores, positive) == pytest.approx(counted.item())


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([1, 2, 3, 4], [False, False, True, True], 1.0),
        ([4, 3, 2, 1], [False, False, True, True], (1 / 3 + 2 / 4) / 2),
        ([1, 1, 1, 1], [False, True, False, False], 0.25),
        ([2, 1, 1, 0], [True, True, False, True], (1 + 2 / 3 + 3 / 4) / 3),
        ([1, 2], [True, True], 1.0),
        ([1, 2], [False, False], None),
    ],
)
def test_average_precision_by_hand(scores: list[float], positive: list[bool], expected: float | None) -> None:
    precision = average_precision(torch.tensor(scores), torch.tensor(positive))
    assert precision == (None if expected is None else pytest.approx(expected))


def test_average_precision_walks_down_the_thresholds() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (60,), generator=generator).float()
    positive = torch.rand(60, generator=generator) < 0.3
    area, recalled = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        kept = scores >= threshold
        recall = float((kept & positive).sum() / positive.sum())
        area += (recall - recalled) * float((kept & positive).sum() / kept.sum())
        recalled = recall
    assert average_precision(scores, positive) == pytest.approx(area)


def test_sparsity_counts_exact_zeros() -> None:
    truth = torch.tensor([0, 0, 0, 1])
    assert sparsity_error(torch.tensor([0.0, 0.0, 0.0, 0.3]), truth) == 0
    assert sparsity_error(torch.tensor([1.0, 1e-9, 0.0, 0.0]), truth) == pytest.approx(0.25)
    assert sparsity_error(torch.tensor([1.0, 1.0, 1.0, 1.0]), truth) == pytest.approx(0.75)
