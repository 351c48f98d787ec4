"""The metrics of programs: pass@k, and why others did not pass."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import fmean

from prefopt.tasks.base import Metric
from prefopt_code.sandbox import Outcome, Verdict

__all__ = ["figures", "metrics", "pass_at_k"]


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the share of all sets of k among n samples that have at least one of the c right ones.

    It is an unbiased estimate of the chance that one of k samples passes (Chen et al. 2021, arXiv 2107.03374). Only
    the division is not in whole numbers, so that nothing is lost. Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
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
    """metric -> its value for each problem, from the outcomes of the problem's samples."""
    verdicts = [[outcome.verdict for outcome in group] for group in outcomes]
    return {
        **{f"pass@{k}": [pass_at_k(len(group), group.count(Verdict.PASSED), k) for group in verdicts] for k in ks},
        "parses": [fmean(verdict is not Verdict.UNREADABLE for verdict in group) for group in verdicts],
        "timed_out": [fmean(verdict is Verdict.TIMED_OUT for verdict in group) for group in verdicts],
    }
