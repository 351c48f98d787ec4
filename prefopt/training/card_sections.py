"""The sections of a model card: what of a run others need to know, in Markdown."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import PurePath
from typing import Any, final

import yaml

from prefopt.data import DataReport, DataSource
from prefopt.objective import Objective
from prefopt.objective_config import ObjectiveConfig
from prefopt.training.config import PreferenceConfig
from prefopt.training.manifest import LIBRARIES
from prefopt.training.resume import decisive_arguments
from prefopt.zoo.cards import card, equation_of
from prefopt.zoo.naming import papers_of, rows_of

_EQUATION = """    r_t  = w_t log(pi / pi_ref)_t + alpha v_t D_t
    r(y) = beta shaping(r_1 .. r_T)
    loss = link(r(chosen), r(rejected)) + regularisers"""

_FIGURES = ("loss", "rewards/", "logps/", "divergence/")
"""Beginnings of the metrics of which the reference has its own."""

_OF_ADAPTERS = """peft_type r lora_alpha lora_dropout target_modules target_parameters modules_to_save use_dora
use_rslora init_lora_weights""".split()

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The one in C where libyaml is there: every save writes a card."""

_ALWAYS = ("learning_rate", "lr_scheduler_type", "optim", "seed")
"""Settings that a card has at their defaults too."""

_SOURCE = ("name", "revision", "data_dir", "data_files", "split", "columns", "fraction", "rows", "weight")


@final
@dataclass(frozen=True)
class Figures:
    """The metrics of an evaluation, of the policy and, on the same pairs, the reference; `step` is the optimizer's."""

    step: int
    policy: Mapping[str, float]
    reference: Mapping[str, float]


def without_local_paths(value: Any) -> Any:
    """A value of YAML or JSON: of texts that are paths from this machine's root or home, the last part alone."""
    if isinstance(value, Mapping):
        return {key: without_local_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_local_paths(inner) for inner in value]
    if isinstance(value, str) and (PurePath(value).is_absolute() or value.startswith("~")):
        return PurePath(value).name
    return value


def objective_section(objective: Objective) -> str:
    """The row, its equation, and the YAML that gives it anew."""
    config = objective.config
    rows = rows_of(config)
    lines = ["No row of prefopt's zoo: a setting of its own of the equation", _EQUATION]
    if rows:
        row = card(rows[0].name)
        others = f", which is also {_listed(map(str, rows[1:]))}" if rows[1:] else ""
        lines = [f"`{rows[0]}` of prefopt's zoo{others}.", f"    {row.equation}", *row.about]
        lines += [f"Differs: {row.differs}"] if row.differs else []
        lines += ["It is this setting of the equation", _EQUATION]
    parts = [f"| {part.kind} | `{part.name}` | {_cell(equation_of(type(part)))} |" for part in config.components]
    lines.append("\n".join(["| slot | component | |", "|---|---|---|", *parts]))
    fields = without_local_paths(config.model_dump(mode="json"))
    lines.append(_fenced("yaml", _yaml({"objective": fields})))
    return "\n\n".join(lines)


def data_section(
    pairs: Mapping[str, int], reports: Mapping[str, DataReport], sources: Mapping[str, DataSource], digest: str | None
) -> str:
    """The pairs that were trained and evaluated on, where they come from, and what was left out of them and why.

    pairs   data set -> how many it has
    digest  of the training pairs' token ids
    """
    lines = [f"- {name}: {number:,} pairs" for name, number in pairs.items()]
    lines += [f"- source of {name}: {_source(source)}" for name, source in sources.items()]
    for name, report in reports.items():
        lines += [f"- rows of {name}: {escape(line, quote=False)}" for line in report.lines()]
    if unreported := [name for name in pairs if not any(key.startswith(name) for key in reports)]:
        lines.append(f"- held out of the rows of train, or given as token ids: {_listed(unreported)}")
    if digest is not None:
        lines.append(f"- number and digest of the training pairs, by their token ids: {digest}")
    return "\n".join(lines) or "Not known to the trainer that wrote this card."


def settings_section(args: PreferenceConfig, dtype: object, adapter: Any, steps: int) -> str:
    """What decides the numbers of the run, as YAML; `dtype` is the policy's."""
    decisive = decisive_arguments(args)
    settings: dict[str, Any] = {
        "steps": steps,
        "pairs_per_step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "processes": args.world_size,
        "dtype": str(dtype).removeprefix("torch."),
        **{name: value for name, value in decisive.items() if name in _ALWAYS or args.differs(name)},
        **{name: getattr(args, name) for name in ("max_length", "max_prompt_length", "on_too_long")},
    }
    settings.pop("accelerator_config", None)  # an object of accelerate, which differs from its absence
    if adapter is not None:
        fields = json.loads(json.dumps(adapter.to_dict(), default=_plain))
        settings["adapter"] = {name: fields[name] for name in _OF_ADAPTERS if fields.get(name) not in (None, False)}
    kept = {name: value for name, value in settings.items() if value not in (None, {}, "")}
    return _fenced("yaml", _yaml(without_local_paths(kept)))


def figures_section(evaluations: Mapping[str, Figures], log: Sequence[Mapping[str, float]]) -> str:
    """The last evaluation of each data set, with the reference's figures on the same pairs; else the last log."""
    tables = [_table(name, figures) for name, figures in evaluations.items()]
    if tables:
        return "\n\n".join([*tables, "Losses are means over pairs; all margins of the reference are 0 by definition."])
    logged = next((entry for entry in reversed(log) if "loss" in entry), None)
    if logged is None:
        return "None: nothing was logged before this card was written."
    rows = [f"| {name} | {logged[name]:.4g} |" for name in sorted(logged) if name.startswith(_FIGURES)]
    return "\n".join([f"Of the training pairs, at step {logged['step']:g}:", "", "| | policy |", "|---|---:|", *rows])


def versions_section(objective: Objective) -> str:
    """Python, the libraries, and the distributions of the components."""
    libraries = {name: _version(name) for name in LIBRARIES}
    plugins = {name: version for name, version in _distributions(objective).items() if name not in libraries}
    versions = {"python": platform.python_version(), **libraries, **plugins}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def citation_section(config: ObjectiveConfig) -> str:
    """The papers of the row that the objective is, in words and as BibTeX, and prefopt itself."""
    rows = [row.name for row in rows_of(config)[:1]]
    sources = {name: " ".join(card(name).about).partition("Source:")[2].strip() for name in rows}
    lines = [f"`{name}`: {source}" for name, source in sources.items() if source]
    entries = [
        f"@misc{{arXiv:{paper},\n  eprint = {{{paper}}},\n  archivePrefix = {{arXiv}},\n"
        f"  url = {{https://arxiv.org/abs/{paper}}}\n}}"
        for name in rows
        for paper in papers_of(name)
    ]
    version = _version("prefopt")
    entries.append(f"@software{{prefopt,\n  title = {{prefopt}},\n  version = {{{version}}}\n}}")
    return "\n\n".join([*lines, _fenced("bibtex", "\n".join(entries))])


@cache
def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _distributions(objective: Objective) -> dict[str, str]:
    return dict(distribution.rsplit(" ", 1) for distribution in objective.provenance.values())


def _source(source: DataSource) -> str:
    """The name, of a file of this machine without its folders, and what was read of it."""
    options = {name: value for name in _SOURCE if (value := getattr(source, name)) not in (None, {})}
    details = ", ".join(f"{name} {json.dumps(without_local_paths(value))}" for name, value in options.items())
    return f"`{without_local_paths(source.path)}`{details and f' ({details})'}"


def _table(name: str, figures: Figures) -> str:
    rows = []
    for metric in sorted(name for name in figures.policy if name.startswith(_FIGURES)):
        reference = figures.reference.get(metric)
        shown = "" if reference is None else f"{reference:.4g}"
        rows.append(f"| {metric} | {figures.policy[metric]:.4g} | {shown} |")
    heading = f"`{name}`, after step {figures.step}:"
    return "\n".join([heading, "", "| | policy | reference |", "|---|---:|---:|", *rows])


def _yaml(fields: Any) -> str:
    return str(yaml.dump(fields, Dumper=_DUMPER, sort_keys=False, allow_unicode=True))


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _plain(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)
