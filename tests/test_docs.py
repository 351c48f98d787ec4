"""Every example of the documentation and the README runs, with a tiny model in the place of the named one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from prefopt import zoo
from prefopt.comparison.suite import Suite
from prefopt.tasks.judges import resolve_judge
from prefopt.tasks.registry import resolve_task
from prefopt.training import RunFile, start
from prefopt.training.run_sections import SamplesSection
from tests.blocks import PAGES, ROOT, Block, blocks, commands
from tests.cli.test_cli import run as typed

PLUGINS = {"code.md": "code_plugin"}
"""Pages of a plugin -> the fixture that installs it."""
EXTRAS = {"lm-eval.md": "lm_eval"}
"""Pages whose suites can be read only with an optional library -> that library."""
NAMED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
RUN_FILES = {"troubleshooting.md": "model: a-model\ndata: pairs.jsonl\nobjective: {weighting: uniform}\n"}
"""Pages whose commands take any run file -> that which a reader has."""
TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


@pytest.fixture
def folder(rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a reader, with files that pages name and do not make."""
    pairs = "".join(json.dumps(row) + "\n" for row in rows[:4])
    for name in ("pairs.jsonl", "held-out.jsonl"):
        (tmp_path / name).write_text(pairs)
    recipe = tmp_path / "recipes" / "zephyr" / "dpo" / "config_qlora.yaml"
    recipe.parent.mkdir(parents=True)
    for file in (recipe, tmp_path / "dpo_config.yaml"):
        file.write_text("model_name_or_path: a-model\ndataset_name: pairs.jsonl\nbeta: 0.1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model, with a chat template, as that which pages name has one."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(model_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@dataclass
class Reader:
    """Does what the blocks of a page say, in the working directory, with a small model in place of the named one."""

    model: str
    namespace: dict[str, object]
    capsys: pytest.CaptureFixture[str]

    def python(self, block: Block) -> str:
        self.capsys.readouterr()
        code = compile(block.code.replace(NAMED_MODEL, self.model), str(block.page), "exec", dont_inherit=True)
        exec(code, self.namespace)
        return self.capsys.readouterr().out

    def bash(self, block: Block) -> str:
        lines = [[word.replace(NAMED_MODEL, self.model) for word in words] for words in commands(block.text)]
        return "".join(typed(*words[1:], exit_code=block.exit_code) for words in lines)

    def yaml(self, block: Block) -> str:
        """A run file, which is tried where its model and data are here, a suite or an objective, whole or a part."""
        text = block.text.replace(NAMED_MODEL, self.model)
        fields = yaml.safe_load(text)
        if "model" in fields:
            Path("run.yaml").write_text(text)
            run = RunFile.load("run.yaml")
            if run.model.name == self.model and all(Path(file).is_file() for file in files_of(fields["data"])):
                start(run, dry_run=True, judges=resolve_judge)
        elif "task" in fields:
            Path("suite.yaml").write_text(text)
            Suite.load("suite.yaml")
        elif fields.keys() <= PARTS.keys():
            for field, part in fields.items():
                PARTS[field](part)
        else:
            zoo.build(fields)
        return ""


SENTIMENT = {"name": "sentiment", "model": "a-model", "second": {"name": "classifier", "model": "m", "label": "l"}}


def files_of(data: object) -> list[str]:
    """The data sources that a section names."""
    sources = [data.get("train"), data.get("eval")] if isinstance(data, dict) else [data]
    return [source if isinstance(source, str) else "" for source in sources if source is not None]


PARTS: dict[str, Callable[[Any], object]] = {
    "samples": SamplesSection.model_validate,
    "judge": resolve_judge,
    "prompts": lambda prompts: resolve_task({**SENTIMENT, "prompts": prompts}),
}
"""Sections that stand alone on a page -> what reads them."""


def agree(printed: str, expected: str) -> bool:
    """Line by line; a line of the page may end early, in " ..."."""
    lines, wanted = printed.splitlines(), expected.splitlines()
    return len(lines) == len(wanted) and all(
        line.startswith(want.removesuffix("...")) if want.endswith(" ...") else line == want
        for line, want in zip(lines, wanted, strict=True)
    )


def test_there_are_pages() -> None:
    assert len(PAGES) >= 6
    assert agree("a b\nc", "a ...\nc")
    assert not agree("a b\nc", "a\nc")


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_can_be_followed_and_prints_what_it_says(
    page: Path, model: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.name in PLUGINS:
        request.getfixturevalue(PLUGINS[page.name])
    if page.name in RUN_FILES:
        Path("run.yaml").write_text(RUN_FILES[page.name])
    if page.name in EXTRAS:
        pytest.importorskip(EXTRAS[page.name], reason=f"{page.name} is of an optional extra that is not installed")
    reader = Reader(model, {"__name__": f"docs_{page.stem}"}, capsys)
    for block, after in pairwise([*blocks(page), None]):
        action = getattr(reader, block.language, None)
        if action is not None and not block.not_run:
            printed = action(block)
            if after is not None and after.language == "text" and after.follows and not after.not_run:
                assert agree(printed, after.text), f"{after}: {printed}"


def test_journeys_name_files_that_are_there_and_not_too_many() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    journeys = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert len(journeys) == 4
    for journey in journeys:
        steps = re.findall(r"^\d+\. `([^`]+)`", journey, flags=re.MULTILINE)
        assert 5 <= len(steps) <= 12
        assert [step for step in steps if not any((base / step).is_file() for base in (ROOT, ROOT / "prefopt"))] == []
