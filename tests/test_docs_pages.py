"""Pages that quote messages, results and other trainers' settings quote them as they are."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from docs_site import trl_tables
from prefopt import zoo
from prefopt.training import DataSection, ModelSection, PreferenceConfig, RunFile
from tests.blocks import Block, blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOLE = "\0"


def is_quoted(block: Block) -> bool:
    """Whether it is a message, and not what a command in front of it prints."""
    return block.language == "text" and not block.text.startswith("error: ")


def messages() -> list[str]:
    """Every text in the package, with a hole for what is put in."""
    texts = []
    for file in (ROOT / "prefopt").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[-+.\d]*[dsgf]", HOLE, node.value))
    return texts


QUOTED = [" ".join(block.text.split()) for block in blocks(DOCS / "troubleshooting.md") if is_quoted(block)]
TEXTS = messages()


@pytest.mark.parametrize("quoted", QUOTED)
def test_troubleshooting_quotes_the_code(quoted: str) -> None:
    pattern = re.compile(
        re.escape(quoted.replace("...", HOLE)).replace(re.escape(HOLE), f"[^{HOLE}]*{HOLE}[^{HOLE}]*?")
    )
    assert any(pattern.search(text) for text in TEXTS), quoted


def test_it_quotes_enough() -> None:
    assert len(QUOTED) >= 9


def test_the_figures_of_the_choice_are_those_of_the_results() -> None:
    text = (DOCS / "choose.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| `(2026[-\w]+\.md)` \|$", text, flags=re.MULTILINE)
    assert len(rows) == 5
    for row, name in rows:
        result = (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8")
        figures = re.findall(r"\+?\d+\.?\d*", " ".join(row.split(" | ")[2:]))
        assert [figure for figure in figures if not re.search(rf"[| ]{re.escape(figure)}\d? \[", result)] == [], name


def test_the_choice_names_rows_of_the_zoo() -> None:
    table = (DOCS / "choose.md").read_text(encoding="utf-8").partition("## What was measured")[0]
    names = set(re.findall(r"`(\w+)`", "\n".join(line.split(" | ")[1] for line in table.splitlines() if " | " in line)))
    assert len(names & zoo.ZOO.keys()) >= 15
    assert names - zoo.ZOO.keys() <= {"mask_learning_rate"}


def test_the_table_of_trl_has_every_setting_and_loss() -> None:
    trl = pytest.importorskip("trl", reason="the settings of TRL are read off TRL: pip install trl==1.16.0")
    inherited = {field.name for field in fields(TrainingArguments)}
    classes = (trl.DPOConfig, trl.ModelConfig, trl.ScriptArguments)
    names = {field.name for cls in classes for field in fields(cls)} - inherited
    table = trl_tables.settings()
    assert [name for name in sorted(names) if f"| `{name}` |" not in table] == []
    documented = trl.DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    assert [loss for loss in trl_tables.LOSSES if loss not in documented] == []
    assert "[`ipo`](zoo.md#ipo)" in trl_tables.losses()


def test_every_option_is_on_a_page() -> None:
    text = "\n".join(
        (DOCS / page).read_text(encoding="utf-8")
        for page in ("run-file.md", "scoring.md", "trainer.md", "adapters.md", "trl.md")
    )
    inherited = {field.name for field in fields(TrainingArguments)}
    options = {field.name for field in fields(PreferenceConfig) if field.init} - inherited
    options |= ModelSection.model_fields.keys() | DataSection.model_fields.keys() | RunFile.model_fields.keys()
    assert [name for name in sorted(options) if not re.search(rf"\b{name}\b", text)] == []


def test_the_readme_is_a_screen_whose_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    links = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text)
    assert len(links) >= 15
    assert [link for link in links if not (ROOT / link).exists()] == []
    example = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)[0]
    landing = re.findall(
        r"^```python\n(.*?)^```$", (DOCS / "index.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert example.startswith(landing[0])
