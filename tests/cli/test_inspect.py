"""prefopt inspect, as typed, on a run of prefopt train."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.cli.test_cli import run


@pytest.fixture(scope="module")
def trained(model_folder: str, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs.jsonl and, in run/, TDPO2 trained on it for two steps."""
    folder = tmp_path_factory.mktemp("inspected")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {
        "model": model_folder,
        "data": str(data),
        "objective": "tdpo2",
        "training": {
            "max_steps": 2,
            "learning_rate": 0.01,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
            "output_dir": str(folder / "run"),
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(fields))
    run("train", str(folder / "run.yaml"))
    return folder


def test_from_a_run_to_the_files(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "folder"
    output = run("inspect", str(trained / "run"), "--data", str(trained / "pairs.jsonl"), "--out", str(out))
    assert "32 pairs" in output
    assert output.count("chosen, reward") == 3
    assert "mean log-ratio of the" in output
    assert [str(out / name) in output for name in ("index.html", "tokens.parquet", "inspection.json")] == [True] * 3
    assert pq.read_table(out / "tokens.parquet").num_rows == json.loads((out / "inspection.json").read_text())["tokens"]
    assert "<html" in (out / "index.html").read_text()


@pytest.mark.slow
def test_an_inspection_is_overwritten_when_asked(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "inspected"
    arguments = ("inspect", str(trained / "run"), "--data", str(trained / "pairs.jsonl"), "--out")
    run(*arguments, str(out))
    (out / "inspection.json").write_text("that of before")
    refused = run(*arguments, str(out), exit_code=2)
    assert "holds index.html, tokens.parquet, inspection.json already" in refused
    assert (out / "inspection.json").read_text() == "that of before"
    run(*arguments, str(out), "--overwrite")
    assert json.loads((out / "inspection.json").read_text())["pairs"] == 32
    assert len(list(out.iterdir())) == 3
    before = sorted((trained / "run").iterdir())
    assert "holds a run or a model" in run(*arguments, str(trained / "run"), "--overwrite", exit_code=2)
    assert sorted((trained / "run").iterdir()) == before


@pytest.mark.slow
def test_without_colour_tokens_have_levels_and_nothing_is_written(trained: Path, tmp_path: Path) -> None:
    arguments = ("inspect", str(trained / "run"), "--data", str(trained / "pairs.jsonl"))
    output = run(*arguments, "--pairs", "1", "--by", "divergence", "--minimum", "3")
    assert output.count("chosen, reward") == 1
    assert "good[" in output
    assert "mean divergence of the" in output
    assert "at least 3 times" in output
    assert "Wrote" not in output
    assert "w is 1 for every token." in run(*arguments, "--pairs", "0", "--by", "w")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_commands_of_the_documentation(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text()
    commands = [line.split()[1:] for line in page.splitlines() if line.startswith("prefopt inspect ")]
    assert len(commands) == 3
    paths = {"runs/sparsepo": str(trained / "run"), "held-out.jsonl": str(trained / "pairs.jsonl")}
    for command in commands:
        assert "ranked right" in run(*(paths.get(word, word) for word in command))
    assert (tmp_path / "inspected" / "index.html").is_file()


def test_what_cannot_be_inspected(trained: Path, tmp_path: Path) -> None:
    pairs, folder = str(trained / "pairs.jsonl"), str(trained / "run")
    assert "no objective.yaml" in run("inspect", str(tmp_path), "--data", pairs, exit_code=2)
    assert "no such file" in run("inspect", folder, "--data", str(tmp_path / "no.jsonl"), exit_code=2)
    wrong = run("inspect", folder, "--data", pairs, "--by", "divergance", exit_code=2)
    assert "no layer 'divergance' in this run. Did you mean 'divergence'? It has w, log_ratio, divergence." in wrong
    (tmp_path / "bad.jsonl").write_text('{"prompt": "the", "chosen": " good"}\n')
    assert "bad.jsonl:1: field 'rejected'" in run("inspect", folder, "--data", str(tmp_path / "bad.jsonl"), exit_code=2)
