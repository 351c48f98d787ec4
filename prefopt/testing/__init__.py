"""The conformance suite: what every component has to keep, as checks that plugins run on their own.

from prefopt.testing import conformance

@conformance(DecayWeighting(), DecayWeighting(gamma=0.5))
def test_conformance(check):
    check()
"""

from __future__ import annotations

from prefopt.testing.check import Check, ConformanceError, Result
from prefopt.testing.checks import CHECKS
from prefopt.testing.suite import checks_of, conformance, examine, markdown
from prefopt.testing.temporary import temporary_plugin

__all__ = [
    "CHECKS",
    "Check",
    "ConformanceError",
    "Result",
    "checks_of",
    "conformance",
    "examine",
    "markdown",
    "temporary_plugin",
]
