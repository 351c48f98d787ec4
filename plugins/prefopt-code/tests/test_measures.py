from __future__ import annotations

from itertools import combinations
from statistics import fmean

import pytest
from prefopt_code.measures import figures, metrics, pass_at_k
from prefopt_code.sandbox import Outcome, Verdict


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for c in range(n + 1):
        right = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            assert pass_at_k(n, c, k) == pytest.approx(fmean(map(any, combinations(right, k))), abs=1e-15)


def test_pass_at_k_is_exact_where_factorials_are_not() -> None:
    assert pass_at_k(10_000, 1, 100) == 0.01
    assert pass_at_k(10_000, 0, 100) == 0
    assert pass_at_k(200, 199, 1) == 199 / 200
    assert pass_at_k(100, 1, 100) == 1
    assert pass_at_k(10**6, 1, 1) == 1e-6


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)])
def test_there_is_no_such_figure(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {n} samples, {c} of them right"):
        pass_at_k(n, c, k)


def test_figures_by_problem() -> None:
    def outcomes_of(*verdicts: Verdict) -> list[Outcome]:
        return [Outcome(verdict, "") for verdict in verdicts]

    outcomes = [
        outcomes_of(Verdict.PASSED, Verdict.UNREADABLE, Verdict.FAILED, Verdict.TIMED_OUT),
        outcomes_of(*[Verdict.REFUSED] * 3, Verdict.OUT_OF_MEMORY),
    ]
    assert figures(outcomes, [1, 3]) == {
        "pass@1": [0.25, 0],
        "pass@3": [0.75, 0],
        "parses": [0.75, 1],
        "timed_out": [0.25, 0],
    }
    assert [metric.name for metric in metrics([1, 3])] == list(figures(outcomes, [1, 3]))
