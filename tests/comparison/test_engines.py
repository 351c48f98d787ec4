"""Engines: the results of one process on each, deaths that fail one run, and a machine of a cluster that dies."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prefopt.comparison.engines import Engine, EngineError, RayEngine, SlurmEngine, load_engine
from prefopt.comparison.engines.slurm import JobsExecutor
from prefopt.comparison.run_log import RunLog
from prefopt.comparison.runner import compare
from tests.comparison.hazard import EXITS, WAITED, WAITS
from tests.comparison.test_processes import suite_of
from tests.comparison.test_suite import QUIET, measured


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process measures, with the threads of one of several."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / WAITED).touch()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert compare(suite_of(0.1, WAITS), folder, console=QUIET, processes=1) == []
    torch.set_num_threads(threads)
    return measured(folder)


def assert_same_but_for_a_death(engine: Engine, folder: Path, alone: dict[str, Any]) -> None:
    """All runs are those of one process, but for one whose process ends."""
    (failed,) = compare(suite_of(0.1, WAITS, EXITS), folder, console=QUIET, executor=engine)
    assert failed.setting == {"objective.beta": EXITS}
    record = RunLog(folder / "runs.jsonl").records[failed.key]
    assert record["error"]
    assert "some last words" in record["traceback"]
    together = measured(folder)
    assert len(together) == 4
    assert {key: together[key] for key in alone} == alone
    assert not (folder / "running").exists()


@pytest.mark.long
@pytest.mark.outside
@pytest.mark.filterwarnings("default")  # Ray's own, of what it will change
def test_a_ray_cluster_of_two_machines_of_which_one_dies(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'prefopt[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
        by_process = {machine.all_processes["raylet"][0].process.pid: machine for machine in machines}

        def remove() -> None:
            while not (tmp_path / WAITED).exists() or not (tmp_path / WAITED).read_text():
                time.sleep(0.1)
            cluster.remove_node(by_process.pop(int((tmp_path / WAITED).read_text())))

        thread = threading.Thread(target=remove, daemon=True)
        thread.start()
        assert_same_but_for_a_death(RayEngine(address=cluster.address), tmp_path, alone)
        thread.join()
        assert len(by_process) == 1
    finally:
        cluster.shutdown()


@pytest.mark.long
@pytest.mark.outside
def test_jobs_of_submitit(alone: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'prefopt[slurm]'")
    (tmp_path / WAITED).touch()
    assert_same_but_for_a_death(SlurmEngine(cluster="local", timeout_min=10, jobs=2), tmp_path, alone)


def test_an_engine_whose_library_is_not_there_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: dict[str, Engine] = {"ray": RayEngine(), "submitit": SlurmEngine(timeout_min=1)}
    for library, engine in engines.items():
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ImportError, match=rf"pip install 'prefopt\[{engine.name}\]'"):
            engine.start([], tmp_path)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1:1", "no.such.host.invalid:6379", "nowhere"])
def test_an_address_without_a_cluster_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(is_initialized=lambda: False, init=_without_port)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(EngineError, match=rf"^engine ray: no cluster at {address} \(.+\); give `address` that of a"):
        RayEngine(address=address).start([], Path())
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EngineError, match=rf"^engine ray: no cluster at {address} "):
        RayEngine().start([], Path())


def _without_port(**_: object) -> None:
    raise ValueError("Invalid address format: nowhere")


@pytest.mark.long
@pytest.mark.outside
@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1:1", "no.such.host.invalid:6379", "nowhere"])
def test_ray_is_not_waited_for(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'prefopt[ray]'")
    begin = time.monotonic()
    with pytest.raises(EngineError, match=r"^engine ray: no cluster at"):
        RayEngine(address=address).start([], Path())
    assert time.monotonic() - begin < 20


def test_a_machine_without_slurm_says_where_to_compare(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'prefopt[slurm]'")
    with pytest.raises(EngineError, match=r"^engine slurm: .*srun.*; compare on a machine of the cluster, or try the"):
        SlurmEngine(timeout_min=1).start([], tmp_path)


def test_parameters_of_jobs_are_those_of_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'prefopt[slurm]'")
    with pytest.raises(EngineError, match=r"^engine slurm: .*gpu_per_node"):
        SlurmEngine(cluster="local", timeout_min=1, gpu_per_node=1).start([], tmp_path)


class _Job:
    """A job that is over when it is cancelled."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def done(self) -> bool:
        return self.is_cancelled

    def cancel(self, *, check: bool) -> None:
        self.is_cancelled = True


def test_an_error_cancels_jobs_and_none_begins_after_it() -> None:
    jobs: list[_Job] = []
    futures: list[Future[Any]] = []

    def submit(function: Callable[..., Any], *args: Any) -> _Job:
        jobs.append(_Job())
        return jobs[-1]

    executor = JobsExecutor(SimpleNamespace(submit=submit), 2)

    def interrupted() -> None:
        with executor:
            futures.extend(executor.submit(int) for _ in range(3))
            while len(jobs) < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [job.is_cancelled for job in jobs] == [True, True]
    assert all(future.cancelled() or isinstance(future.exception(), CancelledError) for future in futures)


def test_the_files_of_the_documentation_are_engines() -> None:
    files = [*(Path(__file__).parents[2] / "benchmarks" / "engines").iterdir()]
    assert {load_engine(str(file)).name for file in files} == {file.stem for file in files} == {"ray", "slurm"}
    with pytest.raises(
        EngineError, match=r"timeout_min: it is needed; fields are given in a YAML file, with `name: slurm`"
    ):
        load_engine("slurm")


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_processes_are_of_the_local_engine(name: str) -> None:
    with pytest.raises(EngineError, match=f"^{name}: processes: the engine {name} has none, .*; leave it out"):
        load_engine(name, {"processes": 2})
