"""The signals and columns that objectives ask for, through a model: sampled divergences, two like draws, columns."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from typing import Literal

import pytest
import torch

from prefopt import DivergenceTerm, Objective, ObjectiveConfig, TokenBatch, zoo
from prefopt.component import Signal, TokenWeighting
from prefopt.divergences import ForwardKL, SampledK1, SampledK3
from prefopt.losses import LogisticLoss, OnPolicyWeightedLoss, WeightedLoss
from prefopt.scoring import PreferenceModel
from prefopt.scoring.lm_head import token_statistics as statistics
from prefopt.scoring.step_cost import plan_step
from prefopt.signals import SIGNALS, SignalSpec
from prefopt.testing import examine, temporary_plugin
from prefopt.testing.cases import case_for
from prefopt.weightings import ColumnWeighting, UniformWeighting


class Reading(TokenWeighting):
    """w_t = the mean absolute number that a signal holds of y_t. Source: these tests."""

    name: Literal["reading"] = "reading"
    signal: Signal

    @property
    def requires(self):
        return frozenset({self.signal})

    @property
    def activation_kinds(self):
        return frozenset({"mlp", "attn"} if self.signal is Signal.REF_ACTIVATIONS else ())

    def __call__(self, tokens):
        numbers = getattr(tokens, self.signal).detach().float().movedim(SIGNALS[self.signal].row_axis, 0)
        numbers = numbers if numbers.ndim == 2 else numbers.movedim(2 if SIGNALS[self.signal].row_axis else 1, 1)
        return torch.where(tokens.mask, numbers.abs().flatten(2).mean(-1) if numbers.ndim > 2 else numbers.abs(), 0)


def reading(signal):
    """An objective of which one component reads the signal."""
    return zoo.tdpo2().model_copy(update={"weighting": Reading(signal=signal)})


each_signal = pytest.mark.parametrize("signal", Signal)


def sizes(tokens, layers, hidden):
    rows, width = tokens.mask.shape
    return {"1": 1, "L": layers, "S": len(tokens.activation_kinds), "N": rows, "T": width, "H": hidden}


@each_signal
def test_a_signal_is_a_line_and_a_field_of_its_shape(signal):
    assert signal in SIGNALS, "signals.py: a line in SIGNALS"
    assert signal.value in {field.name for field in fields(TokenBatch)}, "tokens.py: a field of TokenBatch"
    shape = f"[{', '.join(SIGNALS[signal].shape)}]"
    documented = {name: line for line in TokenBatch.__doc__.splitlines() for name in line.partition("[")[0].split(", ")}
    line = next(line for name, line in documented.items() if name.strip() == signal)
    assert shape in line, f"tokens.py: the shape of {signal!s} is {shape} in signals.py"


@each_signal
@pytest.mark.parametrize("plain", [False, True])
def test_every_signal_is_collected_where_it_is_required(models, batch, signal, plain):
    model = PreferenceModel(*models, reading(signal))
    model._choice.uses_plain_forward = plain
    output = model(batch)
    values = getattr(output.tokens, signal)
    assert values is not None, "scoring/forward.py does not collect it"
    assert list(values.shape) == [sizes(output.tokens, 2, 32)[axis] for axis in SIGNALS[signal].shape]
    assert bool(output.weights.any())
    output.loss.backward()


@pytest.mark.slow
@each_signal
def test_the_cache_and_groups_of_pairs_give_the_same(models, batch, tmp_path, signal):
    plain = PreferenceModel(*models, reading(signal))(batch)
    for options in ({"reference_cache": tmp_path}, {"logits_budget": 1}):
        other = PreferenceModel(*models, reading(signal), **options)(batch)
        torch.testing.assert_close(other.weights, plain.weights)
        torch.testing.assert_close(other.losses, plain.losses)


@each_signal
def test_cases_of_the_conformance_suite_have_every_signal(signal):
    tokens = case_for(Reading(signal=signal)).tokens()
    assert list(getattr(tokens, signal).shape) == [sizes(tokens, 3, 5)[axis] for axis in SIGNALS[signal].shape]
    assert getattr(case_for(UniformWeighting()).tokens(withheld={signal}), signal) is None


@each_signal
def test_a_batch_that_lacks_a_signal(signal):
    tokens = case_for(Reading(signal=signal)).tokens(withheld={signal})
    reader = "the divergence term" if signal is Signal.DIVERGENCE else "token weighting 'reading'"
    reader = "token weighting 'reading'" if signal in Reading(signal=signal).requires else reader
    with pytest.raises(ValueError, match=f"the batch lacks the signal '{signal}', which {reader} reads"):
        Objective(reading(signal), num_layers=3, hidden_size=5)(tokens)


def entropy(log_probs):
    return torch.special.entr(log_probs.exp()).sum(-1)


@pytest.fixture
def another(monkeypatch):
    """A signal whose line says that it is a number of the reference's distribution, everywhere that lines are read."""
    signal, former = Signal.REF_EMBEDDINGS, SIGNALS
    line = SignalSpec(card="its entropy", cached=True, of_distribution=entropy)
    for module in [module for module in sys.modules.values() if getattr(module, "SIGNALS", None) is former]:
        monkeypatch.setattr(module, "SIGNALS", {**former, signal: line})
    return signal


@pytest.mark.slow
@pytest.mark.parametrize("objective", [zoo.dpo(), zoo.tdpo2()], ids=["alone", "with the divergence"])
def test_a_number_of_the_references_distribution_takes_one_line(models, batch, pairs, another, tmp_path, objective):
    """Engine, plain forward pass, groups of pairs, cache, plan, conformance and the objective follow the line."""
    config = objective.model_copy(update={"weighting": Reading(signal=another)})
    tokens = PreferenceModel(*models, config).score(batch)
    values = getattr(tokens, another)
    for row, (prompt, response) in enumerate([(pair[0], pair[side]) for side in (1, 2) for pair in pairs]):
        logits = models[1](input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        expected = torch.distributions.Categorical(logits=logits).entropy().detach()
        torch.testing.assert_close(values[row, : len(response)], expected, rtol=1e-5, atol=1e-6, check_dtype=False)
    assert not values[~tokens.mask].any()
    assert not values.requires_grad
    whole = PreferenceModel(*models, config)(batch)
    for options in ({"reference_cache": tmp_path}, {"logits_budget": 1}, {}):
        model = PreferenceModel(*models, config, **options)
        model._choice.uses_plain_forward = not options
        torch.testing.assert_close(model(batch).losses, whole.losses)
    plans = [plan_step(PreferenceModel(*models, row), batch).parts for row in (config, objective)]
    heads = [next(part for part in parts if part.name == "head").operations for parts in plans]
    assert heads[0] - heads[1] == 2 * 32 * 64 * int(tokens.mask.sum()), "a product of the head"
    with temporary_plugin(Reading):
        results = examine(Reading(signal=another))
    assert len(results) > 10
    assert [result for result in results if result.status != "pass"] == []


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


@pytest.mark.parametrize("measure", [SampledK1(), SampledK3(direction="reverse")], ids=str)
@pytest.mark.parametrize("plain", [False, True])
def test_a_sampled_divergence_is_that_of_the_response_tokens(models, batch, measure, plain):
    config = ObjectiveConfig(divergence=DivergenceTerm(measure=measure))
    model = PreferenceModel(*models, config)
    model._choice.uses_plain_forward = plain
    tokens = model.score(batch)
    expected = torch.where(tokens.mask, measure(tokens.logps, tokens.ref_logps), 0)
    torch.testing.assert_close(tokens.divergence, expected, rtol=0, atol=0)
    assert tokens.divergence.requires_grad
    model(batch).loss.backward()


def test_a_sampled_divergence_never_sees_the_vocabulary(models, batch, monkeypatch):
    asked = []
    real = statistics.token_statistics

    def watched(*args, **options):
        asked.append(args[5])
        return real(*args, **options)

    monkeypatch.setattr("prefopt.scoring.chunked_loss.token_statistics", watched)
    for measure in (SampledK1(), ForwardKL()):
        PreferenceModel(*models, ObjectiveConfig(divergence=DivergenceTerm(measure=measure))).score(batch)
    assert asked == [None, ForwardKL()]


@pytest.mark.parametrize("plain", [False, True])
def test_wpo_weighs_by_the_policys_own_distribution(models, batch, plain):
    model = PreferenceModel(*models, zoo.wpo(beta=0.5))
    model._choice.uses_plain_forward = plain
    tokens = model.score(batch)
    policy, _ = models
    whole = PreferenceModel(
        policy, None, ObjectiveConfig(loss=OnPolicyWeightedLoss(loss=LogisticLoss()), reference_free=True)
    )
    torch.testing.assert_close(whole.score(batch).log_collision, tokens.log_collision)
    assert bool((tokens.log_collision[tokens.mask] < 0).all())
    assert not tokens.log_collision.requires_grad
    output = model.objective(tokens)
    aligned = torch.where(tokens.mask, tokens.logps - tokens.log_collision, 0).sum(-1) / tokens.mask.sum(-1)
    weights = aligned.chunk(2)[0].exp() * aligned.chunk(2)[1].exp()
    plain_losses = PreferenceModel(*models, zoo.dpo(beta=0.5))(batch).losses
    torch.testing.assert_close(output.losses, weights.detach() * plain_losses)


def test_columns_reach_the_components(models, batch):
    config = ObjectiveConfig(weighting=ColumnWeighting(default=0.5), loss=WeightedLoss(loss=LogisticLoss()))
    draw = torch.Generator().manual_seed(2)
    columns = {
        "pair:weight": torch.rand(batch.pairs, generator=draw),
        "chosen:weights": torch.rand(batch.chosen_ids.shape, generator=draw),
        "rejected:weights": torch.rand(batch.rejected_ids.shape, generator=draw),
    }
    batch = type(batch).from_mapping(replace(batch, columns=columns).as_mapping())
    output = PreferenceModel(*models, config)(batch)
    for row in range(2 * batch.pairs):
        side = "chosen" if row < batch.pairs else "rejected"
        given = columns[f"{side}:weights"][row % batch.pairs][getattr(batch, f"{side}_mask")[row % batch.pairs]]
        torch.testing.assert_close(output.weights[row][output.tokens.mask[row]], given, check_dtype=False)
    margins = output.rewards.chunk(2)[0] - output.rewards.chunk(2)[1]
    torch.testing.assert_close(output.losses, -columns["pair:weight"] * torch.nn.functional.logsigmoid(margins))
