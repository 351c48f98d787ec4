"""The inspection: pairs scored by a run, for the terminal, the page and the files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import datasets

from prefopt.data import DataError, EncodingConfig, prepare, read_rows
from prefopt.data.pairs import SIDES
from prefopt.data.token_texts import decode, response_ids, response_token_texts
from prefopt.inspection.layers import distinct, layer_values, layers
from prefopt.inspection.results import Inspection
from prefopt.inspection.statistics import LayerStatistics
from prefopt.inspection.token_file import token_file
from prefopt.mask_health import MaskHealth
from prefopt.metrics import MetricSums
from prefopt.pages import render
from prefopt.pages.token_view import PairTokens, ResponseTokens, token_view, visible
from prefopt.progress import tracked
from prefopt.scoring.batches import scored_batches
from prefopt.scoring.forward import causal_lm
from prefopt.training import DataSection, SavedRun
from prefopt.training.output_folder import OutputFolderError, reject_mixing
from prefopt.training.trainer_inputs import log_report
from prefopt.whole_files import naming_full_disk, publish_file

_LOG = logging.getLogger(__name__)


def score_pairs(
    run: SavedRun, pairs: datasets.Dataset, *, batch_size: int, metrics: MetricSums | None = None
) -> Iterator[PairTokens]:
    """Every pair of a data set of `prepare`, in its order, as the objective weighs it; the batches' figures of a mask
    are added to `metrics`. Raises NonFiniteError."""
    tokenizer = run.tokenizer
    batches = scored_batches(run.model, pairs, pad_token_id=int(tokenizer.pad_token_id), batch_size=batch_size)
    for rows, _, output in batches:
        if metrics is not None:
            metrics.add(output.metrics)
        layers = layer_values(output)
        rewards = output.rewards.tolist()
        for index, row in enumerate(rows):
            responses = {}
            for side, response in zip(SIDES, (index, index + len(rows)), strict=True):
                ids = response_ids(row, side)
                responses[side] = ResponseTokens(
                    response_token_texts(row, side, tokenizer),
                    {name: values[response, : len(ids)].tolist() for name, values in layers.items()},
                    ids=ids,
                    reward=rewards[response],
                    truncated=row[f"{side}_truncated"],
                )
            prompt = decode(row["prompt_ids"], tokenizer)
            yield PairTokens(prompt, responses["chosen"], responses["rejected"], row=row["row"], where=row["where"])


def reject_unknown_tokens(run: SavedRun, pairs: datasets.Dataset) -> None:
    """Raise DataError if the run's tokenizer makes tokens that one of its models has no embedding for."""
    models = {"policy": run.model.policy} | ({} if run.reference is None else {"reference": run.model.reference_model})
    sizes = {role: causal_lm(model).get_input_embeddings().weight.shape[0] for role, model in models.items()}
    role, size = min(sizes.items(), key=itemgetter(1))
    for row in pairs:
        largest = max(max(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected"))
        if largest >= size:
            raise DataError(
                f"{row['where']}: the tokenizer in {run.folder} makes it token {largest:,}, but the {role} has "
                f"embeddings for {size:,}; the tokenizer is not this model's: put the right one into that folder"
            )


_RANKED = 12
_FILES = ("index.html", "tokens.parquet", "inspection.json")
_LIBRARIES = ("prefopt", "torch", "transformers")


def reject_inspected(out: Path, *, overwrite: bool) -> None:
    """Raise OutputFolderError where the folder holds a run, or an inspection that may not be overwritten."""
    reject_mixing(out, "an inspection")
    names = [name for name in _FILES if (out / name).exists()]
    if names and not overwrite:
        raise OutputFolderError(
            f"{out} holds {', '.join(names)} already; choose another folder, or write over it with --overwrite "
            "(overwrite=True, in Python)"
        )


def inspect_run(
    run: SavedRun,
    data: str | Path,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    shown: int = 50,
    minimum: int = 5,
    batch_size: int = 8,
) -> Inspection:
    """Score every pair of a data set by a run's objective.

    The data is read as the run's training data was, but for `split`, `max_length` and those of `columns` that are
    given; where the run has no run.yaml that would say how, with the defaults, which is logged. The first
    `shown` pairs are kept to be read; tokens are ranked that occur at least `minimum` times in responses. `out` is a
    folder for tokens.parquet (every token of every pair), index.html and inspection.json, which are written beside
    their names and renamed at the end; `overwrite` says that it may hold an earlier inspection.

    Raises OutputFolderError, DataError if rows cannot be used or lack what the objective reads, and NonFiniteError.
    """
    if out is not None:
        reject_inspected(Path(out), overwrite=overwrite)
    pairs = _prepared(run, data, split, columns or {}, max_length)
    reject_unknown_tokens(run, pairs)
    run_layers = layers(run.model.objective.config)
    about = _about(run, data)
    statistics = LayerStatistics(run_layers, run.model.config.get_text_config().vocab_size)
    learns_mask = run.model.mask_metrics.watch is not None
    sums = MetricSums()
    kept: list[PairTokens] = []
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
    with nullcontext() if out is None else token_file(_unfinished(out / "tokens.parquet"), about) as write:
        scored = score_pairs(run, pairs, batch_size=batch_size, metrics=sums)
        for pair in tracked(scored, "scoring pairs", len(pairs)):
            statistics.add(pair)
            if write is not None:
                write(pair)
            if len(kept) < shown:
                kept.append(pair)
    summaries = statistics.summaries()
    ranked = [layer.name for layer in distinct(run_layers) if not summaries[layer.name].constant]
    health = MaskHealth.from_metrics(sums.means()) if learns_mask else None
    inspection = Inspection(
        about=about,
        layers=run_layers,
        summaries=summaries,
        rankings={name: statistics.ranking(name, run.tokenizer, minimum=minimum, shown=_RANKED) for name in ranked},
        pairs=statistics.pairs,
        tokens=statistics.tokens,
        accuracy=statistics.accuracy,
        mask_health=health,
        mask_faults={} if health is None else health.faults(run.model.objective.config.beta),
        shown=kept,
        files=[] if out is None else [out / name for name in _FILES],
    )
    if out is not None:
        page = html_page(inspection, minimum)
        text = json.dumps(inspection.to_dict(), indent=2, ensure_ascii=True)
        with naming_full_disk(out):
            _unfinished(out / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
            _unfinished(out / "inspection.json").write_text(text + "\n", encoding="utf-8")
            for file in inspection.files:
                publish_file(_unfinished(file), file)
    return inspection


def _unfinished(file: Path) -> Path:
    return file.with_name(f".{file.name}.unfinished")


def html_page(inspection: Inspection, minimum: int) -> str:
    """The page as HTML that needs nothing but itself; `minimum` is that of the rankings."""
    view = token_view(inspection.distinct, inspection.shown)
    context = {"inspection": inspection, "view": view, "minimum": minimum, "visible": visible}
    return render("prefopt.inspection", "page.html.jinja", **context)


def _prepared(
    run: SavedRun, data: str | Path, split: str, columns: Mapping[str, str], max_length: int | None
) -> datasets.Dataset:
    settings = run.data or DataSection(train=str(data))
    encoding = settings.encoding
    if max_length is not None:
        encoding = EncodingConfig(**encoding.model_dump() | {"max_length": max_length})
    if run.data is None:
        _LOG.warning(
            "%s has no run.yaml that says how its pairs were read: they are now with max_length %s (--max-length) and "
            "the columns that are given (--column)",
            run.folder,
            encoding.max_length,
        )
    sole = settings.train[0].columns if len(settings.train) == 1 else {}
    pairs, report = prepare(
        read_rows(data, split=split),
        run.tokenizer,
        encoding,
        description=str(data),
        columns={**settings.columns, **sole, **columns},
        extra=run.model.objective.config.columns,
    )
    log_report(report, str(data))
    return pairs


def _about(run: SavedRun, data: str | Path) -> dict[str, Any]:
    return {
        "run": str(run.folder),
        "reference": run.reference,
        "data": str(data),
        "objective": run.model.objective.config.model_dump(mode="json"),
        "versions": {name: version(name) for name in _LIBRARIES},
    }
