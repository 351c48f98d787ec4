"""Plugin packages, ours and those that `prefopt new-plugin` writes: built as wheels, installed, and run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.forked import run_file
from tests.plugins.conftest import NEW, PLUGINS
from tests.plugins.environments import ROOT, Environment, unpacked

pytestmark = pytest.mark.outside

DECAY = ROOT / "plugins" / "prefopt-decay"
OWN_TESTS = Path(__file__).with_name("own_tests.py")
SANDBOX_REFUSED = "programs of a model cannot be run here in isolation: the system refuses"
"""The one reason for which a plugin's test may be skipped."""


def check_passing(
    tested: Sequence[str], names: Sequence[str], sources: Path, installed: Path, folder: Path, run: Callable[..., str]
) -> None:
    """With prefopt, which is in the folder `installed`, and these plugins, all from wheels, and no other plugin, the
    tests of `tested` pass in what `run` runs."""
    tests = [sources / name / "tests" for name in tested]
    options = ("-q", "-rs", "-p", "no:cacheprovider", "--import-mode=importlib")
    # A fork has imported what some of pytest's own plugins are made of.
    options += ("-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning")
    config = ("-c", sources / tested[0] / "pyproject.toml")
    file = folder / "facts.json"
    output = run(OWN_TESTS, file, *options, *config, *tests, cwd=folder)
    facts = json.loads(file.read_text())
    assert Path(facts["prefopt"]).is_relative_to(installed)
    assert facts["owners"] == sorted(["prefopt", *names])
    assert " passed" in output
    assert "failed" not in output
    assert [line for line in output.splitlines() if line.startswith("SKIPPED") and SANDBOX_REFUSED not in line] == []


@pytest.mark.parametrize("name", [plugin.name for plugin in PLUGINS])
def test_a_plugin_passes_its_own_tests_where_it_is_alone(
    name: str, sources: Path, prefopt_path: str, built: dict[str, Path], tmp_path: Path
) -> None:
    path = [prefopt_path, *unpacked([built[name]], tmp_path / "site")]
    check_passing([name], [name], sources, Path(prefopt_path), tmp_path, partial(run_file, path=path))


def test_plugins_written_by_the_command_pass_their_tests_beside_all_of_ours(
    sources: Path, built: dict[str, Path], tmp_path: Path
) -> None:
    names = [*(plugin.name for plugin in PLUGINS), *NEW]
    environment = Environment.create(tmp_path / "environment", [built["prefopt"], *(built[name] for name in names)])
    check_passing([*NEW], names, sources, environment.folder, tmp_path, environment.run_file)
    assert "INPUT" in environment.command("prefopt-score-tokens", "--help")


def test_new_plugin_refuses_what_would_not_work(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    assert "Did you mean 'divergence'?" in run("new-plugin", "x", "--kind", "divergense", *out, exit_code=2)
    assert "is no name for a package" in run("new-plugin", "My Plugin", "--kind", "divergence", *out, exit_code=2)
    taken = run("new-plugin", "prefopt-sparse", "--kind", "token-weighting", *out, exit_code=2)
    assert "named 'sparse' is installed already" in taken
    plain = run("new-plugin", "prefopt-mine", "--kind", "divergence", "--learned", *out, exit_code=2)
    assert "--learned is for kinds with parameters to learn" in plain
    run("new-plugin", "prefopt-mine", "--kind", "divergence", *out)
    assert "exists already" in run("new-plugin", "prefopt-mine", "--kind", "divergence", *out, exit_code=2)


def test_every_plugin_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    assert not [plugin.name for plugin in PLUGINS if f"| `plugins/{plugin.name}` |" not in text]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_every_plugin_says_what_it_is_and_what_changed(plugin: Path) -> None:
    readme = (plugin / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {plugin.name}\n")
    assert f"pip install {plugin.name}\n" in readme
    assert "## 0.1.0" in (plugin / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "language"),
    [
        ("pyproject.toml", "toml"),
        ("README.md", "md"),
        ("prefopt_decay.py", "py"),
        ("tests/test_prefopt_decay.py", "py"),
    ],
)
def test_the_page_on_plugins_shows_the_files_themselves(file: str, language: str) -> None:
    page = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    text = (DECAY / file).read_text(encoding="utf-8")
    assert f"**`{file}`**\n\n```{language}\n{text}```\n" in page


def test_the_page_on_plugins_shows_the_learned_weighting_that_the_command_writes(tmp_path: Path) -> None:
    run("new-plugin", "prefopt-gate", "--kind", "token-weighting", "--learned", "--out", str(tmp_path))
    page = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    assert f"```python\n{(tmp_path / 'prefopt-gate' / 'prefopt_gate.py').read_text()}```\n" in page
    assert "mask_learning_rate: 5.0e-3" in (tmp_path / "prefopt-gate" / "README.md").read_text()


def test_the_component_is_short() -> None:
    assert len((DECAY / "prefopt_decay.py").read_text(encoding="utf-8").splitlines()) <= 60
