"""Uploads to the hub: what of a run's folder others may have, without the paths and tokens of this machine."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, final

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from prefopt.training.card_file import CARD
from prefopt.training.card_sections import without_local_paths
from prefopt.training.loading import MERGED_BASE
from prefopt.training.manifest import MANIFEST, Manifest
from prefopt.training.model_card import hub_name
from prefopt.training.output_folder import saved_policy
from prefopt.training.references import without_tokens
from prefopt.validation import one_line

_LOG = logging.getLogger(__name__)

_UPLOADS = ".upload-"
"""Beginning of the names of the folders, in the run's, that are uploaded."""

_POLICY = """config.json generation_config.json *.safetensors *.safetensors.index.json adapter_config.json
adapter_model.* tokenizer* special_tokens_map.json added_tokens.json vocab* merges.txt *.model chat_template*
preprocessor_config.json processor_config.json objective.yaml run.yaml *.py""".split()
"""What is uploaded, besides the card, the folders of adapters and the base of a merged one."""

_FOLDERS = (MERGED_BASE, "reference", "additional_chat_templates")

_WEIGHTS = [
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "adapter_model.*",
    "objective.*",
]
"""Files of the repository's root that an upload replaces or removes: others than its own would be loaded with it."""


@final
class UploadError(OSError):
    """Something that could not be sent to the hub; what was to be sent is whole in its folder."""


def create_repository(name: str, *, token: str | None, private: bool | None) -> str:
    """The full name of the repository, which is made where it is not there. Raises UploadError."""
    try:
        return str(HfApi().create_repo(name, token=token, private=private, exist_ok=True).repo_id)
    except Exception as error:  # of the client, of the network, or of the hub
        problem = f"hub: the repository {name} can be neither made nor used ({_reason(error)})"
        raise UploadError(f"{problem}; {_remedy(error)}") from error


def require_login(token: str | None) -> str:
    """The name of who is logged in. Raises UploadError where nobody is, or the hub is not reached."""
    try:
        return str(HfApi().whoami(token=token)["name"])
    except Exception as error:
        raise UploadError(f"hub: nothing can be uploaded ({_reason(error)}); {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    """What to do where the hub has refused, and where it was not reached."""
    if isinstance(error, HfHubHTTPError | HFValidationError | LocalTokenNotFoundError):
        return "log in with `hf auth login`, name another one (hub_model_id), or leave push_to_hub out"
    return (
        "where the hub is not to be reached from here, leave push_to_hub out, and upload the saved folder later with "
        "prefopt.training.push_run"
    )


def remove_unfinished(folder: Path) -> None:
    """Remove what uploads of a killed run left."""
    for path in folder.glob(f"{_UPLOADS}*"):
        shutil.rmtree(path)


def upload_policy(folder: Path, repository: str, *, blocking: bool = True, **options: Any) -> Any:
    """Upload the policy, its card, the objective with its mask, and the run file of a folder. The commit's information,
    or its future.

    options  of `HfApi.upload_folder`: commit_message, token, revision
    Raises UploadError, of an upload that is not blocking in its future and as a warning.
    """
    return _upload(folder, repository, _of_policy(folder), blocking, delete_patterns=_WEIGHTS, **options)


def upload_checkpoint(folder: Path, repository: str, path_in_repo: str, *, blocking: bool, **options: Any) -> Any:
    """Upload a checkpoint, from which a run can go on. Its manifest is that of the files as they are uploaded."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != TRAINING_ARGS_NAME]
    return _upload(folder, repository, files, blocking, path_in_repo=path_in_repo, delete_patterns=["*"], **options)


def push_run(
    folder: str | Path, hub_model_id: str, *, token: str | None = None, private: bool | None = None, **options: Any
) -> Any:
    """Upload the folder of a run or a checkpoint, as `push_to_hub` does in training: its policy, card, objective and
    mask, and its run file without paths of this machine. Raises UploadError, ValueError where it holds no policy.

    options  revision and commit_message of `HfApi.upload_folder`
    """
    folder = _with_policy(folder)
    repository = create_repository(hub_model_id, token=token, private=private)
    return upload_policy(folder, repository, token=token, **{"commit_message": "Upload policy"} | options)


def stage_run(folder: str | Path, target: str | Path) -> list[str]:
    """Write the files that `push_run` uploads of a folder, as it uploads them, into a new folder, to look at or to
    upload from another machine. Their names. Raises ValueError where the folder holds no policy, FileExistsError."""
    folder, target = _with_policy(folder), Path(target)
    target.mkdir(parents=True)
    _stage(folder, _of_policy(folder), target)
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


def _with_policy(folder: str | Path) -> Path:
    folder = Path(folder)
    if not saved_policy(folder):
        raise ValueError(f"{folder}: it holds no policy; give the output_dir of a run that has ended, or a checkpoint")
    return folder


def _of_policy(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.name == CARD or any(fnmatch(path.name, pattern) for pattern in _POLICY)):
            yield path
        elif path.is_dir() and (path.name in _FOLDERS or (path / "adapter_config.json").is_file()):
            yield from (inner for inner in sorted(path.rglob("*")) if inner.is_file())


def _upload(folder: Path, repository: str, files: Any, blocking: bool, **options: Any) -> Any:
    staged = Path(tempfile.mkdtemp(prefix=_UPLOADS, dir=folder.parent if (folder / MANIFEST).is_file() else folder))
    try:
        _stage(folder, files, staged)
        upload: Any = HfApi().upload_folder
        job = upload(repo_id=repository, folder_path=str(staged), run_as_future=not blocking, **options)
    except Exception as error:  # of the disk, of the client, of the network, or of the hub
        shutil.rmtree(staged, ignore_errors=True)
        raise _failure(folder, repository, error) from error
    if blocking:
        shutil.rmtree(staged)
    else:
        job.add_done_callback(partial(_finished, folder, repository, staged))
    return job


def _stage(folder: Path, files: Iterable[Path], target: Path) -> None:
    """Copy files of a folder as they are uploaded."""
    for path in files:
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, copy)
    if (manifest := Manifest.load(folder)) is not None and (target / MANIFEST).is_file():
        Manifest.write(target, step=manifest.step, settings=manifest.settings)


def _finished(folder: Path, repository: str, staged: Path, job: Any) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    if not job.cancelled() and (error := job.exception()) is not None:
        _LOG.warning("%s", _failure(folder, repository, error))


def _failure(folder: Path, repository: str, error: BaseException) -> UploadError:
    return UploadError(
        f"{folder}: the upload to {repository} failed ({_reason(error)}); what is saved there is whole: mend that, and "
        f"upload it with prefopt.training.push_run({str(folder)!r}, {repository!r})"
    )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _copy(path: Path, target: Path) -> None:
    """Put a file where it is uploaded from, without the paths and tokens of this machine that it may hold."""
    if path.name == "adapter_config.json":
        fields = json.loads(path.read_text(encoding="utf-8"))
        base = fields.get("base_model_name_or_path")
        _write_json(fields | {"base_model_name_or_path": hub_name(base)}, target)
    elif path.name == TRAINER_STATE_NAME:
        _write_json(without_local_paths(json.loads(path.read_text(encoding="utf-8"))), target)
    elif path.name in ("run.yaml", "objective.yaml"):
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section in ("model", "training"):
            if isinstance(fields.get(section), dict):
                fields[section] = without_tokens(fields[section])
        _drop(fields.get("model"))
        target.write_text(yaml.safe_dump(without_local_paths(fields), sort_keys=False), encoding="utf-8")
    else:
        try:
            os.link(path, target)
        except OSError:  # another disk, or one without links
            shutil.copy2(path, target)


def _write_json(fields: Any, target: Path) -> None:
    target.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _drop(model: Any) -> None:
    """Leave out the token among the options of `from_pretrained`."""
    if isinstance(model, dict) and isinstance(model.get("init"), dict):
        model["init"].pop("token", None)
