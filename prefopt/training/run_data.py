"""The data sets of a run file: each source prepared by itself, then put together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import datasets
from transformers import PreTrainedTokenizerBase

from prefopt.data import BadRow, DataReport, DataSource, PairStream, SourceRow, hold_out, mix, shuffled
from prefopt.training.config import PreferenceConfig
from prefopt.training.run_file import RunFile
from prefopt.training.streaming import prepare_stream
from prefopt.training.trainer_inputs import PreparedData, log_report, prepare_dataset

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class RunData:
    """Pairs for training and evaluation, the latter one set or several by name, and all sources with their reports."""

    train: PreparedData | PairStream
    evaluation: PreparedData | dict[str, PreparedData] | None
    reports: dict[str, DataReport]
    sources: dict[str, DataSource]


def prepare_run_data(run: RunFile, args: PreferenceConfig, tokenizer: PreTrainedTokenizerBase) -> RunData:
    """The data of a run. Raises DataError where a source cannot be read or has rows that cannot be used."""
    reports: dict[str, DataReport] = {}
    origins: dict[str, DataSource] = {}
    seed = args.seed if args.data_seed is None else args.data_seed
    split = run.data.eval_split

    def prepared(source: DataSource, name: str, split: str, *, optional: bool = False) -> datasets.Dataset:
        columns = {**run.data.columns, **source.columns}
        rows, origins[name] = source.read(split, optional=optional), source
        dataset, report = prepare_dataset(
            rows, tokenizer, run.objective, args, name, columns=columns, description=f"{name} ({source.path})"
        )
        if report is not None:
            reports[name] = report
            log_report(report, f"{name} ({source.path})")
        sample = source.sample(dataset, seed)
        if len(sample) < len(dataset):
            _LOG.info("%s (%s): %d pairs are drawn of %d", name, source.path, len(sample), len(dataset))
        return sample

    def pair_stream(source: DataSource) -> PairStream:
        def rows(number: int) -> Iterator[SourceRow | BadRow]:
            return shuffled(source.read(run.data.split, streaming=True), run.data.buffer_size, f"{seed} {number}")

        origins["train"] = source
        source.read(run.data.split, streaming=True)  # raises where there is none
        columns = {**run.data.columns, **source.columns}
        description = f"train ({source.path})"
        return prepare_stream(
            rows, tokenizer, run.objective.columns, args, "train", columns=columns, description=description
        )

    def mixed(sources: Sequence[DataSource]) -> tuple[datasets.Dataset, datasets.Dataset | None]:
        names = ["train"] if len(sources) == 1 else [f"train-{number}" for number in range(1, len(sources) + 1)]
        parts = [prepared(source, name, run.data.split) for source, name in zip(sources, names, strict=True)]
        train = mix(parts, sources, run.data.mixture, run.data.stopping_strategy, seed)
        if len(parts) > 1:
            _LOG.info("train data: %d pairs of %s", len(train), " + ".join(str(len(part)) for part in parts))
        if (size := run.data.test_split_size) is None:
            return train, None
        train, held_out = hold_out(train, size, seed)
        _LOG.info("%d pairs are for training, %d held out for evaluation", len(train), len(held_out))
        return train, held_out

    train, held_out = (pair_stream(run.data.train[0]), None) if run.data.streaming else mixed(run.data.train)
    evaluation = {
        name: PreparedData(prepared(source, f"eval-{name}" if name else "eval", split, optional=split == "test"), None)
        for name, source in run.data.eval.items()
    }
    trained_on = [_whole(source, run.data.split) for source in run.data.train]
    for name, source in run.data.eval.items():
        if _whole(source, split, optional=split == "test") in trained_on:
            _warn_of_shared(train, evaluation[name].dataset, f"eval-{name}" if name else "eval", source)
    one = evaluation.get("") if held_out is None else PreparedData(held_out, None)
    pairs = train if isinstance(train, PairStream) else PreparedData(train, None)
    return RunData(pairs, one or evaluation or None, reports, origins)


def _whole(source: DataSource, split: str, *, optional: bool = False) -> DataSource:
    """The source without what takes a part of its pairs or renames their columns."""
    part = {"split": source.split_of(split, optional=optional), "fraction": None, "rows": None, "weight": None}
    return source.model_copy(update={**part, "columns": {}})


def _warn_of_shared(
    train: datasets.Dataset | PairStream, evaluation: datasets.Dataset, name: str, source: DataSource
) -> None:
    """Log how many pairs of an evaluation set are those of the training data, which has the same source."""
    pairs = set(evaluation["where"])
    shared = pairs if isinstance(train, PairStream) else pairs & set(train["where"])
    if shared:
        _LOG.warning(
            "%s (%s): %d of its %d pairs are trained on, so that its figures are not those of held-out pairs; name "
            "other pairs, or give data.test_split_size in its place",
            *(name, source.path, len(shared), len(pairs)),
        )
