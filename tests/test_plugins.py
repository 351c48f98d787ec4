"""Plugin packages: ours, and those that `prefopt new-plugin` writes, built as wheels and installed into a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefopt.hookspecs import HOOKS
from tests.cli.test_cli import run

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").glob("prefopt-*"))
DECAY = ROOT / "plugins" / "prefopt-decay"
KINDS = [kind.kind.replace(" ", "-") for kind in HOOKS]


def python(*arguments: str, path: Path, exit_code: int = 0) -> str:
    """What Python prints, with that folder and the library on its path."""
    places = f"{path}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert done.returncode == exit_code, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The packages' folders: building leaves things behind in them."""
    folder = tmp_path_factory.mktemp("sources")
    for plugin in PLUGINS:
        shutil.copytree(plugin, folder / plugin.name)
    for kind in KINDS:
        run("new-plugin", f"prefopt-new-{kind}", "--kind", kind, "--out", str(folder))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def site(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which their wheels are installed, without a network."""
    folder = tmp_path_factory.mktemp("site")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--no-warn-conflicts")
    python("-m", "pip", "install", "--quiet", *offline, "--target", str(folder), *map(str, sources), path=ROOT)
    return folder


def test_plugins_pass_their_own_tests(sources: list[Path], site: Path) -> None:
    """One process for all of them, with the options of the first."""
    tests = [str(source / "tests") for source in sources]
    assert len(tests) == len(PLUGINS) + len(KINDS)
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib")
    output = python("-m", "pytest", *options, "-c", str(sources[0] / "pyproject.toml"), *tests, path=site)
    assert "failed" not in output
    assert "skipped" not in output


def test_an_installed_plugin_is_listed_and_checked_by_name(site: Path) -> None:
    listing = "app(['components', 'token-weighting'], standalone_mode=False)"
    checking = "app(['check', 'decay', 'gamma=0.9'])"
    output = python("-c", f"from prefopt.cli import app; {listing}; {checking}", path=site)
    assert all(plugin.name in output for plugin in PLUGINS)
    assert "decay(gamma=0.9), a token weighting" in output
    assert "none failed" in output


def test_new_plugin_refuses_what_would_not_work(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    assert "Did you mean 'divergence'?" in run("new-plugin", "x", "--kind", "divergense", *out, exit_code=2)
    assert "is no name for a package" in run("new-plugin", "My Plugin", "--kind", "divergence", *out, exit_code=2)
    taken = run("new-plugin", "prefopt-sparse", "--kind", "token-weighting", *out, exit_code=2)
    assert "named 'sparse' is installed already" in taken
    run("new-plugin", "prefopt-mine", "--kind", "divergence", *out)
    assert "is there already" in run("new-plugin", "prefopt-mine", "--kind", "divergence", *out, exit_code=2)


@pytest.mark.parametrize(
    ("file", "language"),
    [("pyproject.toml", "toml"), ("prefopt_decay.py", "py"), ("tests/test_prefopt_decay.py", "py")],
)
def test_the_page_on_plugins_shows_the_files_themselves(file: str, language: str) -> None:
    page = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    text = (DECAY / file).read_text(encoding="utf-8")
    assert f"**`{file}`**\n\n```{language}\n{text}```\n" in page


def test_the_component_is_short() -> None:
    assert len((DECAY / "prefopt_decay.py").read_text(encoding="utf-8").splitlines()) <= 60
