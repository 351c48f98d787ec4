"""prefopt doctor"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import typer
from rich.markup import escape
from rich.table import Table

from prefopt.cli.console import UNUSABLE, console, error_console

EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "benchmarks": "the benchmarks of the repository",
        "plots": "pictures of the charts beside a report",
        "scorers": "word lists and classifiers of sentiment: the task sentiment, the scorers vader and preferences",
        "judges": "win rates by an OpenAI-compatible endpoint",
        "summarization": "ROUGE and BLEU: the task summarization",
        "bert-score": "BERTScore, in the task summarization",
        "lm-eval": "EleutherAI's evaluation harness: the task lm-eval",
        "ray": "comparisons on a Ray cluster",
        "slurm": "comparisons on a SLURM cluster, by submitit",
        "docs": "the site of the documentation",
        "test": "the tests",
    }
)
"""What the extras of the package are for."""

_PEERS = ("deepspeed", "bitsandbytes", "trl", "triton", "flash-attn")
"""Distributions that prefopt does not depend on, and that change what a run does where they are there."""


def doctor() -> None:
    """Versions, accelerators, plugins, extras and cache folders. Exit code 2 where something is wrong, a line each."""
    versions, faults = _versions()
    console.print(versions)
    console.print(_extras())
    folders, unwritable = _folders()
    console.print(folders)
    faults += unwritable
    try:
        console.print(_accelerators())
        plugins, broken = _plugins()
    except (ImportError, OSError) as error:  # of a library that is broken, such as torch without a driver's file
        faults.append(f"{type(error).__name__}: {error}; install that library anew")
    else:
        console.print(plugins)
        faults += broken
    for fault in faults:
        error_console.print(f"[red]error:[/] {escape(fault)}")
    if faults:
        raise typer.Exit(UNUSABLE)
    console.print("\nNothing is wrong.")


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=f"\n{title}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(distribution, versions that fit, extra) of the package's metadata; the extra of a dependency is empty."""
    from packaging.requirements import Requirement

    for text in metadata.requires("prefopt") or ():
        requirement = Requirement(text)
        for extra in ("", *EXTRAS):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield requirement.name, str(requirement.specifier), extra
                break


def _fits(distribution: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    version = _version(distribution)
    return version is not None and SpecifierSet(specifier).contains(version, prereleases=True)


def _versions() -> tuple[Table, list[str]]:
    """The versions of Python, prefopt and what it depends on; what does not fit."""
    table, faults = _table("versions", "", "version", "needed"), []
    table.add_row("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}", sys.executable)
    table.add_row("prefopt", _version("prefopt"), "")
    for name, specifier, extra in _requirements():
        if not extra:
            table.add_row(name, _version(name) or "[red]missing[/]", specifier)
            if not _fits(name, specifier):
                state = f"is {_version(name)}" if _version(name) else "is missing"
                faults.append(f"{name} {state}, and prefopt needs {specifier}: pip install '{name}{specifier}'")
    for name in _PEERS:
        if version := _version(name):
            table.add_row(name, version, "")
    return table, faults


def _extras() -> Table:
    table = _table("extras", "", "state", "for")
    lacking: dict[str, list[str]] = {extra: [] for extra in EXTRAS}
    for name, specifier, extra in _requirements():
        if extra and not _fits(name, specifier):
            lacking[extra].append(name)
    for extra, names in lacking.items():
        state = f"without {', '.join(names)}: pip install 'prefopt[{extra}]'" if names else "installed"
        table.add_row(extra, escape(state), EXTRAS[extra])
    return table


def _folders() -> tuple[Table, list[str]]:
    """The folders of caches, and those that cannot be written to."""
    from huggingface_hub import constants

    from prefopt.whole_files import free_bytes, require_writable

    table, faults = _table("folders", "", "folder", "free"), []
    datasets = os.environ.get("HF_DATASETS_CACHE", str(Path(constants.HF_HOME) / "datasets"))
    folders = {
        ("models", "HF_HOME"): constants.HF_HUB_CACHE,
        ("data sets", "HF_DATASETS_CACHE"): datasets,
        ("temporary files", "TMPDIR"): tempfile.gettempdir(),
    }
    for (use, variable), name in folders.items():
        folder = Path(name)
        try:
            require_writable(folder)
            table.add_row(use, escape(str(folder)), f"{free_bytes(folder) / 2**30:,.1f} GiB")
        except OSError as error:
            table.add_row(use, escape(str(folder)), "[red]cannot be written to[/]")
            faults.append(f"{folder}: {use} cannot be written there ({error}); name another folder as {variable}")
    return table, faults


def _accelerators() -> Table:
    import torch

    table = _table("accelerators", "", "name", "memory")
    if not torch.accelerator.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        table.add_row("cpu", f"no accelerator is seen (torch is built with {built})", "")
        return table
    kind = torch.accelerator.current_accelerator()
    module = getattr(torch, kind.type if kind else "")
    for index in range(torch.accelerator.device_count()):
        properties = module.get_device_properties(index) if hasattr(module, "get_device_properties") else None
        memory = getattr(properties, "total_memory", None)
        shown = "" if memory is None else f"{memory / 2**30:,.0f} GiB"
        table.add_row(f"{module.__name__.rpartition('.')[2]}:{index}", getattr(properties, "name", ""), shown)
    return table


def _plugins() -> tuple[Table, list[str]]:
    """The plugins with what they bring, and what is wrong with them."""
    from prefopt.plugins import WITHOUT, PluginError, diagnose

    table, brought, faults = _table("plugins", "", "version", "state"), dict[str, list[str]](), []
    problems: Mapping[str, str | None] = {}
    try:
        problems = diagnose()
        faults = [problem for problem in problems.values() if problem]
        if problems and not faults:
            from prefopt.registry import Owner, installed
            from prefopt.tasks.registry import TASKS
            from prefopt.tasks.scorers.registry import SCORERS

            entries: list[tuple[type, Owner]] = [*installed(), *TASKS.installed.values(), *SCORERS.installed.values()]
            for cls, owner in entries:
                brought.setdefault(owner.plugin, []).append(cls.model_fields["name"].default)  # type: ignore[attr-defined]
    except PluginError as error:  # of two that do not go together, or an exclusion of none
        faults = [str(error)]
    for name, problem in problems.items():
        state = "[red]broken[/]" if problem else escape(", ".join(brought.get(name, ["loaded"])))
        table.add_row(name, _version(name.partition(":")[0]), f"excluded by {WITHOUT}" if problem is None else state)
    if not problems:
        table.add_row("none", "", "")
    return table, faults
