"""The demo: DPO and SparsePO side by side on a model and data made on the spot, or on yours, with a page of results."""

from __future__ import annotations

from prefopt.demo.config import DemoConfig
from prefopt.demo.job import run_demo
from prefopt.demo.results import DemoResults

__all__ = ["DemoConfig", "DemoResults", "run_demo"]
