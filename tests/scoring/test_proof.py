"""What the comparison with the plain forward pass finds out, and what it leaves as it was."""

from __future__ import annotations

import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from prefopt import zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring import layout_choice as choice
from prefopt.scoring.probes import moved_adapter, probe_batch, usable_token_ids
from prefopt.scoring.rounding import difference, disturbed, rounding_unit
from prefopt.scoring.rows import limits
from tests.scoring.architectures import tiny_config
from tests.scoring.conftest import drawn
from tests.scoring.rows.test_two_rows import rows_of

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Warmed(LlamaForCausalLM):
    """Multiplies its logits by 1.05: in bfloat16, a tenth of most log-probabilities hides that."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.05
        return output


@pytest.fixture
def built(jolt):
    """A tiny model of any architecture: built("mpt", dtype=torch.bfloat16, max_seq_len=64)."""

    def make(model_type, dtype=torch.float32, **changes):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes), dtype=torch.float32)
        return jolt(model).to(dtype).requires_grad_(True)

    return make


@pytest.fixture
def first_batch(moved):
    """A PreferenceModel after its first batch, and the warning, if any, that it came with."""

    def run(reference, batch, policy=None, objective=None, **options):
        scored = PreferenceModel(policy or moved(reference), reference, objective or zoo.dpo(), **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scored(batch)
        messages = [str(warning.message) for warning in caught if "from now on" in str(warning.message)]
        assert len(messages) <= 1
        return scored, "".join(messages)

    return run


def plain_logps(model, pairs):
    """Log-probabilities of the chosen and then the rejected responses, each by a call of its own, [N] lists."""
    rows = [(pair[0], pair[side]) for side in (1, 2) for pair in pairs]
    for prompt, response in rows:
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        yield logits.float().log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


def assert_right(scored, batch, pairs, **tolerance):
    logps = scored.score(batch).logps
    for row, expected in enumerate(plain_logps(scored.policy, pairs)):
        torch.testing.assert_close(logps[row, : len(expected)], expected, **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_logits_that_are_five_percent_off(tiny, always, batch, first_batch, dtype):
    reference = tiny("llama", dtype=dtype)
    assert first_batch(reference, batch)[1] == ""
    reference.__class__ = Warmed
    scored, message = first_batch(reference, batch)
    assert scored.uses_plain_forward
    assert "policy: log-probabilities from Warmed's hidden states and head differ" in message


def test_logits_that_are_five_percent_off_under_autocast(tiny, always, batch, first_batch):
    reference = tiny("llama", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert first_batch(reference, batch)[1] == ""
        reference.__class__ = Warmed
        assert first_batch(reference, batch)[0].uses_plain_forward


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_a_head_that_is_more_than_its_last_layer(built, always, batch, pairs, first_batch, model_type):
    """Whatever they are in nats: log-probabilities of these heads alone are off by several."""
    reference = built(model_type, torch.bfloat16, is_decoder=True)
    scored, message = first_batch(reference, batch)
    assert scored.uses_plain_forward
    assert "hidden states and head differ" in message
    assert_right(scored, batch, pairs, rtol=0, atol=0.05)


@pytest.mark.parametrize("lengths", [[(3, 1, 1)], [(3, 6, 4), (5, 1, 7)]], ids=["one_token", "several"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_positions_along_the_row(built, always, make_batch, first_batch, dtype, lengths):
    """ALiBi gives the rejected response the distances of the row; a response of one token does not show it."""
    pairs = drawn(lengths)
    scored, message = first_batch(built("mpt", dtype), make_batch(pairs), max_length=40)
    assert (scored.shares_prefix, scored.uses_plain_forward) == (False, False)
    assert "policy: MptForCausalLM's log-probabilities differ by up to" in message
    assert_right(scored, make_batch(pairs), pairs, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


def test_a_window_of_what_is_kept(built, always, make_batch, first_batch):
    """Doge sees the `keep_window_size` keys that score most, of all in a row."""
    reference = built("doge", keep_window_size=20)
    short, long = drawn([(4, 3, 3)]), drawn([(6, 9, 9)])
    scored, message = first_batch(reference, make_batch(short))
    assert (scored.shares_prefix, message) == (True, "")
    rows = rows_of(scored.policy)
    assert_right(scored, make_batch(short), short, **CLOSE)
    assert rows[0] == 1
    rows.clear()
    assert_right(scored, make_batch(long), long, **CLOSE)
    assert rows[0] == 2


@pytest.mark.slow
def test_a_window_that_no_configuration_names(tiny, always, make_batch, first_batch, monkeypatch):
    """Pairs of the length that is to come find it, whatever the first batch."""
    monkeypatch.setattr(limits, "_WINDOWS", ())
    reference, short, long = (
        tiny("mistral", sliding_window=20, dtype=torch.float32),
        drawn([(4, 3, 3)]),
        drawn([(6, 20, 19)]),
    )
    scored, message = first_batch(reference, make_batch(short), max_length=60)
    assert "policy: MistralForCausalLM's log-probabilities differ" in message
    assert not scored.shares_prefix
    # Without a length to come, rows longer than the first are proven when they are there.
    scored, message = first_batch(reference, make_batch(short))
    assert (scored.shares_prefix, message) == (True, "")
    with pytest.warns(UserWarning, match="Giving each response longer than 13 tokens a row of its own"):
        assert_right(scored, make_batch(long), long, **CLOSE)
    assert_right(scored, make_batch(long), long, **CLOSE)


@pytest.fixture
def adapted(tiny):
    def make(**changes):
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **changes)
        return get_peft_model(tiny("llama", dtype=torch.float32), config)

    return make


def test_an_adapter_that_acts_in_its_own_call_alone(adapted, always, batch, monkeypatch):
    """At first it changes nothing, on either way."""
    policy = adapted()
    usual = policy.forward
    untrained = next(p for name, p in policy.named_parameters() if "lora_B" in name)

    def forward(*args, **kwargs):
        output = usual(*args, **kwargs)
        output.logits = output.logits * (1 + untrained.norm())
        return output

    monkeypatch.setattr(policy, "forward", forward)
    scored = PreferenceModel(policy, None, zoo.dpo())
    with pytest.warns(UserWarning, match="policy: log-probabilities from LlamaForCausalLM's hidden states and head"):
        loss = scored(batch).loss
    assert scored.uses_plain_forward
    torch.testing.assert_close(loss, torch.tensor(2.0).log())


def hooks(module):
    return [len(part._forward_hooks) for part in module.modules()]


def test_everything_is_as_it_was(adapted, always, batch):
    policy = adapted(use_dora=True, lora_dropout=0.1)
    scored = PreferenceModel(policy, None, zoo.tdpo2()).train()
    before = {name: value.clone() for name, value in scored.state_dict().items()}
    hooks_before = hooks(scored)
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = scored(batch)
        second = scored(batch)
    assert torch.equal(torch.get_rng_state(), state)
    after = scored.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(first.losses, second.losses), "casts of the moved adapter are not kept"
    assert hooks(scored) == hooks_before
    assert all(parameter.grad is None for parameter in scored.parameters())


def test_what_is_moved(adapted, tiny):
    policy = adapted()
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    with moved_adapter(policy):
        moved = {name for name, parameter in policy.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    model = tiny("llama")
    before = [parameter.clone() for parameter in model.parameters()]
    with moved_adapter(model):
        assert all(map(torch.equal, before, model.parameters()))


def test_a_later_batch_on_which_it_no_longer_agrees(tiny, moved, always, batch, monkeypatch):
    monkeypatch.setattr(choice, "_EVERY", 3)
    reference = tiny("llama")
    scored = PreferenceModel(moved(reference), reference, zoo.dpo())
    for _ in range(2):
        scored(batch)
    scored.policy.__class__ = Warmed
    with pytest.raises(
        RuntimeError, match=r"policy: log-probabilities from Warmed's .* at batch 3 of training and not"
    ):
        scored(batch)


def test_later_rows_that_no_longer_agree(tiny, moved, always, batch, monkeypatch):
    monkeypatch.setattr(choice, "_EVERY", 3)
    reference = tiny("llama")
    scored = PreferenceModel(moved(reference), reference, zoo.dpo())
    expected = PreferenceModel(scored.policy, reference, zoo.dpo(), shared_prefix=False)(batch)
    for _ in range(2):
        scored(batch)
    usual = scored.policy.model.forward
    monkeypatch.setattr(scored.policy.model, "forward", lambda position_ids=None, **kwargs: usual(**kwargs))
    with pytest.warns(UserWarning, match="where the two responses of a pair share a row.* found at batch 3, and not"):
        output = scored(batch)
    assert not scored.shares_prefix
    torch.testing.assert_close(output.losses, expected.losses)


def test_states_of_layers_that_differ_in_shared_rows(tiny, always, batch, first_batch, monkeypatch):
    """Log-probabilities agree, but what a mask reads does not."""
    reference = tiny("gpt2")
    usual = reference.transformer.forward

    def forward(*args, position_ids=None, **kwargs):
        output = usual(*args, position_ids=position_ids, **kwargs)
        if position_ids is not None and output.hidden_states is not None:
            output.hidden_states = tuple(states + 0.1 for states in output.hidden_states)
        return output

    policy = tiny("gpt2", seed=1)
    monkeypatch.setattr(reference.transformer, "forward", forward)
    scored, message = first_batch(reference, batch, policy, zoo.sparsepo())
    assert "reference: GPT2LMHeadModel's ref_hidden_states differ by up to 0.1 where the two responses" in message
    assert not scored.shares_prefix
    assert first_batch(reference, batch, policy, zoo.dpo())[0].shares_prefix, "which asks for no states"


def test_padding_that_is_seen(tiny, moved, batch, monkeypatch):
    reference = tiny("llama")
    policy = moved(reference)
    usual = policy.forward

    def forward(*args, input_ids, **kwargs):
        output = usual(*args, input_ids=input_ids, **kwargs)
        output.logits = output.logits * (1 + (input_ids == 0).float().mean(-1)[:, None, None])
        return output

    monkeypatch.setattr(policy, "forward", forward)
    with pytest.raises(ValueError, match=r"policy: log-probabilities of LlamaForCausalLM differ .* padded beside"):
        PreferenceModel(policy, reference, zoo.dpo())(batch)


def test_made_up_pairs(tiny):
    batch = probe_batch(range(3, 60), longest=24, widest=47)
    assert batch.lengths.tolist() == [47, 25, 16, 4]
    assert (batch.prompt_mask.sum(-1) + batch.chosen_mask.sum(-1)).tolist() == [24, 24, 12, 3]
    assert probe_batch(range(3, 60), longest=24, widest=30).lengths.tolist() == [29, 25, 16, 4]
    same = batch.chosen_ids[0] == batch.rejected_ids[0]
    assert 0.6 < same.float().mean() < 0.8
    assert not bool(same[1])
    model = tiny("llama", pad_token_id=5, eos_token_id=[7, 9])
    assert not {0, 5, 7, 9} & set(usable_token_ids([model]))
    assert max(usable_token_ids([model, tiny("llama", vocab_size=40)])) == 39


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float32, 2**-20), (torch.float64, 2**-23)],
)
def test_the_spread_is_that_of_the_dtype(tiny, dtype, unit):
    model = tiny("llama", dtype=dtype)
    assert rounding_unit(model) == unit
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        logits = model(ids).logits.double()
        with disturbed(model, unit):
            spread = (model(ids).logits.double() - logits).std() / logits.std()
    assert unit < spread < 10 * unit


@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float64, 2**-23)])
def test_a_disturbance_moves_a_number_up_or_down(dtype, unit):
    """By a unit, which is half of the distance from 1 to the next number of a half precision."""
    values = torch.full((4, 64), 1.5, dtype=dtype)
    layer = torch.nn.Identity()
    with disturbed(layer, unit):
        moved = layer(values)
    assert moved.dtype == dtype
    assert torch.equal(moved, moved[:1].expand_as(moved))
    ratios = (moved[0].double() / 1.5 - 1).tolist()
    assert {ratio > 0 for ratio in ratios} == {True, False}
    assert all(unit / 2 <= abs(ratio) <= 2 * unit for ratio in ratios)


def test_what_a_spread_explains():
    plain = torch.linspace(-9, -1, 50)
    spread = plain + 0.01 * torch.tensor([1.0, -1.0]).repeat(25)
    assert difference(plain + 0.015, plain, spread) is None
    assert difference(plain + 0.03, plain, spread) == pytest.approx(0.03, rel=1e-4), "on the whole"
    one = plain.clone()
    one[7] += 0.05
    assert difference(one, plain, spread) == pytest.approx(0.05, rel=1e-4), "of a single token"
    assert difference(torch.full_like(plain, torch.nan), plain, spread) is not None
    nan = torch.where(torch.arange(50) == 3, torch.nan, plain)
    assert difference(nan, nan, nan) is None
