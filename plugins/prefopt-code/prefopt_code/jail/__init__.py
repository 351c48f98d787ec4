"""The process that a program is run under: of the standard library alone, without the rest of prefopt."""

from __future__ import annotations
