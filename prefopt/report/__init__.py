"""The report of a comparison: a page, its tables and plots as files of their own."""

from __future__ import annotations

from prefopt.report.files import report

__all__ = ["report"]
