"""The output folder of a run: refused where it holds another run or what the run reads, cleared when asked to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, final

from transformers import TrainerCallback

from prefopt.training.card_file import CARD, is_card
from prefopt.training.config import PreferenceConfig

_WEIGHTS = ("model.safetensors", "model-*.safetensors", "pytorch_model*.bin", "adapter_model.*")

_OF_A_RUN = ("run.yaml", "objective.yaml", "checkpoint-*", *_WEIGHTS)
"""Names that say that a folder holds a run."""

_WRITTEN = (
    *_OF_A_RUN,
    *(
        "about.json",
        "objective.safetensors",
        "trainer_state.json",
        "training_args.bin",
        "reference",
        "failed-step",
        "samples.jsonl",
    ),
    *("config.json", "generation_config.json", "model.safetensors.index.json", "adapter_config.json"),
)
"""Names that a run writes and that would outlive it beside the next one's."""

_IN_PASSING = ("quarantine-*.jsonl", "base")
"""Names that a run writes before its first step."""

_OTHERS = {"a comparison": "suite.yaml", "an inspection": "inspection.json"}
"""What else a folder may hold, and the file that says so."""


@final
class OutputFolderError(ValueError):
    """An output folder in which something would be lost."""


def run_files(folder: Path) -> list[Path]:
    """The files and folders that say that a folder holds a run, or a model; empty where it holds none."""
    return list(_named(folder, _OF_A_RUN))


def saved_policy(folder: Path) -> bool:
    """Whether the folder holds the policy of a run that has ended."""
    return any(_named(folder, ("objective.yaml", *_WEIGHTS)))


def reject_output_folder(
    args: PreferenceConfig, inputs: Mapping[str, str | None], *, resumed: str | None, resumes: bool
) -> None:
    """Raise OutputFolderError where a run's output folder holds what it reads, or another run that may not be
    overwritten (see `reject_input` and `reject_occupied`)."""
    folder = Path(args.output_dir)
    reject_input(folder, inputs)
    reject_occupied(folder, resumed=resumed, resumes=resumes, overwrite=args.overwrite_output_dir)


@final
class ClearedFolder(TrainerCallback):
    """Removes the run that may be overwritten, once training begins."""

    def on_train_begin(self, args: PreferenceConfig, state: object, control: object, **kwargs: Any) -> None:
        """Do so the first time."""
        if args.overwrite_output_dir:
            clear(Path(args.output_dir))
            args.overwrite_output_dir = False


def reject_occupied(folder: Path, *, resumed: str | None, resumes: bool, overwrite: bool) -> None:
    """Raise OutputFolderError where the folder holds a run, unless that is resumed or may be overwritten.

    resumed    the checkpoint from which the run goes on; None: it starts anew
    resumes    whether it was to go on from a checkpoint
    """
    reject_mixing(folder, "a run")
    checkpoint = None if resumed is None else Path(resumed).resolve()
    if checkpoint is not None and folder.resolve() in checkpoint.parents:
        if overwrite:
            raise OutputFolderError(f"{folder} holds {resumed}, which is resumed; leave one of the two out")
        return
    files = run_files(folder)
    if overwrite or not files or (resumes and checkpoint is None and not saved_policy(folder)):
        return
    remedy = "training.resume_from_checkpoint=true goes on with it"
    if checkpoint is not None:
        remedy = f"{resumed} is not in it"
    elif resumes:
        remedy = "it has no checkpoint to resume"
    raise OutputFolderError(
        f"{folder} holds a run already ({listing(files)}): {remedy}, another folder keeps it, and --overwrite "
        "(overwrite_output_dir) removes it"
    )


def reject_mixing(folder: Path, kind: str) -> None:
    """Raise OutputFolderError where the folder holds other results than those of this kind: a run, a comparison or an
    inspection."""
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"{folder} is a file; choose a folder")
    results = {other: [folder / name] for other, name in _OTHERS.items() if (folder / name).exists()}
    if files := run_files(folder):
        results["a run or a model"] = files
    for other, files in results.items():
        if not other.startswith(kind):
            raise OutputFolderError(f"{folder} holds {other} ({listing(files)}); choose another folder")


def reject_input(folder: Path, inputs: Mapping[str, str | None]) -> None:
    """Raise OutputFolderError where the folder is one that the run reads, or the run would write over what it reads.

    inputs  what it is -> its name, file or folder
    """
    target = folder.resolve()
    for field, name in inputs.items():
        if name is None:
            continue
        path = Path(name).expanduser().resolve()
        if path == target:
            raise OutputFolderError(f"{folder} is the run's {field} as well, and would be written over; choose another")
        if target in path.parents and _matches(path.relative_to(target).parts[0], (*_WRITTEN, *_IN_PASSING)):
            raise OutputFolderError(
                f"{folder} holds the run's {field}, {name}, under a name that the run writes itself; choose another"
            )


def clear(folder: Path) -> None:
    """Remove what an earlier run left in the folder: its weights, checkpoints, adapters and records, and no other
    files. What a run writes in passing is left, as the next one has written its own by then."""
    adapters = [file.parent for file in folder.glob("*/adapter_config.json") if file.parent.name not in _IN_PASSING]
    cards = [folder / CARD] if is_card(folder / CARD) else []
    for path in {*_named(folder, _WRITTEN), *adapters, *cards}:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _named(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if _matches(path.name, patterns))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def listing(files: list[Path], most: int = 3) -> str:
    """The names of files, in words."""
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(path.name for path in files[:most]) + more
