"""What a release and the checks before it are made of: workflows, forms, and the distributions that a tag builds."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from tests.plugins.environments import BUILD_WHEELS, run

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

BUILD_SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((GITHUB / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def commands(name: str) -> Iterator[str]:
    """The lines that a workflow's jobs run."""
    for job in workflow(name)["jobs"].values():
        for step in job["steps"]:
            yield from step.get("run", "").splitlines()


def test_every_python_that_is_named_is_tested() -> None:
    prefix = "Programming Language :: Python :: "
    named = [
        line.removeprefix(prefix) for line in PYPROJECT["project"]["classifiers"] if line.startswith(f"{prefix}3.")
    ]
    matrix = workflow("test")["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert [row["python"] for row in matrix] == named == ["3.11", "3.12", "3.13"]
    assert f">={named[0]}" == PYPROJECT["project"]["requires-python"]


def test_workflows_call_targets_that_are_there() -> None:
    targets = set(re.findall(r"^([\w./$()-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    called = {line.split()[1] for line in commands("test") if line.startswith("make")}
    called |= {row["target"] for row in workflow("test")["jobs"]["test"]["strategy"]["matrix"]["include"]}
    called = {name.replace(".venv", "$(VENV)") for name in called if name != "${{"}  # the matrix's
    assert {"test", "check", "docs", "quick-tests", "test-long", "$(VENV)/.installed"} == called
    assert called <= targets


def test_a_release_builds_checks_and_installs() -> None:
    lines = "\n".join(commands("release"))
    for part in (
        "-m build --outdir dist",
        "twine check --strict dist/*",
        "prefopt --version",
        "-m venv fresh",
        ".tar.gz",
    ):
        assert part in lines
    assert workflow("release")[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true


@pytest.mark.parametrize("file", sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml")), ids=lambda file: file.stem)
def test_forms_have_what_the_host_reads(file: Path) -> None:
    form = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert all(form[name] for name in ("name", "description", "labels"))
    assert len({part["id"] for part in form["body"]}) == len(form["body"])
    assert all(part["type"] in {"input", "textarea", "checkboxes"} for part in form["body"])
    assert all(part["attributes"]["label"] for part in form["body"])


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The release's script, in a folder with the project's files."""
    for file in ("pyproject.toml", "plugins/prefopt-decay/pyproject.toml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["release.py", *arguments])
        runpy.run_path(str(GITHUB / "release.py"), run_name="__main__")

    return call


def test_project_urls_are_the_repositorys(release: Callable[..., None]) -> None:
    files = ("pyproject.toml", "plugins/prefopt-decay/pyproject.toml")
    release("urls", "https://host.example/someone/prefopt", *files)
    urls = [tomllib.loads(Path(file).read_text())["project"]["urls"] for file in files]
    assert urls[0]["Source"] == "https://host.example/someone/prefopt"
    assert urls[1]["Changelog"].endswith("/blob/main/plugins/prefopt-decay/CHANGELOG.md")
    assert all((ROOT / url["Changelog"].partition("/main/")[2]).is_file() for url in urls)
    with pytest.raises(SystemExit, match="it has project URLs already"):
        release("urls", "https://host.example/someone/prefopt", *files)


def test_the_tag_is_the_version(release: Callable[..., None]) -> None:
    release("version", "pyproject.toml", f"v{version('prefopt')}")
    with pytest.raises(SystemExit, match=r"so that the tag is v.*, not v99; change one"):
        release("version", "pyproject.toml", "v99")
    with pytest.raises(SystemExit, match="What a release needs"):
        release("urls")


@pytest.mark.long
@pytest.mark.outside
def test_the_source_distribution_has_what_it_takes(tmp_path: Path) -> None:
    """And builds the wheel that the tree builds, typed, with its templates."""
    tree = tmp_path / "tree"
    kept = ["pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", *(ROOT / "MANIFEST.in").read_text().split()[1:]]
    for name in kept:
        tree.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "prefopt", tree / "prefopt", ignore=shutil.ignore_patterns("__pycache__"))
    run([sys.executable, "-c", BUILD_SDIST, tmp_path], cwd=tree)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        sdist.extractall(tmp_path / "unpacked", filter="data")
    assert {*kept, "prefopt/py.typed", "prefopt/training/model_card.jinja"} <= names
    (source,) = (tmp_path / "unpacked").iterdir()
    run([sys.executable, BUILD_WHEELS, tmp_path, source])
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as built:
        packed = {name for name in built.namelist() if name.startswith("prefopt/")}
        (metadata,) = (built.read(name).decode() for name in built.namelist() if name.endswith("/METADATA"))
    files = {
        f"prefopt/{file.relative_to(tree / 'prefopt')}" for file in (tree / "prefopt").rglob("*") if file.is_file()
    }
    assert packed == files
    assert "Description-Content-Type: text/markdown" in metadata
