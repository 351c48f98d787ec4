"""A disk that is full at any byte, or a limit of files, costs nothing that was saved, and the same command goes on."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from prefopt.cli import app
from prefopt.training.manifest import reject_damaged
from tests.comparison.test_suite import measured
from tests.reliability.figures import record
from tests.reliability.full_disks import SmallDisk, contents, largest_file
from tests.reliability.test_killed_comparisons import COMPARED, entries
from tests.reliability.test_kills import saved_values

RUNNER = CliRunner(env={"COLUMNS": "1000", "NO_COLOR": "1", "TERM": "dumb"})

KEPT = re.compile(r"the policy is in (\S+)")


class Command:
    """What fills the disk: a command, and what it is to come to.

    arguments  of prefopt, with {disk} for the folder
    values     what the folder holds at the end, by name
    """

    def __init__(self, arguments: list[str], values: Callable[[Path], dict[str, Any]]) -> None:
        self._arguments, self.values = arguments, values

    def run(self, disk: Path) -> Result:
        return RUNNER.invoke(app, [text.format(disk=disk) for text in self._arguments])


def same(one: Any, two: Any) -> bool:
    return bool((one == two).all()) if hasattr(one, "all") else one == two


def check(way: str, disk: Path, result: Result) -> Iterator[str]:
    """What is wrong with the end of a command whose disk was full."""
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    if result.exit_code != 2 or len(lines) != 1:
        yield f"exit code {result.exit_code}, {lines or result.output[-500:]}"
        return
    if str(disk) not in lines[0] or not re.search(r"[0-9][0-9,]* bytes|bytes? are free", lines[0]):
        yield f"no path or no bytes in {lines[0]}"
    for checkpoint in disk.rglob("checkpoint-*"):
        if "unfinished" not in str(checkpoint) and reject_damaged(checkpoint) is None:
            yield f"{checkpoint.name} is without its manifest"
    if policy := KEPT.search(lines[0]):
        kept = Path(policy[1])
        if not saved_values(kept):
            yield f"no policy in {kept}"
        shutil.rmtree(kept)
    elif way == "disk" and "could not be written" in lines[0] and "no other folder took" in lines[0]:
        yield "the policy was kept nowhere"


def fill(name: str, command: Command, folder: Path, tries: int) -> None:
    """Carry the command out on disks with too little room, and then with enough."""
    draw = random.Random(0)
    with SmallDisk(folder / "disk", 64 * 2**20) as disk:
        whole = command.run(disk.folder)
        assert whole.exit_code == 0, whole.output
        expected, size = command.values(disk.folder), sum(map(len, contents(disk.folder).values()))
        largest = max(map(len, contents(disk.folder).values()))
        ways = ["disk", "limit"] if disk.mounted else ["limit"]
        tried, failures = Counter[str](), list[str]()
        for number in range(tries):
            way, result = ways[number % len(ways)], None
            while result is None or result.exit_code == 0:  # there was enough
                for path in disk.folder.iterdir():
                    shutil.rmtree(path)
                limit = draw.randrange(size) if way == "disk" else draw.randrange(largest)
                with disk.filled(limit) if way == "disk" else largest_file(limit):
                    result = command.run(disk.folder)
            tried[way] += 1
            problems = list(check(way, disk.folder, result))
            again = command.run(disk.folder)
            values = command.values(disk.folder) if again.exit_code == 0 else {}
            names = [key for key in expected.keys() | values.keys() if not same(expected.get(key), values.get(key))]
            if again.exit_code or names:
                problems.append(f"then {again.output[-500:] if again.exit_code else f'{names[:3]} differ'}")
            failures += [f"{name}, {way} {number} at {limit:,} bytes: {problem}" for problem in problems]
    for way, count in tried.items():
        lost = len({text.partition(":")[0] for text in failures if f", {way} " in text})
        title = {"disk": "a full disk", "limit": "a limit of files"}[way]
        record("disks filled", f"{name}, {title}", tried=count, intact=count - lost)
    assert not failures, "\n".join(failures)


def training(model: str, rows: list[dict[str, str]], folder: Path, **data: str) -> list[str]:
    """The command of a run of four steps, with a checkpoint after each second."""
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
    saves = {"save_steps": 2, "max_steps": 4, "per_device_train_batch_size": 8, "resume_from_checkpoint": True}
    (folder / "run.yaml").write_text(
        yaml.safe_dump(
            {
                "model": model,
                "data": {"train": str(pairs), **data},
                "objective": {"zoo": "sparsepo", "weighting": {"name": "sparse", "init": "near_one"}},
                "training": {**quiet, **saves, "learning_rate": 1e-3, "mask_learning_rate": 1e-2},
            }
        )
    )
    return ["train", str(folder / "run.yaml")]


@pytest.mark.parametrize(
    "tries",
    [
        pytest.param(1, marks=pytest.mark.outside, id="one disk"),
        pytest.param(30, marks=pytest.mark.reliability, id="thirty disks"),
    ],
)
def test_checkpoints_and_policies(tries: int, model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    arguments = [*training(model_folder, rows, tmp_path), "training.output_dir={disk}/run"]

    def values(disk: Path) -> dict[str, Any]:
        folders = [*(disk / "run").glob("checkpoint-*"), disk / "run"]
        return {f"{path.name}/{key}": value for path in folders for key, value in saved_values(path).items()}

    fill("checkpoints and policies", Command(arguments, values), tmp_path, tries)


@pytest.mark.reliability
def test_reference_caches(model_folder: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    arguments = [*training(model_folder, rows, tmp_path), "data.reference_cache={disk}/cache", "--overwrite"]
    arguments += [f"training.output_dir={tmp_path}/run", "training.resume_from_checkpoint=false"]
    fill("reference caches", Command(arguments, lambda disk: entries(disk / "cache")), tmp_path, 20)


@pytest.mark.reliability
def test_comparisons(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(COMPARED))
    arguments = ["compare", str(tmp_path / "suite.yaml"), "--out", "{disk}/out", "--processes", "1"]

    def values(disk: Path) -> dict[str, Any]:
        names = {path.name: path.exists() for path in (disk / "out").iterdir() if path.suffix != ".lock"}
        return {**measured(disk / "out"), **names}

    fill("comparisons and their reports", Command(arguments, values), tmp_path, 20)
