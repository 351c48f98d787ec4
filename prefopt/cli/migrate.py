"""prefopt migrate"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from prefopt.cli.console import console, error_console, exit_on
from prefopt.whole_files import publish_text


def migrate(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Where to write the run file; otherwise it is printed.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Turn a configuration of TRL's DPO into a run file, and list what differs.

    After `migrate` comes what follows `trl dpo`: a YAML file, flags such as --loss_type ipo --beta 0.1, or both.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from prefopt.training import RunFileError
    from prefopt.training.migrate import migrate as convert

    with exit_on(ValueError, RunFileError, OSError, yaml.YAMLError, OmegaConfBaseException):
        if out is not None and out.exists() and not overwrite:
            raise ValueError(f"{out} exists already; choose another name, or write over it with --overwrite")
        files = list(takewhile(lambda word: not word.startswith("--"), context.args))
        parts = [OmegaConf.load(file) for file in files]
        if any(not OmegaConf.is_dict(part) for part in parts):
            raise ValueError(f"{', '.join(files)}: TRL's configuration is a mapping of settings")
        flags = OmegaConf.from_dotlist(_flags(context.args[len(files) :]))
        settings: Any = OmegaConf.to_container(OmegaConf.merge(*parts, flags))
        migration = convert(settings)
    text = yaml.safe_dump(migration.run, sort_keys=False)
    if out is None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        publish_text(text, out)
        console.print(f"Written: {out}")
    for note in migration.notes:
        error_console.print(f"[yellow]differs[/] {escape(note)}")


def _flags(words: list[str]) -> list[str]:
    """`--name value...`, `--name=value` and a bare `--name` as name=value; several values become a list."""
    pairs: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            pairs.append((name, [value] if value else []))
        else:
            pairs[-1][1].append(word)
    return [
        f"{name}=[{','.join(values)}]" if len(values) > 1 else f"{name}={(values or ['true'])[0]}"
        for name, values in pairs
    ]
