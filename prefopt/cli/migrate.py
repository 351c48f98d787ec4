"""prefopt migrate"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from prefopt.cli.console import console, error_console, exit_on
from prefopt.launch import reject_launch
from prefopt.whole_files import publish_text

_COLOURS = {"carried over": "green", "changed": "yellow", "no counterpart": "red"}


def migrate(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Where to write the run file; otherwise it is printed.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    method: Annotated[
        str | None,
        typer.Option(help="dpo, orpo, cpo or simpo, where the settings do not tell which trainer they are for."),
    ] = None,
) -> None:
    """Turn a configuration of TRL, the alignment-handbook, axolotl or LLaMA-Factory into a run file.

    After `migrate` comes what follows `trl dpo`: a YAML file (with or without --config), flags such as
    --loss_type ipo --beta 0.1, or both. What became of each setting is listed.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from rich.table import Column, Table

    from prefopt.training import RunFileError
    from prefopt.training.migration import Outcome
    from prefopt.training.migration import migrate as convert

    with exit_on(ValueError, RunFileError, OSError, yaml.YAMLError, OmegaConfBaseException):
        reject_launch()
        if out is not None and out.exists() and not overwrite:
            raise ValueError(f"{out} exists already; choose another name, or write over it with --overwrite")
        words = _without_config(context.args)
        if not words:
            raise ValueError("nothing to migrate: give a YAML file, or flags as after `trl dpo`")
        files = list(takewhile(lambda word: not word.startswith("--"), words))
        if scripts := [file for file in files if file.endswith((".py", ".ipynb", ".sh"))]:
            raise ValueError(
                f"{scripts[0]}: a script is not read. Give its settings as flags, as after `trl dpo`, or as YAML; or "
                "keep the script, with PreferenceConfig and PreferenceTrainer in the place of TRL's (page Coming from "
                "TRL): PreferenceConfig names the settings that it does not have"
            )
        parts = [OmegaConf.load(file) for file in files]
        if any(not OmegaConf.is_dict(part) for part in parts):
            raise ValueError(f"{', '.join(files)}: TRL's configuration is a mapping of settings")
        settings: Any = OmegaConf.to_container(OmegaConf.merge(*parts, _flags(words[len(files) :])))
        migration = convert(settings, method=method, source=" ".join(files))
    text = yaml.safe_dump(migration.run, sort_keys=False)
    if out is None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        publish_text(text, out)
        console.print(f"Written: {out}")
    columns = [Column(name, overflow="fold") for name in ("", "setting", "in the run file, or why not")]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for outcome in Outcome:
        for note in sorted(note for note in migration.notes if note.outcome is outcome):
            table.add_row(f"[{_COLOURS[outcome]}]{outcome}", escape(note.setting), escape(note.text))
    error_console.print(table)


def _without_config(words: list[str]) -> list[str]:
    """`--config FILE`, as `trl dpo` takes it, as FILE before the flags. Raises ValueError for none and for two."""
    rest: list[str] = []
    files: list[str] = []
    words = [*words]
    while words:
        name, equals, file = words.pop(0).partition("=")
        if name != "--config":
            rest.append(f"{name}{equals}{file}")
        elif equals or (words and not words[0].startswith("--")):
            files.append(file if equals else words.pop(0))
        else:
            raise ValueError("--config: a file is needed")
    if len(files) > 1:
        raise ValueError(f"--config is given {len(files)} times; put the settings in one file")
    return [*files, *rest]


def _flags(words: list[str]) -> Any:
    """Settings of flags as `trl dpo` reads them: `--name value...`, `--name=value`, `--name` for true, `--no_name` for
    false, hyphens for underscores, and dots between the keys of a mapping. Several values are a list."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    from prefopt.training.migration.kinds import FLAGS, TEXTS
    from prefopt.validation import one_line

    pairs: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            pairs.append((name.replace("-", "_"), [value] if equals else []))
        else:
            pairs[-1][1].append(word)
    settings: Any = OmegaConf.create()
    for name, values in pairs:
        if not values and name.startswith("no_") and name.removeprefix("no_") in FLAGS:
            settings[name.removeprefix("no_")] = False
        elif name in TEXTS and len(values) == 1 and values[0].lower() not in ("null", "none"):
            settings[name] = values[0]
        else:
            value = f"[{','.join(values)}]" if len(values) > 1 else (values or ["true"])[0]
            try:
                settings.merge_with_dotlist([f"{name}={value}"])
            except YAMLError as error:
                raise ValueError(f"--{name}: {value} is no YAML: {one_line(error)}") from error
    return settings
