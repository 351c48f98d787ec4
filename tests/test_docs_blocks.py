"""Every block of the documentation has a language and a test; what is not run says why, and is read all the same."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import typer
import yaml

from benchmarks.token_weights.__main__ import arguments_parser
from docs_site import formulas
from prefopt.cli import app
from prefopt.comparison.suite import Suite
from prefopt.data import Pair, SourceRow, to_pair
from tests.blocks import PAGES, ROOT, Block, blocks, commands

ALL = [block for page in PAGES for block in blocks(page)]
COMMAND = typer.main.get_command(app)
PLUGIN = ROOT / "plugins" / "prefopt-decay"
"""The plugin whose files a page shows whole."""


def parse_prefopt(words: list[str]) -> None:
    """Parse the words after `prefopt` by its own parser, without running anything. Raises what it raises."""
    command = COMMAND
    context = command.context_class(command, info_name="prefopt")
    _, rest, _ = command.make_parser(context).parse_args(list(words))  # without what --version and its like do
    while rest and hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        if not hasattr(command, "resolve_command"):
            command.make_context(name, rest, parent=context)


def parse_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        if word.startswith("-"):
            assert word in ("--editable", "--no-deps")
        else:
            name, extras = re.fullmatch(r"([\w./-]+?)(?:==[\d.]+)?(?:\[([\w,-]+)\])?", word).groups()
            folder = (
                PLUGIN.parent / name if name.startswith("prefopt-") else ROOT / ("." if name == "prefopt" else name)
            )
            if "prefopt" in name or name == ".":
                project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
                assert set((extras or "").split(",")) - {""} <= project.get("optional-dependencies", {}).keys()


def parse_make(words: list[str]) -> None:
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def parse_python(words: list[str]) -> None:
    if words[:2] == ["-m", "pytest"]:
        assert (ROOT / words[2]).exists()
    elif words[:2] == ["-m", "prefopt"]:
        parse_prefopt(words[2:])
    elif words[:2] == ["-m", "benchmarks.token_weights"]:
        arguments_parser().parse_args(words[2:])
    else:
        assert words == ["train.py"]  # a script of the reader's


def parse_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(words)
    parse_python(["-m", parsed.training_script, *parsed.training_script_args])


def parse_accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    parsed = launch_command_parser().parse_args(words[1:])
    assert (ROOT / parsed.config_file).is_file()
    parse_python(["-m", parsed.training_script, *parsed.training_script_args])


def parse_ray(words: list[str]) -> None:
    """By its own parser where it is installed."""
    if find_spec("ray") is not None:
        from ray.scripts.scripts import cli

        name, command, rest = cli.resolve_command(cli.context_class(cli), words)
        command.make_context(name, rest)
    assert words[0] == "start"


def parse_sbatch(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()


def parse_prefopt_score_tokens(words: list[str]) -> None:
    """By the parser of the plugin, installed or not."""
    folder = str(ROOT / "plugins" / "prefopt-tis")
    sys.path.append(folder)
    try:
        from prefopt_tis.cli import app as scoring
    finally:
        sys.path.remove(folder)
    typer.main.get_command(scoring).make_context("prefopt-score-tokens", words)


PARSERS: dict[str, Callable[[list[str]], None]] = {
    name.removeprefix("parse_").replace("_", "-"): function
    for name, function in globals().items()
    if name.startswith("parse_")
}


def parse(words: list[str]) -> None:
    """Parse a command line by the parser of its command."""
    command = next(index for index, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    PARSERS[words[command]](words[command + 1 :])


def check_python(block: Block) -> None:
    ast.parse(block.text)  # those without a reason run, page by page


def check_bash(block: Block) -> None:
    for words in commands(block.text):
        parse(words)
        assert block.not_run or words[0] == "prefopt", f"{block}: {words[0]} is not run, and no comment says why"


def check_yaml(block: Block) -> None:
    def refuse_twice(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(set(keys)) == len(keys), f"{block}: {keys}"
        for part in node.value if isinstance(node, yaml.CollectionNode) else ():
            for child in part if isinstance(part, tuple) else (part,):
                refuse_twice(child)

    refuse_twice(yaml.compose(block.text))


def check_json(block: Block) -> None:
    fields = json.loads(block.text)
    if "prompt" in fields:
        assert isinstance(to_pair(SourceRow(str(block), fields), {}), Pair)
    else:
        assert fields.keys() == {"positive", "negative"}, f"{block}: neither a pair nor a list of words"


def check_file(block: Block) -> None:
    assert block.label, f"{block}: name the file that it is, in bold"
    assert (PLUGIN / block.label).read_text(encoding="utf-8") == block.text


def check_toml(block: Block) -> None:
    tomllib.loads(block.text)
    if block.label:
        check_file(block)


def check_diff(block: Block) -> None:
    for sign in "+-":
        ast.parse("".join(line[1:] for line in block.text.splitlines(keepends=True) if line[0] in f"{sign} \n"))


def check_formula(block: Block) -> None:
    assert formulas.fence(block.text).count('<div class="line">') == len(block.text.splitlines())


def check_text(block: Block) -> None:
    """What a block in front of it prints, a message of the page of messages, or with a reason."""
    before = [other for other in ALL if other.page == block.page and other.line < block.line]
    printed = block.follows and before and before[-1].language in ("python", "bash") and not before[-1].not_run
    assert printed or block.not_run or block.page.name == "troubleshooting.md", f"{block}: what prints it?"


CHECKS: dict[str, Callable[[Block], None]] = {
    "python": check_python,
    "py": check_file,
    "md": check_file,
    "toml": check_toml,
    "bash": check_bash,
    "yaml": check_yaml,
    "json": check_json,
    "diff": check_diff,
    "formula": check_formula,
    "text": check_text,
}


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_has_a_language_and_is_what_it_says(block: Block) -> None:
    assert block.language in CHECKS, f"{block}: no language {block.language!r}; fence it, as one of {', '.join(CHECKS)}"
    CHECKS[block.language](block)


def test_there_are_blocks_of_all_languages_and_reasons_for_few() -> None:
    assert {block.language for block in ALL} == set(CHECKS)
    assert len(ALL) > 120
    assert sum(bool(block.not_run) for block in ALL) < 40


_COMMAND = re.compile(r"`((?:prefopt|accelerate launch|pip install|make) [^`\n]+)`")
INLINE = sorted({match for page in PAGES for match in _COMMAND.findall(page.read_text(encoding="utf-8"))})
LEFT_OUT = ("MissingParameter", "Exit")
"""What a parser raises for a command without its arguments, and for --help and --version."""


@pytest.mark.parametrize("command", INLINE)
def test_a_command_in_a_sentence_has_options_that_exist(command: str) -> None:
    """It may leave out arguments."""
    for words in commands(command.replace("COMMAND", "zoo")):
        try:
            parse(words)
        except Exception as error:
            if type(error).__name__ not in LEFT_OUT:
                raise


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.language == "bash" and "benchmarks/suites" in block.text], ids=str
)
def test_suites_of_commands_are_read_with_their_changes(block: Block) -> None:
    for words in commands(block.text):
        out = words.index("--out")
        Suite.load(ROOT / words[2], [*words[3:out], *words[out + 2 :]])
