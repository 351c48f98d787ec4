"""The suite itself: which checks concern what, expected failures, and what is said of a failure."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from prefopt.columns import Column, TokenColumn
from prefopt.component import Divergence, PreferenceLoss, Signal, TokenWeighting
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


class Endless(PreferenceLoss):
    """loss = -d.

    Source: these tests.
    """

    name: Literal["endless"] = "endless"

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return rejected - chosen


class SinglePrecision(TokenWeighting):
    """w_t = relu(a h_t), a a constant in float32.

    Source: these tests.
    """

    name: Literal["single_precision"] = "single_precision"

    @property
    def requires(self) -> frozenset[Signal]:
        return frozenset({Signal.REF_HIDDEN_STATES})

    def __call__(self, tokens: TokenBatch) -> Tensor:
        assert tokens.ref_hidden_states is not None
        states = tokens.ref_hidden_states[-1]
        return torch.where(tokens.mask, (states @ torch.ones(states.shape[-1])).relu(), 0)


def names(component: TokenWeighting | PreferenceLoss | Divergence) -> set[str]:
    return {check.name for check in checks_of(component)}


def marks_of(
    *components: TokenWeighting | PreferenceLoss, **options: dict[str, str] | None
) -> dict[str, list[pytest.Mark]]:
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


@pytest.mark.parametrize("expected", [None, {"loss_is_bounded_below": "negative part"}])
def test_expected_failures_are_strict(expected: dict[str, str] | None) -> None:
    """Whether the component names them or the test."""
    reason = (expected or RobustLoss().expected_failures)["loss_is_bounded_below"]
    marked = marks_of(RobustLoss(), expected_failures=expected)
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
    by_name = {result.check.name: result for result in examine(Endless())}
    failed = by_name.pop("loss_is_bounded_below")
    assert {result.status for name, result in by_name.items() if name != "is_registered"} == {"pass"}
    assert failed.status == "fail"
    message, on, why = failed.text.splitlines()
    assert message.startswith("its lowest value goes from ")
    assert on == "on: rewards up to 1e3, then 1e6"
    assert why == f"why: {failed.check.why}"
    expected = examine(RobustLoss())
    (text,) = [result.text for result in expected if result.status == "expected failure"]
    assert text.startswith("unbiased under flipped labels, which takes a negative part\nfound: its lowest value goes")
    assert not [result for result in expected if result.status == "fail"]
    unexpected = examine(LogisticLoss(), {"loss_is_bounded_below": "negative part"})
    (result,) = [result for result in unexpected if result.status == "fail"]
    assert result.text == "it passes, though it is expected to fail: expect that no longer"


def test_a_component_that_raises_fails_with_its_own_words() -> None:
    check = next(check for check in CHECKS if check.name == "values_are_finite")
    with pytest.raises(ConformanceError, match="it raised ZeroDivisionError: of its own") as error:
        check(Crashing())
    assert "6 responses of 4, 2, 6, 3, 5, 2 tokens (chosen first), seed 0" in str(error.value)
    assert f"at: {line_of(Crashing, 'raise ZeroDivisionError')}, in __call__" in str(error.value)


def line_of(component: type[TokenWeighting], text: str) -> str:
    """`FILE:LINE` of the one line of the class that holds the text."""
    lines, first = inspect.getsourcelines(component)
    (number,) = [number for number, line in enumerate(lines, first) if text in line]
    return f"{Path(inspect.getfile(component)).relative_to(Path.cwd())}:{number}"


@pytest.mark.parametrize("component", [Crashing(), SinglePrecision()])
def test_one_cause_is_told_once_with_the_checks_that_it_stops(component: TokenWeighting) -> None:
    failed = [result for result in examine(component) if result.status == "fail" and result.fault.cause]
    first, *others = failed
    assert len(others) > 15
    assert first.stops == tuple(result.check.name for result in others)
    assert all(result.text.startswith(f"it raised as in {first.check.name}: ") for result in others)
    assert not any("why: " in result.text or result.stops for result in others)
    assert ("use the parameter's dtype" in first.text) == isinstance(component, SinglePrecision)


def test_one_cause_is_told_once_in_pytest() -> None:
    @conformance(Crashing())
    def test(check: object) -> None:
        """Run below."""

    texts = []
    for case in test.pytestmark[0].args[1]:
        try:
            case.values[0]()
        except ConformanceError as error:
            texts += [str(error)] if error.cause else []
    assert sum("as in" not in text for text in texts) == 1
    assert len(texts) > 15


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
