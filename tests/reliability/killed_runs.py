"""Runs in processes of their own, which fork from one that has built the trainer, and are killed when asked to."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import signal
import socket
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from prefopt import zoo
from prefopt.training import PreferenceTrainer, train
from tests.forked import SERVER, Serving, failure
from tests.reliability.moments import LIMIT, Board, Kill, Moment, observe, strike
from tests.training.test_trainer import NEAR_ONE, config


class End(NamedTuple):
    """How a run ended: whether it was killed, and in which phase; else its moments."""

    killed: bool
    phase: str
    moments: list[Moment]


class Inputs(NamedTuple):
    """What all runs are made of; `state` is how FSDP2 keeps its checkpoints, where two processes share a model."""

    model: str
    rows: list[dict[str, str]]
    state: str = ""

    def trainer(self, out: str, processes: int = 1) -> PreferenceTrainer:
        """Ten steps of eight pairs, with a learned mask that drops out; a checkpoint every two, and two are kept."""
        mask = {**NEAR_ONE["weighting"], "dropout": 0.2}
        saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "resume_from_checkpoint": "true"}
        batch = {"per_device_train_batch_size": 8 // processes, "max_steps": 10}
        gloo: dict[str, Any] = {"ddp_backend": "gloo", "ddp_find_unused_parameters": False} if processes > 1 else {}
        if self.state:
            spread_models_without_accelerators()
            gloo = {"ddp_backend": "gloo", "fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": self.state}}
        return PreferenceTrainer(
            self.model,
            objective=zoo.build({"zoo": "sparsepo", "weighting": mask}),
            args=config(out, mask_learning_rate=0.05, **batch, **saves, **gloo),
            train_dataset=self.rows,
        )


def spread_models_without_accelerators() -> None:
    """Have accelerate use FSDP2 on CPUs too, where it would give each process a copy of the model."""
    begin = AcceleratorState.__init__

    def begin_with_fsdp(self: AcceleratorState, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        if (plugin := options.get("fsdp_plugin") or getattr(self, "fsdp_plugin", None)) is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = begin_with_fsdp


class ForkedRuns(Serving):
    """Runs of one process: each forks from a process that has built the trainer."""

    def __init__(self, inputs: Inputs, folder: Path) -> None:
        super().__init__(_serve, inputs, folder)
        self._folder = folder

    def run(self, out: Path, kill: Kill | None) -> End:
        """Train in the folder, or go on there."""
        return _end(self.ask((out, kill)), self._folder, out)


class PairsOfRuns:
    """Runs of two processes, of which both are killed, or one before the other. A context."""

    def __init__(self, inputs: Inputs, folder: Path) -> None:
        self._inputs, self._folder, self._runs = inputs, folder, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, out: Path, kill: Kill | None) -> End:
        """Train in the folder, or go on there."""
        self._runs += 1
        board = Board(self._folder / "board")
        board.clear()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "GLOO_SOCKET_IFNAME": "lo"}
        group |= {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        ranks = [{**group, "RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
        processes = [
            SERVER.Process(target=_one_of_two, args=(self._inputs, self._folder, out, kill, variables))
            for variables in ranks
        ]
        for process in processes:
            process.start()

        def stop() -> None:
            for process in processes if self._runs % 2 else reversed(processes):
                process.kill()
                process.join()

        strike(board, kill, lambda: any(process.exitcode is not None for process in processes), stop)
        if kill is not None and any(process.exitcode == -signal.SIGKILL for process in processes):
            stop()
        for process in processes:
            process.join()
        # Of two, the one that lives a moment longer may end by the loss of the other.
        codes = sorted(process.exitcode or 0 for process in processes)
        return _end(next(filter(None, codes), 0), self._folder, out)


def _end(code: int, folder: Path, out: Path) -> End:
    if code == -signal.SIGKILL:
        return End(True, Board(folder / "board").read()[1], [])
    if code != 0:
        raise failure([code], (folder / "log").read_text()[-8000:])
    return End(False, "", [Moment(*moment) for moment in json.loads((folder / "moments").read_text())])


def _serve(connection: Connection, inputs: Inputs, folder: Path) -> None:
    """Fork a run for each request, and answer with its exit code, negative for a signal."""
    torch.set_num_threads(1)
    trainer, board = inputs.trainer(str(folder / "none")), Board(folder / "board")
    states = random.getstate()
    gc.collect()
    gc.freeze()  # every run collects garbage, which walks all that the libraries made when they were imported
    while (request := connection.recv()) is not None:
        out, kill = request
        board.clear()
        run = os.fork()
        if run == 0:
            random.setstate(states)  # Python draws a new seed in a fork
            trainer.args.output_dir = str(out)
            _leave(_exit_code(trainer, folder, board, kill))
        codes: list[int] = []

        def is_over(run: int = run, codes: list[int] = codes) -> bool:
            if not codes and (status := os.waitpid(run, os.WNOHANG))[0]:
                codes.append(os.waitstatus_to_exitcode(status[1]))
            return bool(codes)

        strike(board, kill, is_over, lambda run=run: os.kill(run, signal.SIGKILL))
        connection.send(codes[0] if codes else os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]))


def _one_of_two(inputs: Inputs, folder: Path, out: Path, kill: Kill | None, variables: dict[str, object]) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    trainer = inputs.trainer(str(out), processes=2)
    board = Board(folder / "board") if variables["RANK"] == 0 else None
    _leave(_exit_code(trainer, folder, board, kill))


def _exit_code(trainer: PreferenceTrainer, folder: Path, board: Board | None, kill: Kill | None) -> int:
    """Train and save as `prefopt train` does, and write down the moments."""
    with (folder / "log").open("w") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    faulthandler.dump_traceback_later(LIMIT - 10)  # into the log: where a run hangs
    moments: Sequence[Moment] = [] if board is None else observe(board, kill)
    try:
        train(trainer)
    except BaseException:
        traceback.print_exc()
        return 1
    if board is not None:
        (folder / "moments").write_text(json.dumps(list(moments)))
    return 0


def _leave(code: int) -> Any:
    os._exit(code)
