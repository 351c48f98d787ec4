"""Environments of their own for plugins: what is installed there is wheels, of prefopt and of the plugins named."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

from tests.forked import run_file

ROOT = Path(__file__).parents[2]
BUILD_WHEELS = Path(__file__).with_name("build_wheels.py")
PIP = ("-m", "pip", "--disable-pip-version-check")
OFFLINE = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")


def run(command: Sequence[object], *, exit_code: int = 0, cwd: Path | None = None) -> str:
    """What a command prints. It sees nothing of what this process has on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
        cwd=cwd,
    )
    assert done.returncode == exit_code, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def wheels(sources: Sequence[Path], folder: Path) -> dict[str, Path]:
    """The wheels of these packages, by the names of their folders, built without a network."""
    run([sys.executable, BUILD_WHEELS, folder, *sources])
    built = {wheel.name.partition("-")[0].replace("_", "-"): wheel for wheel in folder.glob("*.whl")}
    return {source.name: built[source.name] for source in sources}


def unpacked(packages: Sequence[Path], folder: Path) -> list[str]:
    """A path on which these wheels are all that is installed in the folder, before what they depend on."""
    for package in packages:
        with ZipFile(package) as wheel:
            wheel.extractall(folder)
    return _path(folder)


def _path(folder: Path) -> list[str]:
    standard = sysconfig.get_path("stdlib")
    return [str(folder), standard, f"{standard}/lib-dynload", *_packages()]


def _packages() -> list[str]:
    """The folders that this process has packages from, but for prefopt's own."""
    return sorted({str(Path(str(package.locate_file(""))).resolve()) for package in distributions()} - {str(ROOT)})


@dataclass(frozen=True)
class Environment:
    """A virtual environment in a folder."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, packages: Sequence[Path]) -> Environment:
        """A new one with these packages. For what they depend on it looks into the folders that this process has it
        from, behind its own; only so does it cost seconds."""
        venv.create(folder, with_pip=False, symlinks=True)
        made = cls(folder)
        (made._site / "what_they_depend_on.pth").write_text("\n".join(_packages()))
        made.install(*packages)
        return made

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def _site(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.folder)}))

    def install(self, *packages: Path) -> None:
        """Install wheels, or packages' folders, as they are."""
        installing = ("install", *OFFLINE, "--ignore-installed", "--no-warn-conflicts")
        run([sys.executable, *PIP, "--python", self.python, *installing, *packages])

    def command(self, name: str, *arguments: object) -> str:
        """What one of its commands prints, in a process that the system starts."""
        return run([self.folder / "bin" / name, *arguments])

    def forked_command(self, name: str, *arguments: object, exit_code: int = 0, cwd: Path) -> str:
        """The same in a fork that has imported torch: seconds faster."""
        return self.run_file(self.folder / "bin" / name, *arguments, exit_code=exit_code, cwd=cwd)

    def run_file(self, file: Path, *arguments: object, exit_code: int = 0, cwd: Path) -> str:
        """What a file prints that its Python runs, in a fork that has imported torch."""
        return run_file(file, *arguments, path=_path(self._site), cwd=cwd, exit_code=exit_code)
