"""For every check a component that fails it, and it alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefopt.testing import CHECKS, examine, temporary_plugin
from tests.testing import saboteurs
from tests.testing.saboteurs import ALSO, SABOTEURS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def installed_saboteurs() -> Iterator[None]:
    with temporary_plugin(saboteurs):
        yield


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
