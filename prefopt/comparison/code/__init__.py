"""The code task: programs that a model writes, run against their tests."""

from __future__ import annotations
