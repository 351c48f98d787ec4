"""Processes of tests, forked from a server that has imported torch and its companions: none imports them again."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from tqdm import tqdm

PRELOADED = ("torch", "transformers.trainer", "accelerate", "peft", "datasets", "torch.distributed.fsdp", "pydantic")

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(list(PRELOADED))


class NativeCrashError(AssertionError):
    """A process was ended by a fault in native code, of which this project has none: `make test` runs the test once
    more, and names it in its summary. A loop of torch's functional collectives over gloo, and nothing else, ends so
    about once in a million, with a corrupt heap."""


def failure(exit_codes: Sequence[int | None], output: str) -> AssertionError:
    """What a test fails with, one of whose processes should not have ended so: the exit codes by rank, those of signals
    negative, None for one that did not end, and what the processes printed."""
    crashed = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}.intersection(exit_codes)
    return (NativeCrashError if crashed else AssertionError)(f"exit codes {list(exit_codes)}\n\n{output}")


class Serving:
    """A process that answers requests, until the context ends: it forks for each from what it has made once.

    serve   is called there with its end of the connection and the arguments; receives None in the end
    """

    def __init__(self, serve: Callable[..., None], *arguments: object) -> None:
        self._connection, other = SERVER.Pipe()
        self._process = SERVER.Process(target=_serve, args=(serve, other, *arguments))

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.send(None)
        self._process.join()

    def ask(self, request: object) -> Any:
        """The answer to a request."""
        self._connection.send(request)
        return self._connection.recv()


def _serve(serve: Callable[..., None], connection: Connection, *arguments: object) -> None:
    """Serve with a lock of tqdm's that forks do not share: one that is killed while it holds it stops no other."""
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0
    serve(connection, *arguments)


def run_module(module: str, processes: int, *arguments: object, launched: bool = False) -> None:
    """Run a module of the tests as its command line would, on that many processes of one group, to the end.

    launched  one process is a group too, as where a launcher starts it
    """
    group: dict[str, object] = {}
    if processes > 1 or launched:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "GLOO_SOCKET_IFNAME": "lo"}
        group |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    ranks = [{**group, "RANK": rank, "LOCAL_RANK": rank} if group else {} for rank in range(processes)]
    _run([(_module_as_main, (module, arguments, variables)) for variables in ranks])


def run_file(file: Path, *arguments: object, path: Sequence[Path | str], cwd: Path, exit_code: int = 0) -> str:
    """What a file prints that is run in a folder, with all that is installed being in the folders of `path`."""
    return _run([(_file_as_main, (file, arguments, path, cwd))], exit_code)


def _run(calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]], exit_code: int = 0) -> str:
    """What the calls print, each in a process that ends with the exit code."""
    with TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(rank) for rank in range(len(calls))]
        children = [
            SERVER.Process(target=_call, args=(*call, output)) for call, output in zip(calls, outputs, strict=True)
        ]
        for child, output in zip(children, outputs, strict=True):
            output.touch()
            child.start()
        for child in children:
            child.join(300)
        exit_codes = [child.exitcode for child in children]
        for child in children:
            child.kill()
        texts = [output.read_text() for output in outputs]
    failures = [text[-8000:] for code, text in zip(exit_codes, texts, strict=True) if code != exit_code]
    if failures:
        raise failure(exit_codes, "\n\n".join(failures))
    return "".join(texts)


def _call(function: Callable[..., None], arguments: tuple[Any, ...], output: Path) -> None:
    """Call it, with what is printed in the file, by libraries too."""
    with output.open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    faulthandler.enable()
    function(*arguments)


def _module_as_main(module: str, arguments: Sequence[object], variables: Mapping[str, object]) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})
    sys.argv = [module, *map(str, arguments)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _file_as_main(file: Path, arguments: Sequence[object], path: Sequence[Path | str], cwd: Path) -> None:
    assert "prefopt" not in sys.modules
    for module in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[module]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
    sys.path[:] = [str(folder) for folder in path]
    sys.argv = [str(file), *map(str, arguments)]
    os.environ.update(COLUMNS="200", NO_COLOR="1")
    os.chdir(cwd)
    runpy.run_path(str(file), run_name="__main__")
