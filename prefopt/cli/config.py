"""prefopt config"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from prefopt.cli.console import exit_on


class Document(StrEnum):
    """What a schema is of."""

    TRAIN = "train"
    COMPARE = "compare"


def config(
    document: Annotated[
        Document, typer.Argument(help="train: of a run file. compare: of a suite.", metavar="[train|compare]")
    ] = Document.TRAIN,
) -> None:
    """Print every field of a run file or suite, its type, default and meaning, as the JSON schema that editors read."""
    from prefopt.plugins import PluginError

    with exit_on(PluginError):
        if document is Document.TRAIN:
            from prefopt.training.run_schema import run_file_schema as schema
        else:
            from prefopt.comparison.suite_schema import suite_schema as schema
        text = json.dumps(schema(), indent=2)
    print(text)
