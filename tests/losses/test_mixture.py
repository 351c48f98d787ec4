"""A loss made of losses: how it is written, what it says, and its errors."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import yaml
from torch import Tensor

from prefopt import ObjectiveConfig, TokenBatch, resolve
from prefopt.component import PreferenceLoss, Signal
from prefopt.losses import (
    AotLoss,
    AotPairedLoss,
    ApoZeroLoss,
    BcoLoss,
    ExoLoss,
    HingeLoss,
    MixtureLoss,
    NcaLoss,
    OffsetLoss,
    OnPolicyWeightedLoss,
    TokenRewardLoss,
    WeightedLoss,
)
from prefopt.registry import ComponentError
from prefopt.testing import temporary_plugin
from tests.batches import taken
from tests.test_component import double

NESTED = {"name": "mixture", "losses": ["apo_zero", {"name": "hinge", "margin": 2.0}, NcaLoss()], "weights": [1, 0, 3]}


def test_a_mixture_takes_names_mappings_and_losses() -> None:
    mixture = resolve(PreferenceLoss, NESTED)
    assert mixture == MixtureLoss(losses=(ApoZeroLoss(), HingeLoss(margin=2), NcaLoss()), weights=(1, 0, 3))
    inside = resolve(PreferenceLoss, {"name": "mixture", "losses": [NESTED, "exo"], "weights": [0.5, 0.5]})
    assert inside.losses == (mixture, ExoLoss())
    config = ObjectiveConfig(loss=inside)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert ObjectiveConfig.model_validate(yaml.safe_load(text)) == config
    assert ObjectiveConfig.model_validate_json(config.model_dump_json()) == config
    assert hash(ObjectiveConfig(loss=inside)) == hash(config)


def test_a_mixture_is_the_weighted_sum() -> None:
    chosen, rejected = double(1, -2, 0.5), double(0.3, 1, -1)
    expected = taken(ApoZeroLoss(), chosen, rejected) + 3 * taken(NcaLoss(), chosen, rejected)
    torch.testing.assert_close(taken(resolve(PreferenceLoss, NESTED), chosen, rejected), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"losses": ["hinge", "hing"]}, "mixture: losses.1: no PreferenceLoss named 'hing'. Did you mean 'hinge'? "),
        ({"losses": [{"name": "exo", "tau": 1}]}, "mixture: losses.0: exo: tau: no such field in ExoLoss. "),
        ({"losses": ["hinge"], "weights": [1, 2]}, "mixture: 1 losses need as many weights, got 2"),
        ({"losses": []}, "mixture: losses: at least 1 is needed"),
        ({"losses": "hinge"}, "mixture: losses: a list is needed, got 'hinge'"),
        ({"losses": [None]}, "mixture: losses.0: a mapping is needed"),
        ({"losses": [3]}, "mixture: losses.0: a preference loss is given by name"),
    ],
    ids=str,
)
def test_a_mixture_says_what_is_wrong_with_it(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ComponentError) as error:
        resolve(PreferenceLoss, {"name": "mixture", "weights": [1.0] * len(fields["losses"]), **fields})
    assert str(error.value).startswith(complaint)


def test_a_mixture_couples_pairs_however_deep_aot_lies() -> None:
    deep = MixtureLoss(losses=(HingeLoss(), MixtureLoss(losses=(AotLoss(),), weights=(1,))), weights=(1, 1))
    assert ObjectiveConfig(loss=deep).couples_pairs
    assert not ObjectiveConfig().couples_pairs


def test_a_loss_needs_what_the_losses_inside_it_need() -> None:
    weighed = WeightedLoss(loss=OnPolicyWeightedLoss(loss=BcoLoss()))
    deep = MixtureLoss(losses=(weighed, OffsetLoss(), AotPairedLoss()), weights=(1, 1, 1))
    config = ObjectiveConfig(loss=deep)
    assert config.couples_pairs
    assert config.requires == {Signal.LOG_COLLISION, Signal.REF_LOGPS}
    assert [column.name for column in config.columns] == ["score_chosen", "score_rejected", "weight"]
    with pytest.raises(ValueError, match="`reference_free` is true"):
        ObjectiveConfig(loss=deep, reference_free=True)
    ObjectiveConfig(loss=OnPolicyWeightedLoss(loss=HingeLoss()), reference_free=True)


@pytest.mark.parametrize("weighed", [WeightedLoss, OnPolicyWeightedLoss, TokenRewardLoss])
def test_a_loss_that_sorts_pairs_cannot_be_weighed_by_pair(weighed: type[PreferenceLoss]) -> None:
    with pytest.raises(ValueError, match="'mixture' sorts the rewards of a batch, so no loss belongs to one pair"):
        weighed(loss=MixtureLoss(losses=(HingeLoss(), AotLoss()), weights=(1, 1)))


def test_two_components_may_not_read_one_column_differently() -> None:
    with pytest.raises(ValueError, match="two components read the column 'score_chosen', but not alike"):
        ObjectiveConfig(loss=WeightedLoss(loss=OffsetLoss(), column="score_chosen"))


class Scaled(PreferenceLoss):
    """A plugin's loss with one loss inside, which may be absent."""

    name: Literal["scaled"] = "scaled"
    inner: PreferenceLoss | None = None

    def __call__(self, chosen: Tensor, rejected: Tensor, tokens: TokenBatch) -> Tensor:
        return 2 * (chosen - rejected if self.inner is None else self.inner.build()(chosen, rejected, tokens))


def test_a_single_inner_slot_takes_the_same_forms_and_none() -> None:
    with temporary_plugin(Scaled):
        for inner, expected in (
            ("hinge", HingeLoss()),
            ({"name": "hinge", "margin": 3}, HingeLoss(margin=3)),
            (None, None),
        ):
            assert resolve(PreferenceLoss, {"name": "scaled", "inner": inner}) == Scaled(inner=expected)
        with pytest.raises(ComponentError, match=r"^scaled: inner: no PreferenceLoss named 'hing'"):
            resolve(PreferenceLoss, {"name": "scaled", "inner": "hing"})
