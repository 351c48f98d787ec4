"""The rows that an objective is: each is found by its numbers, and a setting of its own is none."""

from __future__ import annotations

from typing import Any

import pytest

from prefopt import zoo
from prefopt.zoo.naming import papers_of, rows_of


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_row_is_itself(name: str) -> None:
    rows = rows_of(zoo.build(name))
    assert (name, {}) in [(row.name, dict(row.arguments)) for row in rows]
    assert all(zoo.ZOO[row.name](**row.arguments) == zoo.build(name) for row in rows)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"zoo": "dpo", "beta": 0.37}, "dpo(beta=0.37)"),
        ({"zoo": "ipo", "beta": 0.3}, "ipo(beta=0.3)"),
        ({"zoo": "sppo", "beta": 0.02}, "sppo(beta=0.02)"),
        ({"zoo": "tdpo2", "beta": 0.2, "alpha": 0.7}, "tdpo2(beta=0.2, alpha=0.7)"),
        ({"zoo": "sparsepo", "shared": False, "l1_reward": 0.02}, "sparsepo(shared=False, l1_reward=0.02)"),
        ({"zoo": "mapo", "sites": ["mlp"]}, "mapo(sites=['mlp'])"),
    ],
)
def test_arguments_are_found(spec: dict[str, Any], text: str) -> None:
    config = zoo.build(spec)
    row = rows_of(config)[0]
    assert str(row) == text
    assert zoo.build({"zoo": row.name, **row.arguments}) == config


def test_a_setting_of_its_own_is_no_row() -> None:
    assert rows_of(zoo.build({"weighting": "sparse", "loss": "hinge"})) == ()


def test_papers() -> None:
    assert papers_of("tdpo2") == ("2404.11999",)
    assert papers_of("cpo_simpo") == ("2405.14734", "2401.08417")
    assert papers_of("cdpo") == ()
