"""The data sets of a run file: each source prepared by itself, then put together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import final

import datasets
from transformers import PreTrainedTokenizerBase

from prefopt.data import DataReport, DataSource, hold_out, mix
from prefopt.training.config import PreferenceConfig
from prefopt.training.run_file import RunFile
from prefopt.training.trainer_inputs import PreparedData, log_report, prepare_dataset

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class RunData:
    """Pairs for training and evaluation, the latter one set or several by name, and all sources with their reports."""

    train: PreparedData
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
        return source.sample(dataset, seed)

    sources = run.data.train
    names = ["train"] if len(sources) == 1 else [f"train-{number}" for number in range(1, len(sources) + 1)]
    parts = [prepared(source, name, run.data.split) for source, name in zip(sources, names, strict=True)]
    train = mix(parts, sources, run.data.mixture, run.data.stopping_strategy, seed)
    if len(parts) > 1:
        _LOG.info("train data: %d pairs of %s", len(train), " + ".join(str(len(part)) for part in parts))
    held_out = None
    if (size := run.data.test_split_size) is not None:
        train, held_out = hold_out(train, size, seed)
        _LOG.info("%d pairs are for training, %d held out for evaluation", len(train), len(held_out))
    evaluation = {
        name: PreparedData(prepared(source, f"eval-{name}" if name else "eval", split, optional=split == "test"), None)
        for name, source in run.data.eval.items()
    }
    one = evaluation.get("") if held_out is None else PreparedData(held_out, None)
    return RunData(PreparedData(train, None), one or evaluation or None, reports, origins)
