"""Do token weights help? Every installed token weighting on the planted task, whose truth is known, and on real text.

    python -m benchmarks.token_weights FOLDER [--setting NAME ...] [--seeds N] [--page OUT.md]

A weighting of the registry is in the table by being installed: those that need no more than their defaults are trained,
on DPO and scaled to mean one, so that all have the same budget; beside each the same weights on the wrong tokens
(`shuffled`). Those that read what other models say of each token are in settings of their own, `..., scored`, for which
prefopt-tis trains these models. The folder holds a comparison for each setting; the same command goes on with what is
not finished.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.token_weights.page import lines
from benchmarks.token_weights.settings import SETTINGS, suite_of
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import SUITE

__all__ = ["arguments_parser", "main"]


def arguments_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token_weights", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="Of these alone; all unless given.")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--page", type=Path, help="Write the page here.")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_parser()
    given = parser.parse_args(arguments)
    command = shlex.join([*str(parser.prog).split(), *(sys.argv[1:] if arguments is None else arguments)])
    settings = given.setting or list(SETTINGS)
    suites = {setting: suite_of(setting, range(given.seeds)) for setting in settings}
    for setting, suite in suites.items():
        compare(suite, _folder(given.folder, setting), processes=given.processes)
    finished = {s: _folder(given.folder, s) for s in SETTINGS if (_folder(given.folder, s) / SUITE).exists()}
    if given.page:
        given.page.write_text(
            "\n".join(lines(finished, command)) + "\n",
            encoding="utf-8",
        )


def _folder(folder: Path, setting: str) -> Path:
    return folder / setting.replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    main()
