"""For every check a component that fails it, and it alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from prefopt import registry
from prefopt.testing import CHECKS, examine
from tests.testing.saboteurs import ALSO, SABOTEURS


@pytest.fixture(scope="module", autouse=True)
def installed_saboteurs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The saboteurs as an installed plugin."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "saboteurs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: saboteurs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[prefopt]\nsaboteurs = tests.testing.saboteurs\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        _forget()
        yield
    _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    registry._manager.cache_clear()
    registry._components.cache_clear()


def test_every_check_has_a_saboteur() -> None:
    assert set(SABOTEURS) == {check.name for check in CHECKS}
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("name", SABOTEURS)
def test_a_saboteur_fails_its_check_alone(name: str) -> None:
    failed = {result.check.name: result.text for result in examine(SABOTEURS[name]()) if result.status == "fail"}
    assert set(failed) == {name} | ALSO.get(name, set()), failed


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_says_what_it_checks_and_why(check) -> None:
    assert check.what.endswith(".")
    assert check.why.endswith(".")
