"""The data sets of a trainer: rows, streams or token ids, by name, as what training and evaluation read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, final

import datasets
from transformers import PreTrainedTokenizerBase

from prefopt.data import DataError, DataReport, DataSource, PairStream, is_stream
from prefopt.scoring import PreferenceModel
from prefopt.training.config import PreferenceConfig
from prefopt.training.preflight import pair_check, reject_pairs_beyond_limits
from prefopt.training.streaming import prepare_stream
from prefopt.training.trainer_inputs import PreparedData, log_report, prepare_dataset
from prefopt.validation import set_name

_HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([0-9a-f]{40})/")
"""The address of a file of a data set, at a revision."""


def hub_source(data: Any) -> DataSource | None:
    """Where a Dataset of the hub comes from, as what it knows of its download tells; None of other data."""
    if not isinstance(data, datasets.Dataset):
        return None
    matches = (_HUB_FILE.match(address) for address in data.info.download_checksums or {})
    origins = {match.groups() for match in matches if match is not None}
    if len(origins) != 1:
        return None
    ((path, revision),) = origins
    name = None if data.info.config_name == "default" else data.info.config_name
    return DataSource(path=path, revision=revision, name=name, split=None if data.split is None else str(data.split))


_MOST = 100_000
"""Rows of a stream that an evaluation reads; a stream does not tell whether it ends."""


def _ended(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """The rows of a stream. Raises DataError where they are more than `_MOST`."""
    for number, row in enumerate(rows):
        if number == _MOST:
            raise DataError(
                f"{name} data: a stream of more than {_MOST} rows, and perhaps without end, which an evaluation would "
                "read each time; take as many as it needs, such as data.take(1000), or give the rows as a Dataset"
            )
        yield row


@final
class DataSets:
    """(data, name) -> a data set of token ids that the model can read, or a stream of its pairs; a mapping of several,
    by name; names and None as they are. `reports` holds the DataReport of each by name, `sources` where those of the
    hub come from."""

    def __init__(self, model: PreferenceModel, tokenizer: PreTrainedTokenizerBase, args: PreferenceConfig) -> None:
        objective = model.objective.config
        self.reports: dict[str, DataReport] = {}
        self.sources: dict[str, DataSource] = {}
        self._prepare = partial(prepare_dataset, tokenizer=tokenizer, objective=objective, args=args)
        self._prepare_stream = partial(prepare_stream, tokenizer=tokenizer, extra=objective.columns, args=args)
        self._reject_pairs = partial(reject_pairs_beyond_limits, model)
        self._check = pair_check(model)

    def __call__(self, data: Any, name: str) -> Any:
        if data is None or isinstance(data, str):
            return data
        if isinstance(data, Mapping):
            return {set_name(key): self(rows, f"{name}-{key}") for key, rows in data.items()}
        if (source := hub_source(data)) is not None:
            self.sources[name] = source
        if name == "train" and is_stream(data):
            pairs = data if isinstance(data, PairStream) else self._prepare_stream(data, name=name)
            pairs.check = self._check
            return pairs
        if isinstance(data, PairStream):
            raise DataError(f"{name} data: it is a stream of pairs without end, and an evaluation needs all of them")
        if name != "train" and is_stream(data):
            data = _ended(data, name)
        dataset, report = data if isinstance(data, PreparedData) else self._prepare(data, name=name)
        if report is not None:
            self.reports[name] = report
            if not isinstance(data, PreparedData):  # whose maker has logged it
                log_report(report, name)
        self._reject_pairs(dataset)
        return dataset
