"""What is measured of programs: pass@k, and why others did not pass."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import fmean

from prefopt.tasks.base import Metric
from prefopt_code.sandbox import Outcome, Verdict

__all__ = ["figures", "metrics", "pass_at_k"]


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the share of all sets of k among n samples that have at least one of the c right ones.

    It is an unbiased estimate of the chance that one of k samples passes (Chen et al. 2021, arXiv 2107.03374). All is
    in whole numbers but the division, so that nothing is lost. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples, {c} of them right: there is no such figure")
    return (comb(n, k) - comb(n - c, k)) / comb(n, k)


def metrics(ks: Sequence[int]) -> tuple[Metric, ...]:
    """The metrics of `figures`."""
    return (
        *(Metric(f"pass@{k}", "higher", f"chance that at least one of {k} samples passes the tests") for k in ks),
        Metric("parses", "higher", "share of samples whose program Python can read"),
        Metric("timed_out", "lower", "share of samples whose program did not end in its time"),
    )


def figures(outcomes: Sequence[Sequence[Outcome]], ks: Sequence[int]) -> dict[str, list[float]]:
    """outcomes: of the samples of each problem. The metrics by problem."""
    passed = [sum(each.verdict is Verdict.PASSED for each in of) for of in outcomes]
    return {
        **{f"pass@{k}": [pass_at_k(len(of), c, k) for of, c in zip(outcomes, passed, strict=True)] for k in ks},
        "parses": [fmean(each.verdict is not Verdict.UNREADABLE for each in of) for of in outcomes],
        "timed_out": [fmean(each.verdict is Verdict.TIMED_OUT for each in of) for of in outcomes],
    }
