"""What every task is given: its material once for each seed, and a place among the installed ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from prefopt.hookspecs import hookimpl
from prefopt.plugins import PluginError
from prefopt.scoring import PreferenceModel
from prefopt.tasks import Evaluation, Metric, Task, TaskError, available_tasks, resolve_task
from prefopt.tasks.conformance import check_task
from prefopt.tasks.planted import PlantedTask
from prefopt.tasks.registry import TASKS
from prefopt.testing import temporary_plugin
from prefopt.testing.check import ConformanceError

MADE: list[Path] = []


class Little(Task):
    name: Literal["little"] = "little"
    model: str = "inside"
    fails: bool = False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return ()

    def make(self, folder: Path, seed: int) -> str:
        MADE.append(folder)
        (folder / "train.jsonl").write_text(f"{seed}\n")
        if self.fails:
            raise RuntimeError("no")
        return str(folder / "reference") if self.model == "inside" else self.model

    def evaluate(self, *args: Any) -> Evaluation:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    MADE.clear()


def test_material_is_made_once_for_a_seed_and_its_settings(tmp_path: Path) -> None:
    first = Little().prepare(tmp_path, 0)
    assert Little().prepare(tmp_path, 0) == first
    assert len(MADE) == 1
    assert first.train.read_text() == "0\n"
    assert first.model == str(first.folder / "reference")
    other = {Little().prepare(tmp_path, 1), Little(model="some/name").prepare(tmp_path, 0)}
    assert len({first.folder, *(material.folder for material in other)}) == 3
    assert "some/name" in {material.model for material in other}


def test_a_failure_leaves_no_material(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no"):
        Little(fails=True).prepare(tmp_path, 0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_one_makes_the_material_and_others_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, begun = Little.make, threading.Event()

    def made_slowly(self: Little, folder: Path, seed: int) -> str:
        begun.set()
        time.sleep(0.3)
        return make(self, folder, seed)

    monkeypatch.setattr(Little, "make", made_slowly)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(Little().prepare, tmp_path, 0)
        assert begun.wait(10)
        assert Little().prepare(tmp_path, 0) == first.result()
    assert len(MADE) == 1


def test_what_a_killed_maker_left_is_no_material_and_is_cleared_away(tmp_path: Path) -> None:
    folder = Little().material_folder(tmp_path, 0)
    left = tmp_path / f".{folder.name}-left"
    left.mkdir(parents=True)
    (left / "train.jsonl").write_text("half")
    assert Little().prepare(tmp_path, 0).train.read_text() == "0\n"
    assert not left.exists()


def test_tasks_are_found_by_name() -> None:
    assert available_tasks()["planted"] is PlantedTask
    assert TASKS.installed["planted"][1].plugin == "prefopt:built_ins"
    assert resolve_task("planted") == PlantedTask() == resolve_task(PlantedTask())
    assert resolve_task({"name": "planted", "noise": 0.1}) == PlantedTask(noise=0.1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("plantet", "no Task named 'plantet'. Did you mean 'planted'\\? Installed: .*planted"),
        ({"name": "planted", "noize": 0.1}, "planted: noize: no such field in PlantedTask. Did you mean 'noise'"),
        ({"name": "planted", "noise": 0.7}, "planted: noise: less than 0.5 is needed, got 0.7"),
        ({"name": "planted", "longest": 9}, "`longest` is 9, which is less than `shortest`, 24"),
        ({"name": "planted", "length_bias": 0.5}, "every response has 24 words; raise `longest`"),
        ({"name": "planted", "spurious": 0.5, "spurious_share": 0}, "leaves no spurious words"),
        ({"noise": 0.1}, "a task is given by name"),
    ],
)
def test_a_task_that_cannot_be_had_is_named(value: object, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        resolve_task(value)


def test_plugins_bring_tasks_by_the_same_hook() -> None:
    with temporary_plugin(Little, name="little-plugin"):
        assert resolve_task({"name": "little", "model": "x"}) == Little(model="x")
        assert TASKS.installed["little"][1].distribution == "little-plugin"
    assert "little" not in available_tasks()


def test_a_plugin_that_brings_no_task_is_named() -> None:
    @hookimpl
    def prefopt_tasks() -> list[type[int]]:
        return [int]

    with (
        temporary_plugin(prefopt_tasks, name="broken-plugin"),
        pytest.raises(PluginError, match="broken-plugin:0: prefopt_tasks returned <class 'int'>"),
    ):
        available_tasks()


SMALL = PlantedTask(pairs=8, held_out=3, prompts=3, shortest=6, longest=8, bearing=0.3, reference_steps=2)


@pytest.mark.slow
def test_the_planted_task_keeps_to_what_tasks_have_to(tmp_path: Path) -> None:
    evaluation = check_task(SMALL, tmp_path)
    assert {"reward", "sequence_kl", "auroc_w"} <= set(evaluation.values)


class Faulty(Task):
    """The planted task with a fault."""

    name: Literal["faulty"] = "faulty"
    fault: str = ""
    lacks: str = ""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(metric for metric in SMALL.metrics if metric.name != self.lacks)

    @property
    def headline(self) -> str:
        return "reward"

    def make(self, folder: Path, seed: int) -> str:
        model = SMALL.make(folder, seed)
        train, prompts = folder / "train.jsonl", folder / "prompts.jsonl"
        if self.fault == "seedless":
            train.write_text(f"{train.read_text()}{train.read_text().replace('w', str(len(MADE)) + 'w')}")
            MADE.append(folder)
        if self.fault == "leaking":
            prompts.write_text(train.read_text())
        if self.fault == "no pair":
            train.write_text('{"prompt": "w1", "chosen": "w2"}\n')
        return model

    def evaluate(self, model: PreferenceModel, *rest: Any) -> Evaluation:
        evaluation = SMALL.evaluate(model, *rest)
        values = {name: dict(figures) for name, figures in evaluation.values.items()}
        if self.fault == "infinite":
            values["reward"]["none"] = float("nan")
        if self.fault == "another each time":
            values["reward"] = {key: value + len(MADE) for key, value in values["reward"].items()}
            MADE.append(Path())
        if self.fault == "items by policy":
            weight = next(iter(model.policy.parameters())).detach()
            values["reward"] = {str(weight.sum().item()): 1.0}
        if self.fault == "changes the policy":
            next(iter(model.policy.parameters())).data += 1
        return Evaluation(values, evaluation.samples)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("seedless", "train.jsonl is another one when it is made again"),
        ("leaking", "prompts are trained on and held out"),
        ("no pair", "train: not a preference pair"),
        ("infinite", "reward: not finite"),
        ("another each time", "other figures when it is measured again"),
        ("items by policy", "reward: no held-out item has the name"),
        ("changes the policy", "changes the weights of the policy"),
    ],
)
def test_the_checks_of_tasks_bite(fault: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_task(Faulty(fault=fault), tmp_path)


@pytest.mark.parametrize(
    ("lacks", "message"), [("tokens", "evaluate gives 'tokens'"), ("reward", "headline 'reward' is not among")]
)
def test_metrics_are_declared(lacks: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_task(Faulty(lacks=lacks), tmp_path)
