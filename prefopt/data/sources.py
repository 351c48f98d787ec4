"""Sources of preference data in a run file, and mixtures of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self, final

import datasets
import numpy as np
from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from prefopt.data.rows import BadRow, DataError, SourceRow, has_splits, read_rows
from prefopt.validation import Settings, path_name

Mixture = Literal["concatenate", "interleave"]
"""How several sources are put together: one after the other, or drawn in turns by their weights."""
StoppingStrategy = Literal["first_exhausted", "all_exhausted"]
"""When drawing in turns ends: at the end of the first source, or of the last, shorter ones being repeated."""

_LOADED_WITH = ("name", "revision", "data_dir", "data_files")


@final
class DataSource(Settings):
    """A file, folder or hub data set, with the part of it that is read.

    >>> DataSource(path="my/pairs", fraction=0.5).model_dump()
    {'path': 'my/pairs', 'fraction': 0.5}

    path                       as for `read_rows`
    split                      None: that of the section
    name, revision, data_dir,  of `datasets.load_dataset`, for the hub and folders of data files; name is the
    data_files                 configuration
    columns                    laid over those of the section
    fraction, rows             of the usable pairs, a share or at most so many, drawn by the seed
    weight                     share of the pairs of an interleaved mixture, relative to the others' weights
    """

    path: Annotated[str, AfterValidator(path_name)]
    split: str | None = None
    name: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    data_files: str | tuple[str, ...] | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    fraction: float | None = Field(default=None, gt=0, le=1)
    rows: int | None = Field(default=None, ge=1)
    weight: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.fraction is not None and self.rows is not None:
            raise ValueError("fraction and rows both say how much is read; give one of them")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value not in (None, {})}

    def read(self, split: str, *, optional: bool = False, streaming: bool = False) -> Iterator[SourceRow | BadRow]:
        """The rows. Raises DataError as `read_rows` does.

        split      where the source names none
        optional   whether that split may be left out for a file, which has none
        streaming  as for `read_rows`
        """
        chosen = self.split_of(split, optional=optional)
        options = {name: value for name in _LOADED_WITH if (value := getattr(self, name)) is not None}
        if isinstance(self.data_files, tuple):
            options["data_files"] = list(self.data_files)
        return read_rows(self.path, split=chosen, options=options, streaming=streaming)

    def split_of(self, split: str, *, optional: bool = False) -> str:
        """The split that `read` reads."""
        return self.split or ("train" if optional and not has_splits(self.path) else split)

    def sample(self, dataset: datasets.Dataset, seed: int) -> datasets.Dataset:
        """The pairs of a prepared data set that `fraction` or `rows` leaves."""
        size = len(dataset)
        if self.fraction is not None:
            size = max(1, round(self.fraction * size))
        if self.rows is not None:
            size = min(self.rows, size)
        if size == len(dataset):
            return dataset
        return _renumbered(dataset.shuffle(seed=seed).select(range(size)).flatten_indices())


def mix(
    prepared: Sequence[datasets.Dataset],
    sources: Sequence[DataSource],
    mixture: Mixture,
    stopping_strategy: StoppingStrategy,
    seed: int,
) -> datasets.Dataset:
    """One prepared data set of several, in their order or interleaved by weight, its rows numbered anew."""
    if len(prepared) == 1:
        return prepared[0]
    if mixture == "concatenate":
        mixed = datasets.concatenate_datasets(list(prepared))
    else:
        weights = np.array([source.weight or 1.0 for source in sources])
        mixed = datasets.interleave_datasets(
            list(prepared),
            probabilities=list(weights / weights.sum()),
            seed=seed,
            stopping_strategy=stopping_strategy,
        ).flatten_indices()
    return _renumbered(mixed)


def hold_out(dataset: datasets.Dataset, size: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """A prepared data set without the pairs that are held out, and these: a share below 1, or a number. Raises
    DataError where none would be left."""
    number = max(1, round(size * len(dataset))) if size < 1 else int(size)
    if number >= len(dataset):
        raise DataError(f"test_split_size {size:g} leaves no pair of {len(dataset)} for training; hold fewer out")
    parts = dataset.train_test_split(test_size=number, seed=seed)
    return _renumbered(parts["train"].flatten_indices()), _renumbered(parts["test"].flatten_indices())


def _renumbered(dataset: datasets.Dataset) -> datasets.Dataset:
    features = datasets.Features({"row": dataset.features["row"]})
    numbers = datasets.Dataset.from_dict({"row": np.arange(len(dataset))}, features=features)
    return datasets.concatenate_datasets([numbers, dataset.remove_columns("row")], axis=1)
