"""The suite itself: which checks concern what, expected failures, and what is said of a failure."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from prefopt.columns import Column, TokenColumn
from prefopt.component import Divergence, PreferenceLoss, TokenWeighting
from prefopt.divergences import ForwardKL, SampledK1
from prefopt.hookspecs import hookimpl
from prefopt.losses import BcoLoss, LogisticLoss, MixtureLoss, RobustLoss
from prefopt.registry import ComponentError, owner, resolve
from prefopt.testing import CHECKS, ConformanceError, checks_of, conformance, examine, markdown, temporary_plugin
from prefopt.testing.cases import case_for
from prefopt.testing.check import label
from prefopt.tokens import TokenBatch
from prefopt.weightings import ColumnWeighting, SparseWeighting, UniformWeighting


class Inverse(TokenWeighting):
    """w_t = 1 / c_t, c of the data.

    Source: these tests.
    """

    name: Literal["inverse"] = "inverse"

    @property
    def columns(self) -> frozenset[Column]:
        return frozenset({TokenColumn("c", at_least=0.0)})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        return torch.where(tokens.mask, 1 / tokens.columns["c"], 0)


class Crashing(TokenWeighting):
    """w_t = 1 / 0.

    Source: these tests.
    """

    name: Literal["crashing"] = "crashing"

    def __call__(self, tokens: TokenBatch) -> Tensor:
        raise ZeroDivisionError("of its own")


def names(component: TokenWeighting | PreferenceLoss | Divergence) -> set[str]:
    return {check.name for check in checks_of(component)}


def marks_of(*components: TokenWeighting | PreferenceLoss, **options: dict[str, str]) -> dict[str, list[pytest.Mark]]:
    """The marks of every test that the decorator makes, by the test's id."""

    @conformance(*components, **options)
    def test(check: object) -> None:
        """Never run."""

    parametrized = test.pytestmark[0]
    return {case.id: [mark.mark for mark in case.marks] for case in parametrized.args[1]}


def test_checks_concern_kinds_and_what_is_configured() -> None:
    assert "weights_are_not_negative" in names(UniformWeighting()) - names(LogisticLoss())
    assert "no_dead_start" in names(SparseWeighting()) - names(UniformWeighting())
    assert "states_may_be_in_half_precision" in names(SparseWeighting()) - names(UniformWeighting())
    assert "state_dict_round_trips" in names(BcoLoss()) - names(LogisticLoss())
    assert "closed_form_gradient_agrees" in names(ForwardKL()) - names(SampledK1())


def test_ids_say_which_component_and_which_check() -> None:
    ids = list(marks_of(UniformWeighting(), UniformWeighting(value=0.5)))
    assert "uniform-values_are_finite" in ids
    assert "uniform(value=0.5)-values_are_finite" in ids
    assert len(set(ids)) == len(ids)
    mixture = MixtureLoss(losses=(LogisticLoss(margin=1), BcoLoss()), weights=(1, 2))
    assert label(mixture) == "mixture(losses=[logistic(margin=1.0), bco], weights=[1.0, 2.0])"


def test_expected_failures_are_strict() -> None:
    reason = "negative part"
    marked = marks_of(RobustLoss(), expected_failures={"loss_is_bounded_below": reason})
    (mark,) = marked["robust-loss_is_bounded_below"]
    assert mark.name == "xfail"
    assert mark.kwargs == {"reason": reason, "raises": ConformanceError, "strict": True}
    assert [id_ for id_, marks in marked.items() if marks] == ["robust-loss_is_bounded_below"]


@pytest.mark.parametrize("name", ["values_are_finit", "weights_are_not_negative"])
def test_an_expected_failure_that_no_check_is_called_is_an_error(name: str) -> None:
    """Whether there is none at all or none that concerns the component."""
    with pytest.raises(ValueError, match=f"no check '{name}' concerns robust") as error:
        conformance(RobustLoss(), expected_failures={name: "a reason"})
    assert ("Did you mean 'values_are_finite'?" in str(error.value)) == name.startswith("values")
    with pytest.raises(ValueError, match="Checks: "):
        examine(RobustLoss(), {name: "a reason"})


@pytest.mark.slow
def test_examine_tells_pass_fail_and_expected_failure() -> None:
    by_name = {result.check.name: result for result in examine(RobustLoss())}
    failed = by_name.pop("loss_is_bounded_below")
    assert {result.status for result in by_name.values()} == {"pass"}
    assert failed.status == "fail"
    message, on, why = failed.text.splitlines()
    assert message.startswith("its lowest value goes from ")
    assert on == "on: rewards up to 1e3, then 1e6"
    assert why == f"why: {failed.check.why}"
    expected = examine(RobustLoss(), {"loss_is_bounded_below": "negative part"})
    assert [result.text for result in expected if result.status == "expected failure"] == ["negative part"]
    assert not [result for result in expected if result.status == "fail"]
    unexpected = examine(LogisticLoss(), {"loss_is_bounded_below": "negative part"})
    (result,) = [result for result in unexpected if result.status == "fail"]
    assert result.text == "it passes, though it is expected to fail: expect that no longer"


def test_a_component_that_raises_fails_with_its_own_words() -> None:
    check = next(check for check in CHECKS if check.name == "values_are_finite")
    with pytest.raises(ConformanceError, match="it raised ZeroDivisionError: of its own") as error:
        check(Crashing())
    assert "6 responses of 4, 2, 6, 3, 5, 2 tokens (chosen first), seed 0" in str(error.value)


def test_a_component_that_cannot_be_called_fails_and_does_not_stop_the_run() -> None:
    class Inert(TokenWeighting):
        """w_t = ?"""

        name: Literal["inert"] = "inert"

    failed = {result.check.name: result.text for result in examine(Inert()) if result.status == "fail"}
    assert "Inert neither is callable nor overrides build()" in failed["values_are_finite"]


def test_what_is_remarked_of_a_check_that_passes() -> None:
    remarks = {result.check.name: result.text for result in examine(UniformWeighting(value=0.5)) if result.text}
    assert remarks == {"weights_are_not_negative": "mean weight at the start: 0.5"}


def test_cases_hold_what_a_component_declares() -> None:
    case = case_for(ColumnWeighting(column="importance"))
    tokens = case.tokens()
    importance = tokens.columns["importance"]
    assert importance.shape == tokens.mask.shape
    given = importance[tokens.mask]
    assert given.min() == 0
    assert ((given > 0) & (given < 0.01)).any()
    assert (given > 0.5).any()
    for values in (importance, tokens.logps, tokens.ref_logps, tokens.divergence, tokens.log_collision):
        assert values[tokens.mask].isfinite().all()
        assert values[~tokens.mask].isnan().any()
    assert case_for(UniformWeighting()).tokens().columns == {}


def test_a_column_is_tried_at_the_least_that_it_may_be() -> None:
    failed = {result.check.name: result.text for result in examine(Inverse()) if result.status == "fail"}
    assert failed["values_are_finite"].startswith("a value of inf")
    case = case_for(Inverse(), constant=True)
    assert len(case.rows["c"].unique()) == 1


def test_every_check_is_in_the_list_for_the_documentation() -> None:
    text = markdown()
    for check in CHECKS:
        assert f"### `{check.name}`\n" in text
        assert check.what in text
        assert check.why in text


def test_a_temporary_plugin_brings_classes_hooks_and_modules_while_it_lasts() -> None:
    @hookimpl
    def prefopt_token_weightings() -> list[type[TokenWeighting]]:
        return [Crashing]

    with temporary_plugin(Inverse, name="outer"), temporary_plugin(prefopt_token_weightings, name="outer"):
        assert resolve(TokenWeighting, "inverse") == Inverse()
        assert resolve(TokenWeighting, "crashing") == Crashing()
        assert owner(Inverse).distribution == "outer"
    with pytest.raises(ComponentError, match="no TokenWeighting named 'inverse'"):
        resolve(TokenWeighting, "inverse")
    with pytest.raises(TypeError, match="a plugin is made of"), temporary_plugin(3):  # type: ignore[arg-type]
        pass
