"""The policy's last states and the gradients at input embeddings, against plain calls and autograd written by hand."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from prefopt import ObjectiveConfig, PreferenceBatch, zoo
from prefopt.component import TokenWeighting
from prefopt.scoring import PreferenceModel
from prefopt.scoring.input_gradient import input_gradients
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.step_cost import plan_step
from prefopt.signals import SIGNALS, Signal
from prefopt.weightings import ImportanceWeighting, TransportWeighting


@pytest.fixture
def models(tiny, moved):
    reference = tiny("llama")
    return moved(reference), reference


def responses(pairs):
    """Prompt and response of every row, chosen first."""
    return [(pair[0], pair[side]) for side in (1, 2) for pair in pairs]


def by_hand(model, prompt, response):
    """|d max logits at the response's last token / d embedding|_1 of every response token, by a plain call."""
    embeddings = model.get_input_embeddings()(torch.tensor([prompt + response])).detach().requires_grad_()
    model(inputs_embeds=embeddings).logits[0, -1].max().backward(inputs=[embeddings])
    return embeddings.grad[0, len(prompt) :].abs().sum(-1)


class Reader(TokenWeighting):
    """w_t = 1; asks for all that is collected in passes of the policy, and for the reference's gradient. Source: these
    tests."""

    name: Literal["reader"] = "reader"

    @property
    def requires(self):
        return frozenset({Signal.INPUT_GRADIENT, Signal.REF_INPUT_GRADIENT, Signal.LAST_STATES})

    def __call__(self, tokens):
        return tokens.mask.to(tokens.logps.dtype)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("name", "way"), [("llama", "shared"), ("llama", "rows"), ("llama", "plain"), ("gemma2", "shared")]
)
def test_gradients_at_embeddings_are_those_of_a_plain_call(tiny, moved, batch, pairs, name, way):
    """gemma2 scales its embeddings, and caps its logits."""
    reference = tiny(name)
    models = (moved(reference), reference)
    model = PreferenceModel(*models, ObjectiveConfig(weighting=Reader()), shared_prefix=way == "shared")
    model._choice.uses_plain_forward = True if way == "plain" else None
    tokens = model.score(batch)
    assert model.shares_prefix == (way == "shared")
    for row, (prompt, response) in enumerate(responses(pairs)):
        for lm, values in zip(models, (tokens.input_gradient, tokens.ref_input_gradient), strict=True):
            expected = by_hand(lm, prompt, response)
            torch.testing.assert_close(values[row, : len(response)], expected, rtol=2e-4, atol=1e-6)
    for values in (tokens.input_gradient, tokens.ref_input_gradient):
        assert not values.requires_grad
        assert not values[~tokens.mask].any()
    assert tokens.logps.requires_grad


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("way", ["shared", "rows", "plain", "groups"])
def test_last_states_are_those_that_the_head_reads(models, batch, pairs, way):
    options = {"logits_budget": 1} if way == "groups" else {"shared_prefix": way == "shared"}
    model = PreferenceModel(*models, ObjectiveConfig(weighting=TransportWeighting()), **options)
    model._choice.uses_plain_forward = True if way == "plain" else None
    output = model(batch)
    states = output.tokens.last_states
    assert not states.requires_grad
    for row, (prompt, response) in enumerate(responses(pairs)):
        hidden = models[0].model(torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(states[row, : len(response)], hidden, rtol=1e-4, atol=1e-5)
    output.loss.backward()


def test_no_parameter_is_left_with_a_gradient(models, batch):
    input_gradients(models[0], Layout.two_rows(batch))
    assert all(parameter.grad is None for parameter in models[0].parameters())
    models[0].zero_grad()
    with torch.no_grad():
        assert input_gradients(models[0], Layout.two_rows(batch)).any()


def test_a_response_moves_nothing_but_its_own_tokens(models, batch):
    """Of a pair in a shared row, each response's gradients are those of its own last token."""
    layout = Layout.two_rows(batch)
    whole = input_gradients(models[0], layout)
    ids = batch.rejected_ids.clone()
    ids[:, 0] = (ids[:, 0] + 1) % 60
    other = PreferenceBatch.from_mapping({**batch.as_mapping(), "rejected_ids": ids})
    changed = input_gradients(models[0], Layout.two_rows(other))
    torch.testing.assert_close(changed[: batch.pairs], whole[: batch.pairs])
    assert (changed[batch.pairs :] - whole[batch.pairs :]).abs().max() > 1e-6


def test_they_are_collected_only_where_they_are_asked_for_and_planned(models, batch):
    asked = PreferenceModel(*models, ObjectiveConfig(weighting=Reader()))
    control = PreferenceModel(*models, zoo.dpo())
    tokens = control.score(batch)
    assert all(getattr(tokens, s) is None for s, spec in SIGNALS.items() if spec.input_gradient or spec.last_states)
    parts = {part.name: part for part in plan_step(asked, batch).parts}
    extra = [parts.pop(f"input gradients{of_model}") for of_model in ("", " of the reference")]
    assert [part.name for part in plan_step(control, batch).parts] == list(parts)
    for part in extra:  # a forward pass, and a backward pass without parameters
        assert 1.5 * parts["reference"].operations < part.operations < 4 * parts["reference"].operations
        assert part.bytes == 0


def test_a_cache_keeps_the_references_gradients(models, batch, tmp_path, monkeypatch):
    config = zoo.ti_dpo().model_copy(update={"weighting": ImportanceWeighting(model="reference")})
    plain = PreferenceModel(*models, config)(batch)
    model = PreferenceModel(*models, config, reference_cache=tmp_path)
    model.precompute_reference(batch)
    monkeypatch.setattr("prefopt.scoring.reference.scorer.states_and_gradients", None)
    assert torch.equal(model(batch).weights, plain.weights)


def test_an_embedding_layer_that_is_called_twice_is_refused(models, batch):
    embeddings = models[0].get_input_embeddings()
    plain = models[0].model.forward

    def twice(*args, input_ids, **options):
        embeddings(input_ids)
        return plain(*args, input_ids=input_ids, **options)

    models[0].model.forward = twice
    with pytest.raises(ValueError, match="LlamaForCausalLM calls its embedding layer 2 times in a pass; take a comp"):
        input_gradients(models[0], Layout.two_rows(batch))
