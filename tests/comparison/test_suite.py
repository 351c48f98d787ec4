"""A suite in small: what it refuses, that it goes on where it was stopped, and what it makes of its runs."""

from __future__ import annotations

import csv
import errno
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from rich.console import Console

from prefopt import zoo
from prefopt.comparison import execute
from prefopt.comparison.call import OUTPUT
from prefopt.comparison.execute import train_and_measure
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import compare
from prefopt.comparison.suite import Suite, SuiteError
from prefopt.losses import HingeLoss
from prefopt.report import report
from prefopt.training import run_lock

pytestmark = pytest.mark.slow

TASK = {"pairs": 16, "held_out": 4, "prompts": 4, "shortest": 8, "longest": 8, "bearing": 0.3, "reference_steps": 2}
SUITE: dict[str, Any] = {
    "task": {"name": "planted", **TASK},
    "objectives": {
        "dpo": "dpo",
        "the same": {"zoo": "dpo"},
        "simpo": {"zoo": "simpo", "training": {"learning_rate": 0.01}},
    },
    "seeds": [0],
    "training": {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True},
}
QUIET = Console(quiet=True)


def written(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**SUITE, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the suite, carried out without a break over two betas."""
    folder = tmp_path_factory.mktemp("whole")
    suite = Suite.load(written(folder / "given.yaml", sweeps={"objective.beta": [0.1, 1.0]}))
    assert compare(suite, folder / "out", console=QUIET) == []
    return folder / "out"


def measured(folder: Path) -> dict[str, Any]:
    """What the runs of a folder determine, without what the machine does."""
    parts = ("name", "setting", "seed", "configuration", "values", "samples", "error")
    records = RunLog(folder / "runs.jsonl").records
    results = {key: {part: record[part] for part in parts} for key, record in records.items()}
    for key, record in records.items():
        timed = ("grad_norm", "learning_rate", "loss")
        results[key]["curves"] = {name: record["curves"][name] for name in timed if name in record["curves"]}
    return results


def sheet(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def raising(at: int, error: BaseException) -> Callable[..., dict[str, Any]]:
    """`train_and_measure`, which raises in the middle of the run of that number."""
    count = 0

    def stopped(run: Run, folder: Path, **kwargs: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == at:
            run.task.prepare(folder / "material", run.seed)
            raise error
        return train_and_measure(run, folder, **kwargs)

    return stopped


def test_a_suite_that_was_killed_goes_on_to_the_same_results(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = Suite.load(whole / "suite.yaml")
    monkeypatch.setattr(execute, "train_and_measure", raising(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        compare(suite, tmp_path, console=QUIET)
    assert len(RunLog(tmp_path / "runs.jsonl").records) == 2
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"key": "cut sho')
    executed: list[str] = []

    def counted(run: Run, *args: Any, **kwargs: Any) -> dict[str, Any]:
        executed.append(run.key)
        return train_and_measure(run, *args, **kwargs)

    monkeypatch.setattr(execute, "train_and_measure", counted)
    assert compare(suite, tmp_path, console=QUIET) == []
    assert len(executed) == 3
    assert measured(tmp_path) == measured(whole)
    report(tmp_path)
    report(whole)
    assert (tmp_path / "summary.csv").read_text() == (whole / "summary.csv").read_text()


def test_a_full_disk_ends_the_comparison_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = Suite.load(written(tmp_path / "given.yaml"))
    full = RuntimeError("cannot be saved")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device", "shard")
    monkeypatch.setattr(execute, "train_and_measure", raising(2, full))
    with pytest.raises(
        OSError, match=r"dpo, seed 0: No space left on device \(.*; make room, and .* goes on.*: 'shard'"
    ):
        compare(suite, tmp_path / "out", console=QUIET)
    assert len(RunLog(tmp_path / "out" / "runs.jsonl").records) == 1
    monkeypatch.setattr(execute, "train_and_measure", train_and_measure)
    assert compare(suite, tmp_path / "out", console=QUIET) == []


def test_a_failing_run_is_alone_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite.load(written(tmp_path / "given.yaml"), ["sweeps.objective.beta=[0.1]"])
    monkeypatch.setattr(execute, "train_and_measure", raising(2, RuntimeError("out of <luck>")))
    assert [run.name for run in compare(suite, tmp_path, console=QUIET)] == ["dpo"]
    page = report(tmp_path)[0].read_text()
    assert "RuntimeError: out of &lt;luck&gt;" in page
    assert "Traceback" in page
    # Both names of the run failed with it; the reference and the other objective did not.
    lines = sheet(tmp_path)
    assert {line["objective"] for line in lines} == {"reference", "simpo"}
    monkeypatch.setattr(execute, "train_and_measure", train_and_measure)
    assert compare(suite, tmp_path, console=QUIET) == []
    assert "Traceback" not in report(tmp_path)[0].read_text()


def test_an_objective_is_no_different_from_itself(whole: Path) -> None:
    report(whole)
    lines = sheet(whole)
    same = [line for line in lines if line["objective"] == "the same"]
    assert {line["objective.beta"] for line in same} == {"0.1", "1.0", ""}
    for line in same:
        assert float(line["difference"]) == 0
        assert {float(line[name]) for name in ("p_signs", "p")} == {1}
    assert {line["p_items"] for line in same} == {"1.0", ""}  # a frontier has no items
    other = next(line for line in lines if line["objective"] == "simpo" and line["metric"] == "sequence_kl")
    assert float(other["difference"]) != 0


def test_the_report_has_every_objective_and_needs_nothing_but_itself(whole: Path) -> None:
    page = report(whole)[0].read_text()
    for name in ("dpo", "the same", "simpo", "reference"):
        assert f'<td data-value="{name}">{name}' in page
    assert not re.search(r"https?:|@import|url\(|src=", page)
    assert "3 objectives at 2 settings under 1 seed, and the untrained reference: 7 runs, 7 of them finished." in page
    assert "--objective &#39;the same&#39; --out" in page
    assert page.count('<circle class="mark') == 3 * (1 + 2)
    tags = {tag: (page.count(f"<{tag}>") + page.count(f"<{tag} "), page.count(f"</{tag}>")) for tag in ("table", "td")}
    assert all(starts == ends > 0 for starts, ends in tags.values())


def test_a_picture_where_it_can_be_drawn(whole: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = [path for path in report(whole) if path.suffix == ".png"]
    assert [path.name for path in pictures] == ["frontier.png", "divergence.png", "curves.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_records_say_what_was_run(whole: Path) -> None:
    record = next(r for r in RunLog(whole / "runs.jsonl").records.values() if r["name"] == "simpo")
    assert record["configuration"]["training"]["learning_rate"] == 0.01
    assert record["configuration"]["objective"]["beta"] == 0.1
    assert record["versions"]["prefopt"]
    assert any(words.startswith("prefopt ") for words in record["components"].values())
    assert list(record["seconds"]) == ["material", "training", "held_out", "sampling", "judging"]
    assert all(seconds > 0 for seconds in record["seconds"].values())
    assert len(record["curves"]["loss"]) == 2
    assert all(len(texts) == 2 for texts in record["samples"].values())
    assert list((whole / "reference-cache").iterdir())


def test_a_run_is_known_by_what_determines_it(tmp_path: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        runs = Suite.load(written(tmp_path / "given.yaml"), overrides).runs()
        return {run.name: run.key for run in runs}

    first = keys()
    assert first["dpo"] == first["the same"]
    assert len(set(first.values())) == 3
    for change in ("task.noise=0.1", "seeds=[1]", "training.max_steps=3", "reference_cache=false"):
        assert not set(keys(change).values()) & ({*first.values()} - {first["reference"]}), change
    assert keys("objectives.dpo.beta=0.3")["dpo"] != first["dpo"]
    assert keys("objectives.dpo.beta=0.3")["simpo"] == first["simpo"]


def test_an_objective_may_have_values_of_its_own(tmp_path: Path) -> None:
    tdpo2 = {"zoo": "tdpo2", "sweeps": {"objective.beta": [2.0, 3.0]}}
    path = written(
        tmp_path / "given.yaml", sweeps={"objective": {"beta": [0.1]}}, objectives={"dpo": "dpo", "tdpo2": tdpo2}
    )
    betas = lambda suite: [(run.name, run.objective.beta) for run in suite.runs() if run.objective]  # noqa: E731
    suite = Suite.load(path)
    assert betas(suite) == [("dpo", 0.1), ("tdpo2", 2), ("tdpo2", 3)]
    assert betas(Suite.load(path, ["objectives.tdpo2.sweeps.objective.beta=[5]"])) == [("dpo", 0.1), ("tdpo2", 5)]
    (tmp_path / "again.yaml").write_text(suite.to_yaml())
    assert [run.key for run in Suite.load(tmp_path / "again.yaml").runs()] == [run.key for run in suite.runs()]


def test_an_override_of_a_field_leaves_the_component_that_a_name_gives(tmp_path: Path) -> None:
    path = written(tmp_path / "given.yaml", objectives={"one": {"loss": "hinge"}, "two": "dpo"})
    _, one, two = Suite.load(path, ["objectives.one.loss.margin=2", "seeds=[0]"]).runs()
    assert one.objective.loss == HingeLoss(margin=2)  # type: ignore[union-attr]
    assert two.objective == zoo.dpo()


def test_sweeps_reach_objectives_and_training_one_inside_the_other_or_dotted(tmp_path: Path) -> None:
    path = written(
        tmp_path / "given.yaml", sweeps={"objective.beta": [0.1, 1.0], "training": {"learning_rate": [1e-4]}}
    )
    suite = Suite.load(path, ["sweeps.objective.beta=[0.5,2.0]"], only=["simpo"])
    assert suite.against == "simpo"
    _, one, two = suite.runs()
    assert [one.objective.beta, two.objective.beta] == [0.5, 2.0]  # type: ignore[union-attr]
    assert one.training["learning_rate"] == 1e-4
    (tmp_path / "again.yaml").write_text(suite.to_yaml())
    assert Suite.load(tmp_path / "again.yaml") == suite


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "plantet"}, "task: no Task named 'plantet'. Did you mean 'planted'"),
        ({"tasks": "planted"}, "tasks: no such field in Suite. Did you mean 'task'"),
        ({"objectives": {}}, "objectives: "),
        (
            {"objectives": {"a": "sparspo"}},
            "objectives.a: no objective named 'sparspo' in the zoo. Did you mean 'sparsepo'",
        ),
        ({"objectives": {"a": 3}}, "objectives.a: "),
        ({"objectives": {"reference": "dpo"}}, "objectives: 'reference' is the untrained model's name"),
        ({"objectives": {"a": {"zoo": "dpo", "training": {"lr": 1}}}}, "objectives.a.training: lr: no such training"),
        ({"baseline": "dpi"}, "baseline: no objective named 'dpi' here. Did you mean 'dpo'"),
        (
            {"objectives": {"a": {"zoo": "dpo", "sweeps": {"objective.beta": [1]}}}},
            "the suite does not sweep 'objective",
        ),
        ({"sweeps": {"task.noise": [0.1]}}, "sweeps: 'task.noise' is neither objective.FIELD nor training.FIELD"),
        ({"sweeps": {"objective.beta": 0.1}}, "sweeps.objective.beta: "),
        ({"sweeps": {"objective.beta": [-1]}}, r"objectives.dpo at {'objective.beta': -1}: dpo: beta: more than 0"),
        ({"sweeps": {"objective.beta": [0.1, 0.1]}}, "sweeps: objective.beta names a value twice"),
        ({"seeds": []}, "seeds: "),
        ({"training": {"learning_rates": 1}}, "training: learning_rates: no such training argument. Did you mean"),
        (
            {"training": {"mask_learning_rate": 0.1}},
            "objectives.dpo.training: mask_learning_rate is for what an objective",
        ),
        (
            {"objectives": {"a": "aot"}, "training": {"gradient_accumulation_steps": 2}},
            "objectives.a.training: the loss 'aot' compares the pairs of a step",
        ),
        ({"training": {"learning_rate": "fast"}}, "training: learning_rate: "),
        ({"training": {"output_dir": "x"}}, "training: output_dir is what `--out` sets"),
        ({"training": {"lr_scheduler_type": "coside"}}, "training: .*coside"),
        (
            {"frontier": {"reward": "rewards"}},
            "frontier.reward: the task has no metric 'rewards'. Did you mean 'reward'",
        ),
        ({"frontier": {"within": 0}}, "frontier.within: "),
    ],
)
def test_a_bad_suite_is_an_error_that_names_file_and_field(changes: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.yaml", **changes)
    with pytest.raises(SuiteError, match=message) as caught:
        Suite.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_all_mistakes_of_a_suite_are_told_at_once(tmp_path: Path) -> None:
    objectives = {"dpo": "dpo", "mask": {"zoo": "sparsepo", "trainig": {}}, "column": {"weighting": {"nam": "column"}}}
    path = written(
        tmp_path / "bad.yaml",
        task={"name": "dialogue", "model": "./absent", "data": "absent.jsonl"},
        objectives=objectives,
        baseline="dop",
        sweeps={"objective.beta": [0.1, 0.2]},
        training={"learning_rat": 1},
    )
    with pytest.raises(SuiteError) as caught:
        Suite.load(path)
    lines = [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]
    assert [line.rpartition(": ")[0].split(" at ")[0] for line in lines] == [
        "baseline",
        "training: learning_rat",
        "objectives.mask",
        "objectives.column",
        "task.model",
        "task.data",
    ]


def test_mistakes_of_types_do_not_hide_those_of_other_sections(tmp_path: Path) -> None:
    path = written(
        tmp_path / "bad.yaml",
        task={"name": "dialogue", "model": "./absent", "data": "pairs", "judge": {"scorer": "nosuch"}},
        objectives={"dpo": "dpo", "tdpo1": {"zoo": "tdpo9"}, "x": {"zoo": "dpo", "betta": 3}, "y": {"sweeps": 3}},
        sweeps={"objective.beta": [0.1, 0.1]},
        seeds=[0, 0],
        training={"learning_rat": 1},
    )
    with pytest.raises(SuiteError) as caught:
        Suite.load(path)
    lines = [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]
    assert [line.split(": ")[0].split(" at ")[0] for line in lines] == [
        "task",
        "objectives.y.sweeps",
        "seeds",
        "sweeps",
        "training",
        "objectives.tdpo1",
        "objectives.x",
        "task.model",
    ]


def test_a_file_that_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"no.yaml: there is no such file"):
        Suite.load(tmp_path / "no.yaml")
    (tmp_path / "list.yaml").write_text("- dpo\n")
    with pytest.raises(SuiteError, match="a suite is a mapping"):
        Suite.load(tmp_path / "list.yaml")
    with pytest.raises(SuiteError, match=r"--objective: none named 'dpi'. Did you mean 'dpo'"):
        Suite.load(written(tmp_path / "given.yaml"), only=["dpi"])
    with pytest.raises(SuiteError, match=r"write it as section.field=value"):
        Suite.load(tmp_path / "given.yaml", ["seeds"])
    with pytest.raises(SuiteError, match="name the folder that `prefopt compare` wrote"):
        report(tmp_path)
    (tmp_path / "runs.jsonl").write_text(json.dumps({"no": "run"}) + "\n")
    with pytest.warns(UserWarning, match=r"runs.jsonl:1: not a whole record \(it is not the record of a run"):
        assert RunLog(tmp_path / "runs.jsonl").records == {}


def test_a_run_of_an_earlier_call_that_is_still_under_way_keeps_no_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job goes on whose caller was killed, and as a disk of several machines keeps the locks of one that died."""
    monkeypatch.setattr(run_lock, "PATIENCE", 0)
    suite = Suite.load(written(tmp_path / "given.yaml", objectives={"dpo": "dpo"}))
    (tmp_path / OUTPUT).mkdir()  # so that a comparison has begun
    with ExitStack() as stack:
        for run in suite.runs():
            folder = Path(run.arguments(tmp_path).output_dir)
            folder.mkdir(parents=True)
            stack.enter_context(FileLock(folder / run_lock.LOCK))
        assert compare(suite, tmp_path, console=QUIET) == []
