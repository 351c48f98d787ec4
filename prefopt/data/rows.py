"""Reading rows of preference data from files, folders, the Hugging Face hub and memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import IO, Any, cast

import datasets

from prefopt.data.counted import Counted, number_of_lines
from prefopt.data.json_values import DoubledKeyError, describe, json_value
from prefopt.validation import in_line, one_line

_SAVED = ("dataset_dict.json", "state.json")
"""Files of a folder that `save_to_disk` wrote."""


_LINES = (".jsonl", ".csv")
"""Suffixes of files that have a row on a line, or nearly so."""


class DataError(ValueError):
    """Unusable data; the message gives the position, the problem and the remedy."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    where    file and line, or the row's number and the name of its data set
    field    the faulty field's name in the source; "" for the row as a whole
    problem  what was found
    remedy   what to do about it
    content  the row as it was read, for the quarantine file
    """

    where: str
    field: str
    problem: str
    remedy: str
    content: object

    def __str__(self) -> str:
        field = f"field {self.field!r}: " if self.field else ""
        return f"{self.where}: {field}{self.problem}; {self.remedy}"


@dataclass(frozen=True)
class SourceRow:
    """A row as it was read: its position, as in BadRow, and its fields by name."""

    where: str
    fields: Mapping[str, object]

    def bad(self, field: str, problem: str, remedy: str) -> BadRow:
        """This row as a BadRow."""
        return BadRow(self.where, field, problem, remedy, self.fields)

    def value(self, role: str, field: str, absent: Iterable[str] = ()) -> object:
        """The value of a field, which `columns` may have renamed from `role`. Raises RowError where it is absent; the
        remedy names the other roles that are `absent`, too."""
        if field not in self.fields:
            raise RowError(
                field,
                f"found no such field, only {', '.join(map(in_line, sorted(self.fields))) or 'an empty row'}",
                f"add it, or say which column holds it with {renaming(dict.fromkeys((role, *absent), 'NAME'))}",
            )
        return self.fields[field]


def renaming(columns: Mapping[str, str]) -> str:
    """How fields are renamed, for the remedy of a message: in a run file or Python, and as options of a command."""
    options = " ".join(f"--column {field}={column}" for field, column in columns.items())
    fields = ", ".join(f"{field}: {column}" for field, column in columns.items())
    return f"columns: {{{fields}}} ({options} of data check and inspect)"


class RowError(Exception):
    """The field, problem and remedy of a BadRow, in `report`."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(field, problem, remedy)
        self.report = (field, problem, remedy)


def read_rows(
    source: str | Path,
    *,
    split: str = "train",
    options: Mapping[str, Any] | None = None,
    streaming: bool = False,
) -> Iterator[SourceRow | BadRow]:
    """The rows of a file, a folder or a hub data set.

    Files: `.jsonl`, `.jsonl.gz` (one JSON object a line; blank lines are skipped), `.json`, `.json.gz` (a list of
    objects), `.parquet`, `.csv` (with a header). Folders: written by `save_to_disk`, or of data files. Any other name
    is one of the hub. `split` chooses a split of a folder or a hub data set, and `options` are further arguments of
    `datasets.load_dataset`, such as the configuration's name. With `streaming`, what it loads is not copied into its
    cache first; files are read as they are in any case. A line that is no JSON object is a BadRow.

    Raises DataError at once for a source that does not exist or is unreadable, and for another split than "train" or
    for options of one that has none; while reading, for a damaged archive.
    """
    path, options = Path(source).expanduser(), options or {}
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be a name of the hub
    except (OSError, ValueError) as error:  # too long a name, a null byte, no rights
        raise DataError(f"{str(source)!r}: no file or folder can be read there ({one_line(error)})") from error
    if options and (path.is_file() or any((path / name).is_file() for name in _SAVED)):
        raise DataError(f"{source}: it is read without load_dataset, which takes {', '.join(options)}; leave that out")
    if split != "train" and not has_splits(source):
        raise DataError(f"{source}: it has no splits, so that nobody would read the split {split!r}; leave it out")
    if path.is_dir():
        folder = _folder(path, split, options, streaming)
        return Counted(rows_of(folder, name=str(source)), length_hint(folder))
    reader = next((reader for suffix, reader in _READERS.items() if path.name.lower().endswith(suffix)), None)
    if path.is_file():
        if reader is None:
            raise DataError(f"{source}: cannot tell the format from the name; give a file in {', '.join(_READERS)}")
        return Counted(reader(path), number_of_lines(path) if path.name.lower().endswith(_LINES) else 0)
    # A mistyped file name must not become a request to the hub, whose error would be about accounts and tokens.
    name = str(source)
    if isinstance(source, Path) or reader is not None or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DataError(f"{source}: no such file or folder; it was looked for at {path.absolute()}")
    loaded = _load(name, split, options, streaming)
    return Counted(rows_of(loaded, name=name), length_hint(loaded))


def has_splits(source: str | Path) -> bool:
    """Whether a source may have splits: files, and folders of `Dataset.save_to_disk`, have none."""
    path = Path(source).expanduser()
    return not path.is_file() and not (path / "state.json").is_file()


def rows_of(dataset: Iterable[Mapping[str, object] | SourceRow | BadRow], *, name: str) -> Iterator[SourceRow | BadRow]:
    """The rows of a data set in memory, numbered from 0; those that `read_rows` made as they are.

    name  for messages
    """
    for number, value in enumerate(dataset):
        yield value if isinstance(value, SourceRow | BadRow) else _row(f"row {number} of {name}", value)


def _row(where: str, value: object) -> SourceRow | BadRow:
    if isinstance(value, Mapping):
        if names := [name for name in value if not isinstance(name, str)]:
            return BadRow(where, "", f"found the key {names[0]!r}", "give names of fields as text", value)
        return SourceRow(where, value)
    return BadRow(where, "", f"found {describe(value)} where a row should be", "make each row an object", value)


def _json_lines(path: Path) -> Iterator[SourceRow | BadRow]:
    with _open(path) as file:
        for number, line in enumerate(_lines(path, file), start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            content = line.decode("utf-8", errors="replace").rstrip("\r\n")
            try:
                value = json_value(line)
            except DoubledKeyError as error:
                yield BadRow(where, str(error), f"found the key {str(error)!r} twice", "keep one of the two", content)
            except ValueError as error:
                yield BadRow(where, "", f"found a line that is not JSON ({error})", "mend or remove the line", content)
            else:
                yield _row(where, value)


def _json_list(path: Path) -> Iterator[SourceRow | BadRow]:
    with _open(path) as file:
        text = b"".join(_lines(path, file))
    try:
        values = json_value(text)
    except DoubledKeyError as error:
        raise DataError(f"{path}: an object has the key {str(error)!r} twice; keep one of the two") from error
    except ValueError as error:
        raise DataError(
            f"{path}: not a JSON document ({error}); if it holds one object a line, name it .jsonl"
        ) from error
    if not isinstance(values, list):
        raise DataError(f"{path}: found {describe(values)}; a .json file must hold a list of objects")
    return rows_of(values, name=str(path))


def _parquet(path: Path) -> Iterator[SourceRow | BadRow]:
    # Streaming reads the file itself; otherwise `datasets` would first copy it into its cache.
    return _table(path, "parquet", {})


def _csv(path: Path) -> Iterator[SourceRow | BadRow]:
    return _table(path, "csv", {"keep_default_na": False})  # text such as "NA" and "null" is text, not a missing value


def _table(path: Path, kind: str, options: Mapping[str, object]) -> Iterator[SourceRow | BadRow]:
    """The rows of a file; the error of one that is damaged, or changes its types on the way, names it."""
    with _readable(path, f"not a readable {kind.upper() if kind == 'csv' else kind.title()} file"):
        table = datasets.load_dataset(kind, data_files=str(path.absolute()), split="train", streaming=True, **options)
        yield from rows_of(table, name=str(path))


_UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What `datasets` raises for files that are damaged, beside its own errors."""


@contextmanager
def _readable(path: Path, problem: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (*_UNREADABLE, datasets.exceptions.DatasetsError) as error:
        cause = one_line(error.__cause__ or error)
        raise DataError(f"{path}: {problem} ({cause}); mend it, or write the rows as .jsonl") from error


def _folder(path: Path, split: str, options: Mapping[str, Any], streaming: bool) -> Iterable[Mapping[str, object]]:
    if not any((path / name).is_file() for name in _SAVED):
        return _load(str(path), split, options, streaming)
    with _readable(path, "not a readable folder of Dataset.save_to_disk"):
        saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.Dataset):
        return saved
    if split not in saved:
        raise DataError(f"{path}: no split {split!r}; it has {', '.join(map(repr, saved))}")
    return saved[split]


def _load(name: str, split: str, options: Mapping[str, Any], streaming: bool) -> Iterable[Mapping[str, object]]:
    try:
        return datasets.load_dataset(name, split=split, **options, **({"streaming": True} if streaming else {}))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name}: load_dataset(..., split={split!r}) found no data set: {one_line(error)}; "
            "give a file or folder that exists here, or the name of a data set on the hub"
        ) from error


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """The lines of the file; the error of a damaged archive names it, which gzip's do not."""
    try:
        yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the compressed file is damaged ({error}); fetch or write it again") from error


_READERS: Mapping[str, Callable[[Path], Iterator[SourceRow | BadRow]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json_list,
    ".json.gz": _json_list,
    ".parquet": _parquet,
    ".csv": _csv,
}
