"""The notebook of first steps: its cells run in their order in one namespace, and what it says is so."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first-steps.ipynb"


def cells() -> list[str]:
    """The sources of the notebook's code."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_cells_are_python_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert [ast.parse(source).body for source in cells()]


@pytest.mark.long
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "first_steps"}
    for number, source in enumerate(cells()):
        exec(compile(source, f"{NOTEBOOK.name}, code cell {number}", "exec", dont_inherit=True), namespace)
    assert namespace["metrics"]["eval_rewards/accuracies"] > 0.9
    assert set(namespace["heaviest"]) == {*namespace["PRAISE"], *namespace["COMPLAINT"]}
    assert namespace["heat_map"]._repr_html_().count("<span") > 60
