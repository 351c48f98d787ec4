"""Inspection: what a run's objective says of each token of given pairs."""

from __future__ import annotations

from prefopt.inspection.job import inspect_run
from prefopt.inspection.layers import Layer
from prefopt.inspection.results import Inspection
from prefopt.inspection.tally import Ranking, Summary, TokenMean
from prefopt.inspection.weigh import Response, WeighedPair

__all__ = ["Inspection", "Layer", "Ranking", "Response", "Summary", "TokenMean", "WeighedPair", "inspect_run"]
