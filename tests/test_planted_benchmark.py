"""The planted benchmark in small: runs are not repeated, and the figures are those of the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.planted.__main__ import compare
from benchmarks.planted.frontiers import summary
from benchmarks.planted.grid import BETAS, Run, Runs, grid

TASK = {"pairs": 16, "held_out": 4, "prompts": 4, "shortest": 8, "longest": 8, "bearing": 0.3, "reference_steps": 3}


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    objectives = {
        "dpo": {"objective": {"zoo": "dpo"}},
        "sparsepo": {"objective": {"zoo": "sparsepo"}, "mask_learning_rate": 0.01},
    }
    settings = {"little": {"task": {"name": "planted", **TASK}, "epochs": 1}}
    paths = {}
    for name, table in (("objectives", objectives), ("settings", settings)):
        paths[name] = tmp_path / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump(table, sort_keys=False))
    return paths


def runs_of(tables: dict[str, Path], **changes: Any) -> list[Run]:
    settings: dict[str, Any] = {"only_objectives": (), "only_settings": (), "betas": (0.1, 1.0), "seeds": (100, 101)}
    settings |= {"learning_rate": 1e-3, "batch_size": 8}
    return grid(tables["objectives"], tables["settings"], **(settings | changes))


def test_the_grid_holds_every_combination_once(tables: dict[str, Path]) -> None:
    runs = runs_of(tables)
    assert len(runs) == len({run.key for run in runs}) == 2 * (1 + 2 * 2)
    assert len(runs_of(tables, only_objectives=("dpo",))) == 2 * (1 + 2)
    assert runs_of(tables, learning_rate=1e-2)[1].key != runs[1].key
    with pytest.raises(ValueError, match="there is no 'smal'; it has 'little'"):
        runs_of(tables, only_settings=("smal",))


def test_an_objective_may_have_betas_of_its_own(tables: dict[str, Path]) -> None:
    rows = yaml.safe_load(tables["objectives"].read_text())
    rows["dpo"]["betas"] = [0.2]
    tables["objectives"].write_text(yaml.safe_dump(rows, sort_keys=False))
    runs = runs_of(tables, betas=(), seeds=(100,))
    assert [(run.objective, run.beta) for run in runs[1:]] == [("dpo", 0.2), *(("sparsepo", beta) for beta in BETAS)]
    assert runs[1].key == runs_of(tables, betas=(0.2,), seeds=(100,))[1].key
    settings = yaml.safe_load(tables["settings"].read_text())
    settings["little"]["betas"] = {"sparsepo": [3.0]}
    tables["settings"].write_text(yaml.safe_dump(settings))
    in_setting = runs_of(tables, betas=(), seeds=(100,))
    assert [(run.objective, run.beta) for run in in_setting[1:]] == [("dpo", 0.2), ("sparsepo", 3.0)]
    assert [run.beta for run in runs_of(tables, betas=(0.5,), seeds=(100,))[1:]] == [0.5, 0.5]


def test_frontiers_go_through_the_betas_of_their_own_objective(tables: dict[str, Path]) -> None:
    rows = yaml.safe_load(tables["objectives"].read_text())
    rows["dpo"]["betas"], rows["sparsepo"]["betas"] = [0.2], [3.0, 1.0]
    tables["objectives"].write_text(yaml.safe_dump(rows, sort_keys=False))
    runs = runs_of(tables, betas=(), seeds=(100,))
    records = []
    for run in runs:
        metrics = {"sequence_kl": run.beta or 0.0, "reward": 2 * (run.beta or 0.0)}
        seconds = {"material": 0.0, "training": 0.0, "measuring": 0.0}
        record = {"setting": run.setting, "seed": run.seed, "objective": run.objective, "beta": run.beta}
        records.append(record | {"metrics": metrics, "samples": {}, "seconds": seconds})
    facts = summary(records, runs, at=(0.1, 2.0), within=4.0)
    assert facts["betas"]["little"] == {"dpo": [0.2], "sparsepo": [3.0, 1.0]}
    values = {
        name: [(row[f"reward at KL {place}"]["value"] or {}).get("mean") for place in ("0.1", "2")]
        for name, row in facts["settings"]["little"]["frontiers"].items()
    }
    assert values == {"dpo": [pytest.approx(0.2), None], "sparsepo": [pytest.approx(0.2), pytest.approx(4)]}


def test_a_line_that_was_cut_short_is_no_finished_run(tables: dict[str, Path], tmp_path: Path) -> None:
    one, two, *_ = runs_of(tables)
    path = tmp_path / "runs.jsonl"
    Runs(path).add(one, {"metrics": {"reward": 1.0}})
    path.write_text(path.read_text() + '{"key": "' + two.key)
    finished = Runs(path)
    assert set(finished.done) == {one.key}
    finished.add(two, {"metrics": {"reward": 2.0}})
    assert [record["metrics"]["reward"] for record in Runs(path).of([two, one])] == [2, 1]


def test_figures_by_hand(tables: dict[str, Path]) -> None:
    runs = runs_of(tables)
    places = {("dpo", 0.1): (8.0, 5.0), ("dpo", 1.0): (2.0, 3.0), ("sparsepo", 0.1): (4.0, 5.0)}
    places[("sparsepo", 1.0)] = (1.0, 2.0)
    records = []
    for run in runs:
        kl, reward = places.get((run.objective, run.beta), (0.0, 1.0))
        metrics = {"sequence_kl": kl, "reward": reward + run.seed - 100}
        seconds = {"material": 1.0, "training": 2.0, "measuring": 3.0}
        record = {"setting": run.setting, "seed": run.seed, "objective": run.objective, "beta": run.beta}
        records.append(record | {"metrics": metrics, "samples": {}, "seconds": seconds})
    facts = summary(records, runs, at=(5.0,), within=10.0)
    dpo, sparsepo = (facts["settings"]["little"]["frontiers"][name] for name in ("dpo", "sparsepo"))
    # Rewards are 1 more under the second seed, and so is the reference's, from which the volume is counted.
    assert dpo["reward at KL 5"]["value"]["mean"] == pytest.approx(4 + 0.5)
    assert sparsepo["reward at KL 5"]["value"] is None
    assert dpo["hypervolume to KL 10"]["value"]["mean"] == pytest.approx(8 * 2 + 2 * 2)
    assert sparsepo["hypervolume to KL 10"]["against_first"]["mean"] == pytest.approx(9 * 1 + 6 * 3 - 20)
    overall = facts["overall"]["hypervolume to KL 10"]["sparsepo"]
    assert overall["p"] == overall["p_holm"] == 0.5
    assert facts["seconds"]["each"] == 5


def test_a_grid_runs_once_and_writes_its_page(tables: dict[str, Path], tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(compare)
    options = [*("--objectives", str(tables["objectives"])), *("--settings", str(tables["settings"]))]
    options += ["--seed", "100", "--beta", "0.5", "--batch-size", "8", "--work", str(tmp_path / "work")]
    options += ["--results", str(tmp_path / "results"), "--date", "2026-01-01"]
    first = CliRunner().invoke(app, options)
    assert first.exit_code == 0, first.output
    assert "3 runs, 0 of them finished before" in first.output
    facts = json.loads((tmp_path / "results" / "2026-01-01-planted.json").read_text())
    rows = {run["objective"]: run["metrics"] for run in facts["settings"]["little"]["runs"]}
    assert rows["dpo"]["auroc_w"]["mean"] == 0.5
    assert "auroc_v" in rows["sparsepo"]
    assert rows["reference"]["sequence_kl"]["mean"] == pytest.approx(0, abs=1e-4)
    page = (tmp_path / "results" / "2026-01-01-planted.md").read_text()
    assert "| sparsepo | 0.5 |" in page
    assert page.endswith("## What it shows\n")
    again = CliRunner().invoke(app, options)
    assert "3 runs, 3 of them finished before" in again.output
