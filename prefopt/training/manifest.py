"""The manifest of a checkpoint: what files it is made of, and the run that wrote it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from prefopt.validation import one_line, problem_of
from prefopt.whole_files import sha256

MANIFEST = "manifest.json"

LIBRARIES = ("prefopt", "torch", "transformers", "accelerate", "datasets", "peft", "tokenizers")


@final
class CheckpointError(ValueError):
    """A checkpoint that is not whole, or that another run wrote."""


@final
class FileDigest(BaseModel):
    """The size of a file in bytes, and its SHA-256 as `sha256sum` prints it."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Of the file as it is."""
        return cls(bytes=path.stat().st_size, sha256=sha256(path))


@final
class Manifest(BaseModel):
    """manifest.json, which is written after all other files of a checkpoint.

    step      of the optimizer
    versions  of the libraries
    settings  of the run (see `resume`)
    files     path within the checkpoint -> size and digest
    digest    SHA-256 of all this, so that a manifest that is damaged is known from one of another run
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    versions: dict[str, str]
    settings: dict[str, Any]
    files: dict[str, FileDigest]
    digest: str = ""

    @classmethod
    def write(cls, folder: Path, *, step: int, settings: dict[str, Any]) -> None:
        """Write the manifest of all files that the folder holds."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
        manifest = cls(
            step=step,
            versions={name: importlib.metadata.version(name) for name in LIBRARIES},
            settings=settings,
            files={str(path.relative_to(folder)): FileDigest.from_file(path) for path in paths},
        )
        fields = manifest.model_dump(mode="json")
        text = json.dumps({**fields, "digest": _digest(fields)}, indent=2)
        (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The folder's; None where it has none. Raises CheckpointError where that cannot be read."""
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            fields = json.loads(path.read_bytes())
            manifest = cls.model_validate(fields)
        except (ValueError, RecursionError) as error:
            problem = problem_of(error.errors()[0]) if isinstance(error, ValidationError) else one_line(error)
            raise CheckpointError(f"{path}: cut or damaged ({problem})") from None
        if manifest.digest != _digest(fields):
            raise CheckpointError(f"{path}: not what was written, as its digest shows")
        return manifest


def _digest(fields: Mapping[str, Any]) -> str:
    """Of a manifest's JSON, whatever its spaces, but for the digest itself."""
    rest = {name: value for name, value in fields.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def reject_damaged(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint whose files are as they were written; None of one by a version before 0.2, whose
    files can be read. Raises CheckpointError for a checkpoint that is not whole."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such checkpoint")
    manifest = Manifest.load(folder)
    if manifest is None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if (problem := _unreadable(path)) is not None:
                raise CheckpointError(f"{path}: {problem}")
        return None
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, and the manifest has it")
        if (size := path.stat().st_size) != digest.bytes:
            raise CheckpointError(f"{path}: {size:,} bytes, and {digest.bytes:,} were written")
        if FileDigest.from_file(path) != digest:
            raise CheckpointError(f"{path}: not the bytes that were written; its SHA-256 is another")
    return manifest


def _unreadable(path: Path) -> str | None:
    """What is wrong with a file whose format can be checked; None if nothing."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                file.keys()
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as file:
                return None if file.testzip() is None else "damaged"
    except (SafetensorError, ValueError, zipfile.BadZipFile, EOFError, OSError) as error:
        return f"cut or damaged ({one_line(error)})"
    return None
