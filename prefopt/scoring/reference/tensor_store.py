"""A folder of tensors by key, in shards that any number of processes write atomically.

A shard is a safetensors file with one tensor per field: the entries of its keys, concatenated along the first axis. Its
header has the keys and the lengths of their entries, so that a reader maps the file and takes the rows that it needs.
Its name is the SHA-256 digest of its bytes, which a process checks once, as it opens the shard.
"""

from __future__ import annotations

import json
import re
import time
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prefopt.whole_files import publish_file, sha256

SHARD_BYTES = 128 * 2**20
"""Size at which a shard is written: the most that a process loses when it is killed."""

_STALE_SECONDS = 3600

_SUFFIX, _UNFINISHED = ".safetensors", ".unfinished"

_DIGEST = re.compile(r"[0-9a-f]{64}")
"""The name of a shard; those of version 0.1 have other names."""


@final
class StoreError(RuntimeError):
    """A shard that cannot be read or written, or a cache that is not the reference's; the message says what to do."""


class _DamagedError(ValueError):
    """A shard that is not what was written."""


class _Location(NamedTuple):
    shard: Path
    start: int
    length: int


@final
class TensorStore:
    """A tensor [length, ...] for each text key and field.

    Shards that lack one of the fields are ignored. Entries that other processes add appear after `refresh`. A copy or a
    pickle opens the folder anew, without entries that were not flushed.
    """

    def __init__(self, folder: str | Path, fields: Iterable[str]) -> None:
        self.folder = Path(folder)
        self.fields = tuple(sorted(fields))
        self._locations: dict[str, _Location] = {}
        self._open: dict[Path, Any] = {}
        self._seen: set[Path] = set()
        self._pending: dict[str, Mapping[str, Tensor]] = {}
        self._pending_bytes = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self.refresh()

    def __reduce__(self) -> tuple[type[Self], tuple[Path, tuple[str, ...]]]:
        return type(self), (self.folder, self.fields)

    def __contains__(self, key: str) -> bool:
        return key in self._locations or key in self._pending

    @property
    def bytes_per_row(self) -> float:
        """Bytes of a row of an entry, over all fields; 0 in an empty store."""
        key = next(iter({**self._locations, **self._pending}), None)
        if key is None:
            return 0.0
        entry = self.read([key])
        return sum(tensor.nbytes for tensor in entry.values()) / max(1, len(entry[self.fields[0]]))

    def refresh(self) -> None:
        """Index new shards. One that is damaged is removed, so that what it held is made anew, with a warning that
        names it, as are those without a digest. Raises StoreError for a shard that may not be read."""
        new = [shard for shard in sorted(self.folder.glob(f"*{_SUFFIX}")) if shard not in self._seen]
        for shard in new:
            self._take(shard)
        undigested = [shard for shard in new if shard in self._seen and not _DIGEST.fullmatch(shard.stem)]
        if undigested:
            warnings.warn(
                f"{self.folder}: {len(undigested)} of {len(new)} shards were written by an earlier release, without "
                "the digest that shows damage; delete the folder to have what they hold made anew",
                stacklevel=2,
            )

    def _take(self, shard: Path) -> None:
        """Index a shard that another process wrote, or remove it."""
        try:
            if _DIGEST.fullmatch(shard.stem) and sha256(shard) != shard.stem:
                raise _DamagedError("not what was written, of which its name is the digest")
            self._index(shard)
        except FileNotFoundError:
            return  # another process has removed it since
        except PermissionError as error:
            raise StoreError(f"{shard}: cannot be read ({error.strerror}); allow it, or name another folder") from error
        except (_DamagedError, OSError, SafetensorError) as error:
            self._open.pop(shard, None)
            self._seen.discard(shard)
            shard.unlink(missing_ok=True)
            warnings.warn(f"{shard}: {error}; it is removed, and what it held is made anew", stacklevel=4)

    def read(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The entries of the keys in order, concatenated along the first axis. Raises KeyError for an unknown key."""
        return {field: torch.cat([self._entry(field, key) for key in keys]) for field in self.fields}

    def add(self, key: str, entry: Mapping[str, Tensor]) -> None:
        """Add an entry; it is written when a shard is full or by `flush`."""
        self._pending[key] = {field: entry[field].detach().cpu() for field in self.fields}
        self._pending_bytes += sum(tensor.nbytes for tensor in self._pending[key].values())
        if self._pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the entries that were added since the last shard: to a temporary file, which is then renamed."""
        if not self._pending:
            return
        unfinished = self.folder / f"{uuid.uuid4().hex}{_UNFINISHED}"
        entries = list(self._pending.values())
        tensors = {field: torch.cat([entry[field] for entry in entries]) for field in self.fields}
        lengths = [len(entry[self.fields[0]]) for entry in entries]
        header = {"keys": json.dumps(list(self._pending)), "lengths": json.dumps(lengths)}
        try:
            save_file(tensors, unfinished, metadata=header)
            shard = self.folder / f"{sha256(unfinished)}{_SUFFIX}"
            publish_file(unfinished, shard)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise StoreError(
                f"{self.folder}: a shard of {self._pending_bytes:,} bytes cannot be written ({error}); make room or "
                "name a folder on another disk: the shards that are there are kept, and the same command goes on"
            ) from error
        self._pending, self._pending_bytes = {}, 0
        self._index(shard)
        self.refresh()

    def _entry(self, field: str, key: str) -> Tensor:
        if key in self._pending:
            return self._pending[key][field]
        shard, start, length = self._locations[key]
        entry: Tensor = self._shard(shard).get_slice(field)[start : start + length]
        return entry

    def _index(self, shard: Path) -> None:
        file = self._shard(shard)
        self._seen.add(shard)
        if not set(self.fields) <= set(file.keys()):
            del self._open[shard]
            return
        start = 0
        for key, length in _entries(shard, file):
            self._locations[key] = _Location(shard, start, length)
            start += length

    def _shard(self, shard: Path) -> Any:
        if shard not in self._open:
            self._open[shard] = safe_open(shard, framework="pt")
        return self._open[shard]

    def _sweep(self) -> None:
        """Remove unfinished shards of killed processes: those older than an hour."""
        for unfinished in self.folder.glob(f"*{_UNFINISHED}"):
            with suppress(FileNotFoundError):  # another process has finished it since
                if time.time() - unfinished.stat().st_mtime > _STALE_SECONDS:
                    unfinished.unlink()


def _entries(shard: Path, file: Any) -> list[tuple[str, int]]:
    """The keys of a shard and the lengths of their entries. Raises _DamagedError where its header has others."""
    header = file.metadata() or {}
    try:
        keys, lengths = json.loads(header["keys"]), json.loads(header["lengths"])
        rows = {file.get_slice(field).get_shape()[0] for field in file.keys()}  # noqa: SIM118
        if len(keys) == len(lengths) and rows <= {sum(lengths)}:
            return list(zip(keys, lengths, strict=True))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _DamagedError(f"its header is none of a shard ({type(error).__name__}: {error})") from error
    raise _DamagedError("its header names other entries than it has")
