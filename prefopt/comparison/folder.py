"""The folder of a comparison: refused where another suite's runs or others' files would be lost, cleared when asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from prefopt.comparison.call import OUTPUT, RUNNING
from prefopt.comparison.controls import controls
from prefopt.comparison.run import as_text
from prefopt.comparison.run_log import RUNS, RunLog
from prefopt.comparison.suite import SUITE, Suite, SuiteError
from prefopt.training.output_folder import OutputFolderError, listing, reject_mixing
from prefopt.validation import one_line
from prefopt.whole_files import publish_text

WRITTEN = (
    *(SUITE, RUNS, RUNNING, OUTPUT, "training", "tensorboard", "report.html", "summary.csv"),
    *(f"{plot}.{suffix}" for plot in ("frontier", "sparsity", "divergence", "curves") for suffix in ("csv", "png")),
)
"""Names that a comparison and its report write, and that would outlive it beside those of the next one. Material and
cached references have the digest of what they are made of in their names."""

_SHOWN = 3
"""Differences between two suites in a message."""

_LONGEST = 60
"""Characters of a value there."""


@final
class ComparisonFolder:
    """A folder that is about to hold a suite's comparison.

    overwrite  whether the comparison that it holds may be removed
    """

    def __init__(self, path: Path, suite: Suite, *, overwrite: bool = False) -> None:
        self.path = path
        self._suite = suite
        self._text = suite.to_yaml()
        self._overwrite = overwrite

    @contextmanager
    def claimed(self, log: RunLog) -> Iterator[None]:
        """Keep other calls out, with a lock that ends with the process. Raises OutputFolderError where another call has
        the folder, and as `reject_occupied` does."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.path / ".comparison.lock").acquire(timeout=0)
        except Timeout:
            raise OutputFolderError(
                f"{self.path}: another call carries out a comparison there; wait until it ends, or end it"
            ) from None
        with lock:
            log.refresh()
            self.reject_occupied(log)
            yield

    def begin(self) -> None:
        """Remove the comparison that may be overwritten, and write the suite."""
        if self._overwrite:
            self._clear()
        (self.path / OUTPUT).mkdir(exist_ok=True)
        publish_text(self._text, self.path / SUITE)

    def reject_occupied(self, log: RunLog) -> None:
        """Raise OutputFolderError where the folder holds something else than a comparison, or that of a suite with
        finished runs that this one lacks, unless it may be overwritten. A suite that has all of them and others adds
        these.

        log  the records of the folder
        """
        reject_mixing(self.path, "a comparison")
        held = self.path / SUITE
        begun = log.path.exists() or (self.path / OUTPUT).exists()
        text = held.read_text(encoding="utf-8", errors="replace") if held.is_file() else None
        if not begun and text != self._text and (foreign := sorted(_written(self.path))):
            raise OutputFolderError(
                f"{self.path} holds {listing(foreign)}, and none is that of a comparison, for none has begun there; "
                "they would be written over: choose another folder with --out"
            )
        if self._overwrite or text in (None, self._text):
            return
        if (problem := self._problem(held, log)) is not None:
            raise OutputFolderError(
                f"{self.path} holds the comparison of another suite, {problem}; the suite that is there goes on with "
                "it, another --out keeps it, and --overwrite removes it"
            )

    def _problem(self, held: Path, log: RunLog) -> str | None:
        """In words, which suite the folder holds and how it differs, where its runs would be lost; else None."""
        finished = {key for key, record in log.records.items() if record["error"] is None}
        try:
            earlier = Suite.load(held)
        except SuiteError as error:
            return f"which cannot be read ({one_line(error)})" if finished else None
        runs = {run.key for run in (*earlier.runs(), *controls(earlier, log.records))}
        kept = {run.key for run in (*self._suite.runs(), *controls(self._suite, log.records))}
        if not (runs & finished) - kept:
            return None
        old, new = (suite.model_dump(mode="json") for suite in (earlier, self._suite))
        differences = list(islice(_differences(old, new), _SHOWN + 1))
        more = ["..."] if len(differences) > _SHOWN else []
        return (
            f"on {earlier.task.title} with {', '.join(earlier.objectives)} and {len(runs & finished)} runs finished: "
            + "; ".join([*differences[:_SHOWN], *more])
        )

    def _clear(self) -> None:
        for path in _written(self.path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _written(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if any(fnmatch(path.name, name) for name in WRITTEN))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """In words, the fields that differ between two suites."""
    for name in dict.fromkeys([*old, *new]):
        there, here = old.get(name, ""), new.get(name, "")
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            yield from _differences(there, here, f"{section}{name}.")
        elif there != here:
            yield f"{section}{name} is {_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = as_text(value) or "absent"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
