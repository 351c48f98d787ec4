"""Inspection: what a run's objective makes of every token of given pairs."""

from __future__ import annotations

from prefopt.inspection.pipeline import inspect_run
from prefopt.inspection.results import Inspection
from prefopt.inspection.statistics import Ranking, Summary, TokenMean

__all__ = ["Inspection", "Ranking", "Summary", "TokenMean", "inspect_run"]
