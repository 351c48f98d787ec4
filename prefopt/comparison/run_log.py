"""The file of runs: a line of JSON for each that was carried out, finished or failed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from prefopt.comparison.run import Run

__all__ = ["Record", "RunLog", "write_parquet"]

Record = Mapping[str, Any]


@final
class RunLog:
    """runs.jsonl: what is appended is on the disk before the next run begins, and any number of processes may append.

    A line that was cut short, because the process was killed while it wrote, is no run, and the next one takes its
    place. Of several records of a run, the last counts. Raises ValueError for a line that is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self.end = 0
        """Where the whole lines that were read end, in bytes."""
        self._lines = 0
        self._begins: dict[str, int] = {}
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        self.refresh()

    def refresh(self) -> None:
        """Take in what others have appended since."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.end)
            for line in file:
                if line.endswith(b"\n"):
                    self._take_in(line)

    def _take_in(self, line: bytes) -> None:
        self._lines += 1
        try:
            record = json.loads(line)
            key = record["key"]
        except (ValueError, KeyError, TypeError) as error:
            where = f"{self.path}:{self._lines}"
            raise ValueError(f"{where}: not the record of a run; delete the line or the file") from error
        self.records[key] = record
        self._begins[key] = self.end
        self.end += len(line)

    def finished(self, run: Run) -> bool:
        record = self.records.get(run.key)
        return record is not None and record["error"] is None

    def begins(self, run: Run) -> int:
        """Where the run's last record begins in the file, in bytes; -1 where it has none."""
        return self._begins.get(run.key, -1)

    def add(self, record: Record) -> None:
        line = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        with self._lock:
            self.refresh()
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.seek(self.end)
                file.truncate()
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        self.refresh()


def write_parquet(runs: Iterable[Run], records: Mapping[str, Record], path: Path) -> None:
    """A row for each run that was carried out: names, setting, means of the metrics, and their values by item."""
    rows = [(run, records[run.key]) for run in runs if run.key in records]
    metrics = sorted({metric for _, record in rows for metric in record["values"]})
    item = pa.struct([("metric", pa.string()), ("item", pa.string()), ("value", pa.float64())])
    columns: dict[str, Any] = {
        "key": [run.key for run, _ in rows],
        "objective": [run.name for run, _ in rows],
        "seed": [run.seed for run, _ in rows],
    }
    for field in dict.fromkeys(field for run, _ in rows for field in run.setting):
        columns[field] = [dict(run.place).get(field) for run, _ in rows]
    for metric in metrics:
        columns[metric] = [fmean(of.values()) if (of := r["values"].get(metric)) else None for _, r in rows]
    for name in ("peak_memory_mib", "error"):
        columns[name] = [record[name] for _, record in rows]
    columns["seconds"] = [sum(record["seconds"].values()) if record["seconds"] else None for _, record in rows]
    columns["configuration"] = [json.dumps(record["configuration"]) for _, record in rows]
    values = [
        [{"metric": name, "item": key, "value": value} for name, of in r["values"].items() for key, value in of.items()]
        for _, r in rows
    ]
    types = {"error": pa.string(), "peak_memory_mib": pa.float64(), "seconds": pa.float64()}
    arrays = {name: pa.array(column, type=types.get(name)) for name, column in columns.items()}
    unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    pq.write_table(pa.table(arrays | {"values": pa.array(values, type=pa.list_(item))}), unfinished)
    unfinished.replace(path)
