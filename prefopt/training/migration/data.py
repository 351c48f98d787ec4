"""The data of TRL's scripts and of the alignment-handbook as sources of a run file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefopt.data.rows import has_splits
from prefopt.training.migration.notes import Notes, Settings

SETTINGS = frozenset(
    """dataset_name dataset_config dataset_train_split dataset_test_split dataset_mixer dataset_splits dataset_configs
dataset_mixture datasets test_split_size dataset_streaming streaming interleaved""".split()
)
"""The settings that `migrate_data` reads; `interleaved`, of LLaMA-Factory's, has fields of `data` and `weights`."""

_FIELDS = {"id": "path", "config": "name", "weight": "fraction"}
"""The alignment-handbook's fields of a source -> those of a run file, where they differ."""

_TAKEN = ("path", "name", "revision", "data_dir", "data_files", "split", "fraction", "rows")


def migrate_data(settings: Settings, notes: Notes, *, evaluates: bool) -> dict[str, Any]:
    """`data.train`, `data.eval` and what says which parts of them are read.

    evaluates  whether the run evaluates while it trains
    """
    if mixture := settings.get("dataset_mixture") or _listed(settings):
        data = _mixture(mixture, settings, notes)
    elif mixer := settings.get("dataset_mixer"):
        data = _mixer(mixer, settings, notes)
    elif name := settings.get("dataset_name"):
        data = _single(name, settings, notes)
    else:
        raise ValueError("no data: give dataset_name, datasets or dataset_mixer")
    if interleaved := dict(settings.get("interleaved") or {}):
        weights = interleaved.pop("weights")
        sources = [source if isinstance(source, dict) else {"path": source} for source in data["train"]]
        weighted = [
            source | {"weight": weight} for source, weight in zip(sources, weights or [1.0] * len(sources), strict=True)
        ]
        data |= {"train": weighted, **interleaved}
    if settings.get("dataset_streaming") or settings.get("streaming"):
        _stream(data, settings, notes)
    if not evaluates and ({"eval", "test_split_size"} & data.keys()):
        unread = sorted({"dataset_test_split", "dataset_splits", "test_split_size"} & settings.keys())
        notes.no_counterpart(
            unread[0] if unread else "evaluation data", "read only where there is an evaluation (eval_strategy)"
        )
        data.pop("eval", None)
        data.pop("test_split_size", None)
    told = {note.setting for note in notes}
    for name in sorted(SETTINGS & settings.keys()):
        if settings[name] and notes.names.get(name, name) not in told:
            notes.no_counterpart(name, "not read beside the setting that names the data")
    return data


def _stream(data: dict[str, Any], settings: Settings, notes: Notes) -> None:
    """`data.streaming`, where the run can have it."""
    source = data["train"]
    is_part = isinstance(source, dict) and {"fraction", "rows"} & source.keys()
    name = "dataset_streaming" if settings.get("dataset_streaming") else "streaming"
    needs_all = settings.get("precompute_ref_log_probs") or settings.get("dataset_num_proc")
    if isinstance(source, list) or is_part or needs_all or "test_split_size" in data:
        notes.no_counterpart(name, "something of this run needs all pairs; they are read once, before training")
    elif settings.get("max_steps", -1) <= 0:
        notes.no_counterpart(name, "data.streaming needs training.max_steps; all pairs are read before training")
    else:
        data["streaming"] = True
        notes.carried_over(name, "data.streaming")


def _single(name: str, settings: Settings, notes: Notes) -> dict[str, Any]:
    source = {"path": name}
    if config := settings.get("dataset_config"):
        source["name"] = config
        notes.carried_over("dataset_config", "data.train.name")
    splits = {"train": settings.get("dataset_train_split", "train"), "eval": settings.get("dataset_test_split", "test")}
    notes.carried_over("dataset_name", "data.train")
    if "dataset_train_split" in settings:
        notes.carried_over("dataset_train_split", "data.train.split")
    if "dataset_test_split" in settings and settings.get("eval_strategy", "no") != "no":
        notes.carried_over("dataset_test_split", "data.eval.split")
    data: dict[str, Any] = {"train": _short(source | _split(splits["train"], "train"))}
    if settings.get("eval_strategy", "no") != "no" or "dataset_test_split" in settings:
        data["eval"] = _short(source | _split(splits["eval"], "test"))
        if not has_splits(name):
            notes.changed(
                "evaluation data",
                f"{name} has no splits, so that data.eval is what is trained on: name other pairs there, or give "
                "data.test_split_size in its place",
            )
    return data


def _listed(settings: Settings) -> Mapping[str, Any] | None:
    """TRL's list of data sets as a mixture."""
    if not settings.get("datasets"):
        return None
    return {"datasets": settings["datasets"], "test_split_size": settings.get("test_split_size")}


def _mixture(mixture: Mapping[str, Any], settings: Settings, notes: Notes) -> dict[str, Any]:
    setting = "dataset_mixture" if "dataset_mixture" in settings else "datasets"
    if not isinstance(mixture, Mapping) or not mixture.get("datasets"):
        raise ValueError(f"{setting}: a list of data sets under `datasets` is needed, each with its path")
    sources = []
    for fields in mixture["datasets"]:
        if not isinstance(fields, Mapping):
            raise ValueError(f"{setting}: a data set is a mapping with its path, not {fields!r}")
        named: dict[str, Any] = {
            _FIELDS.get(key) or key: value for key, value in dict(fields).items() if value is not None
        }
        if "path" not in named:
            raise ValueError(f"{setting}: a data set has no path (id): {fields}")
        if columns := named.pop("columns", None):
            if isinstance(columns, Mapping):
                named["columns"] = dict(columns)
            else:
                notes.no_counterpart(
                    f"columns of {named['path']}", "a list of columns to keep; what nobody reads is named in the report"
                )
        if named.get("fraction") == 1.0:
            del named["fraction"]
        if isinstance(files := named.get("data_files"), Mapping):
            named["data_files"] = _files_of(named.pop("split", "train"), files, setting)
        if unknown := named.keys() - {*_TAKEN, "columns"}:
            notes.no_counterpart(f"{', '.join(sorted(unknown))} of {named['path']}", "no such field of a source here")
        sources.append({key: value for key, value in named.items() if key not in unknown})
    notes.carried_over(setting, "data.train")
    data: dict[str, Any] = {"train": _listing(sources)}
    if size := mixture.get("test_split_size"):
        data["test_split_size"] = size
        notes.changed(
            "test_split_size",
            "data.test_split_size; the run's seed draws other pairs than there (TRL draws anew in every run)",
        )
    if mixture.get("seed") is not None:
        notes.no_counterpart("seed of the mixture", "pairs are drawn by training.data_seed, or seed")
    return data


def _files_of(split: str, files: Mapping[str, Any], setting: str) -> Any:
    """The files of a split, which are then a data set of one split."""
    if split not in files:
        raise ValueError(f"{setting}: data_files has {', '.join(files) or 'nothing'}, and not the split {split!r}")
    return files[split]


def _mixer(mixer: Any, settings: Settings, notes: Notes) -> dict[str, Any]:
    """The alignment-handbook's earlier form: data sets with their fractions, and splits that all of them have."""
    fractions = {mixer: 1.0} if isinstance(mixer, str) else dict(mixer)
    splits = list(settings.get("dataset_splits") or ["train", "test"])
    configs = settings.get("dataset_configs") or [None] * len(fractions)
    if isinstance(configs, str) or len(configs) != len(fractions):
        raise ValueError(f"dataset_configs: {configs} are not as many as the data sets of dataset_mixer")
    roles = {split: "eval" if "test" in split else "train" if "train" in split else None for split in splits}
    if none := [split for split, role in roles.items() if role is None]:
        raise ValueError(
            f"dataset_splits: {none[0]!r} has neither train nor test in its name; name the data in `datasets`"
        )
    sources: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    for (path, fraction), config in zip(fractions.items(), configs, strict=True):
        named = {"path": path} | ({"name": config} if config else {})
        for split, role in roles.items():
            part = {"fraction": float(fraction)} if role == "train" and float(fraction) != 1.0 else {}
            sources[str(role)].append(named | _split(split, "train" if role == "train" else "test") | part)
    notes.carried_over("dataset_mixer", "data.train" + (", data.eval" if sources["eval"] else ""))
    if "dataset_splits" in settings:
        notes.carried_over("dataset_splits", "split of each source")
    if "dataset_configs" in settings:
        notes.carried_over("dataset_configs", "name of each source")
    if not sources["train"]:
        raise ValueError("dataset_splits: no split has train in its name")
    data: dict[str, Any] = {"train": _listing(sources["train"])}
    if len(sources["eval"]) == 1:
        data["eval"] = _short(sources["eval"][0])
    elif sources["eval"]:
        data["eval"] = dict(zip(_names_of(sources["eval"]), sources["eval"], strict=True))
        notes.changed("dataset_splits", "the evaluation sets are measured each by itself, where TRL joins them to one")
    return data


def _names_of(sources: list[dict[str, Any]]) -> list[str]:
    """A name for each source: the last part of its path, or as much more as tells them apart."""
    short = [source["path"].rpartition("/")[2] for source in sources]
    with_split = [f"{name}-{source.get('split', 'test')}" for name, source in zip(short, sources, strict=True)]
    whole = [source["path"].strip("/").replace("/", "-") for source in sources]
    both = [f"{name}-{source.get('split', 'test')}" for name, source in zip(whole, sources, strict=True)]
    return next((names for names in (short, with_split, whole) if len(set(names)) == len(sources)), both)


def _split(split: str, default: str) -> dict[str, str]:
    return {} if split == default else {"split": split}


def _short(source: dict[str, Any]) -> Any:
    return source["path"] if source.keys() == {"path"} else source


def _listing(sources: list[dict[str, Any]]) -> Any:
    return _short(sources[0]) if len(sources) == 1 else [_short(source) for source in sources]
