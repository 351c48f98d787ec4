"""How a process that carries out runs is started: pinned to its own accelerator, or with its share of the cores."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from typing import final

import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import prepare_simple_launcher_cmd_env

from prefopt.comparison.run import Run

__all__ = ["Command", "PoolError", "accelerators", "command", "refuse_what_cannot_be_sent"]

Command = tuple[list[str], dict[str, str]]
"""Arguments, and the environment in full."""

# -P: modules are found where ours are, and not in the folder that we happen to stand in.
_WORKER = (sys.executable, "-P", "-m", "prefopt.comparison.worker")


@final
class PoolError(RuntimeError):
    """Workers cannot be started, or cannot be given the runs."""


def refuse_what_cannot_be_sent(runs: Iterable[Run]) -> None:
    """Raise PoolError where a part of a run is of a class that other processes do not find."""
    for run in runs:
        for part in (run.task, *(() if run.objective is None else run.objective.components)):
            if type(part).__module__ == "__main__":
                raise PoolError(
                    f"{type(part).__name__} is defined in the script that runs, where other processes do not find it; "
                    "put it into a module of its own, or carry out the comparison with processes=1"
                )


def accelerators(runs: Iterable[Run]) -> int:
    """How many accelerators the runs have: those of this machine, none where all of them are to use the CPU."""
    if all(run.training.get("use_cpu", False) for run in runs):
        return 0
    return torch.accelerator.device_count()


def command(number: int, processes: int, devices: int) -> Command:
    """The command line and environment of the worker of that number, of so many processes on so many accelerators.

    More processes than accelerators share these. On the CPU each has its share of our threads.
    """
    threads = max(1, torch.get_num_threads() // processes)
    started, env = _pinned(number % devices, threads) if devices else (list(_WORKER), {**os.environ})
    path = os.pathsep.join(os.path.abspath(each) for each in sys.path)
    return started, env | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def _pinned(device: int, threads: int) -> Command:
    """As `accelerate launch` starts a process on one accelerator, whatever the user's own configuration of it says."""
    return _launched(_seen(device), threads)


def _launched(device: str, threads: int) -> Command:
    options = ("--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    chosen = (f"--gpu_ids={device}", f"--num_cpu_threads_per_process={threads}", "--no_python", *_WORKER)
    args = launch_command_parser().parse_args([*options, *chosen], Namespace(use_cpu=False))
    started, env = prepare_simple_launcher_cmd_env(args)
    return started, env


def _seen(device: int) -> str:
    """The accelerator's own name: where the environment shows us only some of the machine's, ours are numbered anew."""
    probe = "?"
    _, env = _launched(probe, 1)
    shown = next((os.environ[name] for name, value in env.items() if value == probe and name in os.environ), "")
    return shown.split(",")[device].strip() if shown else str(device)
