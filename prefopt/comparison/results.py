"""The results of a suite, as its report and its publication read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, final

import pandas as pd  # type: ignore[import-untyped]

from prefopt.comparison.differences import Difference, differences, opponents, own_controls
from prefopt.comparison.frontier import Frontiers, frontiers
from prefopt.comparison.run_log import RUNS, Record, RunLog
from prefopt.comparison.suite import SUITE, Suite, SuiteError
from prefopt.comparison.summary import Row, rows


@final
@dataclass(frozen=True, eq=False)
class Results:
    """All figures of a suite, each computed once, when it is first asked for.

    records  of all runs in the folder, by key
    rows     the reference, objectives and controls at each setting, with estimates of the metrics
    values   the results frame: a line for each run, metric and held-out item (see `summary`)
    """

    suite: Suite
    records: Mapping[str, Record]
    rows: Sequence[Row]
    values: pd.DataFrame

    @classmethod
    def compute(cls, suite: Suite, records: Mapping[str, Record]) -> Self:
        return cls(suite, records, *rows(suite, records))

    @cached_property
    def differences(self) -> Sequence[Difference]:
        """From the baseline, by metric and setting."""
        return differences(self.values, opponents(self.suite))

    @cached_property
    def control_differences(self) -> Sequence[Difference]:
        """Of masked objectives from their own controls."""
        return differences(self.values, own_controls(self.suite))

    @cached_property
    def planes(self) -> Sequence[Frontiers]:
        """Frontiers, and what is compared along them."""
        return frontiers(self.suite, self.rows, self.values)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The results of the suite that was run last in the folder. Raises SuiteError where there is none."""
        if not (folder / SUITE).exists() or not (folder / RUNS).exists():
            raise SuiteError(f"{folder}: no {SUITE} and {RUNS} here; name the folder that `prefopt compare` wrote")
        return cls.compute(Suite.load(folder / SUITE), RunLog(folder / RUNS).records)
