"""Several pairs in a row, against two rows a pair: the same numbers wherever a pair stands, and less padding."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from prefopt import zoo
from prefopt.component import Signal
from prefopt.scoring import NonFiniteError, PreferenceModel
from prefopt.scoring import layout_choice as choice
from prefopt.scoring.forward import forward_hidden_states
from prefopt.scoring.proof import Disagreement
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.limits import RowLimits
from prefopt.scoring.rows.packing import first_fit, least_work, one_per_row, two_in_a_row, work
from tests.scoring.conftest import drawn
from tests.scoring.rows.test_two_rows import rows_of

# Norms and softmax of most architectures run in float32 even in a float64 model.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
EXACT = {"rtol": 1e-9, "atol": 1e-10}
LENGTHS = [(3, 2, 4), (14, 3, 5), (2, 6, 1), (4, 1, 3), (1, 1, 1)]
PLACES = ([0, 1, 0, 2, 0], [0, 0, 9, 0, 18])
"""Where these pairs, of 9, 22, 9, 8 and 3 tokens, stand in rows of 22 positions."""
PACKED = {"gpt2": {}, "gpt_neox": {}, "llama": {}, "qwen3": {}, "gemma2": {"sliding_window": 64}}
OBJECTIVES = {"dpo": zoo.dpo(0.4), "tdpo2": zoo.tdpo2(0.4, 0.7), "mapo": zoo.mapo(), "sparsepo": zoo.sparsepo()}


@pytest.fixture
def mixed(make_batch):
    return make_batch(drawn(LENGTHS), rows=[40, 7, 93, 5, 11])


def test_places_by_hand():
    lengths = [sum(pair) for pair in LENGTHS]
    assert first_fit(lengths, 22) == PLACES
    assert first_fit(lengths, 11) == ([0, 1, 2, 3, 3], [0, 0, 0, 0, 8])
    assert first_fit(lengths, 5) == one_per_row(5) == ([0, 1, 2, 3, 4], [0] * 5)
    assert two_in_a_row(lengths, 22) == PLACES
    assert two_in_a_row(lengths, 21) == one_per_row(5)
    assert two_in_a_row([7, 6], 13) == ([0, 0], [0, 7])
    assert two_in_a_row([7, 6], 12) == one_per_row(2)
    assert two_in_a_row([7], 100) == one_per_row(1)


def test_the_least_work():
    lengths = [sum(pair) for pair in LENGTHS]
    assert least_work(lengths, 4096, limit=22) == PLACES
    assert least_work(lengths, 4096, limit=21) == one_per_row(5)
    # 2 rows of 26 leave less padding than 3 of 22.
    assert least_work(lengths, 4096, limit=100) == ([0, 1, 0, 0, 1], [0, 0, 9, 18, 22])
    # 2 rows of 32 against 4 of 20: fewer positions, but more attention, which a small model minds.
    assert least_work([20, 12, 12, 12], 4096, limit=100) == ([0, 0, 1, 1], [0, 20, 0, 12])
    assert least_work([20, 12, 12, 12], 1, limit=100) == one_per_row(4)
    assert work(2, 32, 4096) < work(4, 20, 4096)
    assert work(2, 32, 1) > work(4, 20, 1) == 4 * 20 * 26


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 120), st.integers(1, 500))
def test_places_of_any_lengths(lengths, width, hidden_size):
    """Nothing overlaps, there are no gaps, and no row is longer than it may be, but where a single pair is."""
    for places in (first_fit(lengths, width), least_work(lengths, hidden_size, width), two_in_a_row(lengths, width)):
        rows = {}
        for pair in sorted(range(len(lengths)), key=lambda pair: places.starts[pair]):
            row = rows.setdefault(places.rows[pair], [])
            assert places.starts[pair] == sum(row)
            row.append(lengths[pair])
        assert sorted(rows) == list(range(len(rows)))
        assert all(sum(row) <= width or len(row) == 1 for row in rows.values())
    placement = least_work(lengths, hidden_size, 1000)
    ends = [start + length for start, length in zip(placement.starts, lengths, strict=True)]
    assert work(max(placement.rows) + 1, max(ends), hidden_size) <= work(len(lengths), max(lengths), hidden_size)
    assert len(lengths) == 1 or len(set(two_in_a_row(lengths, 1000).rows)) < len(lengths)


def test_a_row_written_out(make_batch):
    """Three pairs in two rows: 2 + 1 + 1 tokens, then 1 + 1 + 1; and 3 + 2 + 1."""
    batch = make_batch([([1, 2], [3], [4]), ([5, 6, 7], [8, 9], [10]), ([11], [12], [13])])
    layout = Layout.shared(batch, first_fit([4, 6, 3], 7))
    assert layout.input_ids.tolist() == [[1, 2, 3, 4, 11, 12, 13], [5, 6, 7, 8, 9, 10, 0]]
    assert layout.attention_mask.tolist() == [[1] * 7, [1] * 6 + [0]]
    assert layout.labels.tolist() == [3, 8, 9, 12, 4, 10, 13]
    assert layout.label_positions.tolist() == [2, 10, 11, 5, 3, 12, 6]
    assert layout.query_positions.tolist() == [1, 9, 10, 4, 1, 9, 4]
    inputs = layout.inputs(torch.float32)
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 2, 0, 1, 1], [0, 1, 2, 3, 4, 3, 0]]
    assert (inputs["attention_mask"][0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 0, 1],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["tdpo2", "mapo", "sparsepo"])
@pytest.mark.parametrize("architecture", PACKED)
def test_a_step_is_that_of_two_rows(tiny, agree_with_two_rows, mixed, architecture, objective):
    reference = tiny(architecture, **PACKED[architecture])
    scored = agree_with_two_rows(reference, mixed, OBJECTIVES[objective], **CLOSE)
    rows = rows_of(scored.policy)
    scored.score(mixed)
    assert rows == [2]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_to_the_last_digits(tiny, agree_with_two_rows, mixed, attention, objective):
    """GPT-2 computes everything in the model's own precision, so that float64 is float64 throughout."""
    agree_with_two_rows(tiny("gpt2", attn_implementation=attention), mixed, OBJECTIVES[objective], **EXACT)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=6),
    st.integers(3, 120),
    st.integers(0, 9),
)
def test_any_lengths(tiny, make_batch, lengths, width, seed):
    """Everything that is gathered, wherever a pair stands."""
    model, batch = tiny("gpt2").eval(), make_batch(drawn(lengths, seed))
    signals = frozenset(Signal)
    packed, two = (
        forward_hidden_states(
            model, layout, signals=signals, activation_kinds=frozenset({"mlp", "attn", "resid", "logits"})
        )
        for layout in (Layout.shared(batch, first_fit(batch.lengths.tolist(), width)), Layout.two_rows(batch))
    )
    torch.testing.assert_close(packed.hidden, two.hidden, **EXACT)
    torch.testing.assert_close(packed.signals, two.signals, **EXACT)


def test_pairs_do_not_see_each_other(tiny, always, make_batch, moved):
    """Nothing that changes in one pair changes the last bit of another in its row."""
    reference, pairs, others = tiny("llama"), drawn(LENGTHS), drawn(LENGTHS, seed=1)
    scored = PreferenceModel(moved(reference), reference, zoo.tdpo2())
    usual = scored.score(make_batch(pairs)).logps
    for changed in range(len(pairs)):
        actual = scored.score(make_batch([*pairs[:changed], others[changed], *pairs[changed + 1 :]])).logps
        same = [torch.equal(now, before) for now, before in zip(actual, usual, strict=True)]
        assert same == 2 * [pair != changed for pair in range(len(pairs))]


@pytest.mark.slow
def test_an_adapter_and_recomputed_activations(tiny, jolt, always, mixed, same_gradients):
    base = get_peft_model(tiny("gpt_neox"), LoraConfig(r=4, target_modules=["query_key_value"])).double()
    for name, parameter in base.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    models = [PreferenceModel(copy.deepcopy(base), None, zoo.tdpo2(), shared_prefix=shared) for shared in (1, 1, 0)]
    models[1].activation_checkpointing_enable()
    outputs = [model.train()(mixed) for model in models]
    assert [model.shares_prefix for model in models] == [True, True, False]
    for output in outputs:
        output.loss.backward()
    for model, output in zip(models, outputs, strict=True):
        torch.testing.assert_close(output.losses, outputs[2].losses, **CLOSE)
        same_gradients(model.policy, models[2].policy, rtol=1e-4, atol=1e-6)


def poison(model, batch, at, token=63):
    """Begin one response with a token that is nowhere else, and whose embedding is NaN."""
    ids = (batch.prompt_ids, batch.chosen_ids, batch.rejected_ids)
    for side_ids in ids:
        side_ids[side_ids == token] = 1
    pair, side = at
    ids[side][pair, 0] = token
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize(("pair", "side"), [(0, 1), (2, 2), (4, 1)])
def test_nan_is_told_from_its_neighbours(tiny, moved, always, mixed, tmp_path, cached, role, pair, side):
    """Pairs 0, 2 and 4 stand in one row, where NaN in one reaches all."""
    reference = tiny("llama", dtype=torch.float32)
    models = (moved(reference), reference)
    scored = PreferenceModel(*models, zoo.tdpo2(), reference_cache=tmp_path if cached else None)
    poison(models[role], mixed, (pair, side))
    name, row = ("logps", "ref_logps")[role], int(mixed.rows[pair])
    match = rf"`{name}` is nan for the {('chosen', 'rejected')[side - 1]} response of pair {row}"
    with pytest.raises(NonFiniteError, match=match) as caught:
        scored(mixed)
    assert caught.value.row == row


def test_what_a_cache_keeps_is_not_a_neighbours_nan(tiny, moved, always, mixed, tmp_path):
    reference = tiny("llama", dtype=torch.float32)
    poison(reference, mixed, (2, 1))
    scored = PreferenceModel(moved(reference), reference, zoo.tdpo2(), reference_cache=tmp_path)
    scored.precompute_reference(mixed)
    kept = scored.score(mixed).ref_logps
    expected = PreferenceModel(scored.policy, reference, zoo.tdpo2(), shared_prefix=False).score(mixed).ref_logps
    assert torch.equal(kept.isnan(), expected.isnan())
    assert kept.isnan().any(-1).nonzero()[:, 0].tolist() == [2]


@pytest.mark.slow
def test_a_cache_of_packed_pairs(tiny, moved, always, mixed, tmp_path):
    reference = tiny("llama")
    policy = moved(reference)
    asked = PreferenceModel(policy, reference, zoo.sparsepo()).score(mixed)
    for _ in range(2):
        actual = PreferenceModel(policy, reference, zoo.sparsepo(), reference_cache=tmp_path).score(mixed)
        for name in ("ref_logps", "divergence", "ref_hidden_states"):
            torch.testing.assert_close(getattr(actual, name), getattr(asked, name), **CLOSE)


def test_rows_are_within_every_models_limits(tiny):
    limits = [
        RowLimits.from_models([tiny(name, **changes)])
        for name, changes in (("llama", {}), ("mistral", {}), ("gemma2", {}))
    ]
    assert limits == [(float("inf"), 128), (4, 4), (16, 16)]
    assert RowLimits.from_models([tiny("llama"), tiny("gemma2"), tiny("gpt2", max_position_embeddings=9)]) == (16, 9)


@pytest.mark.slow
def test_several_in_a_row_where_the_model_has_the_positions(tiny, moved, always, make_batch, mixed):
    """Whatever the first batch was: made-up pairs stand in one row, too."""
    single = make_batch(drawn([(5, 3, 4)]))
    for first, positions, expected in ((mixed, 128, 2), (single, 128, 2), (mixed, 21, 5), (mixed, 22, 3)):
        reference = tiny("llama", max_position_embeddings=positions)
        scored = PreferenceModel(moved(reference), reference, zoo.dpo())
        scored(first)
        scored(mixed)  # longer than the first, which is proven again
        rows = rows_of(scored.policy)
        scored(mixed)
        assert rows == [expected]
        assert scored.shares_prefix


def test_a_model_that_knows_where_its_row_begins(tiny, moved, always, mixed, monkeypatch):
    """It takes two responses in a row, but not a second prompt."""
    reference = tiny("gpt2")
    policy = moved(reference)
    usual = policy.transformer.forward

    def forward(*args, position_ids=None, **kwargs):
        if position_ids is not None:
            columns = torch.arange(position_ids.shape[1])
            position_ids = torch.where((position_ids == 0).cumsum(-1) > 1, columns, position_ids)
        return usual(*args, position_ids=position_ids, **kwargs)

    monkeypatch.setattr(policy.transformer, "forward", forward)
    two = PreferenceModel(policy, reference, zoo.dpo(), shared_prefix=False)(mixed)
    scored = PreferenceModel(policy, reference, zoo.dpo())
    with pytest.warns(UserWarning, match=r"policy: GPT2LMHeadModel's log-probabilities differ by up to .* share"):
        actual = scored(mixed)
    assert not scored.shares_prefix
    assert torch.equal(actual.losses, two.losses)


def test_what_is_compared(tiny, moved, make_batch, monkeypatch):
    """Made-up pairs, a few of the first batch from the shortest to the longest, and one of a later batch."""
    batch = make_batch(drawn([(size, 2, 2) for size in (9, 3, 12, 5, 4, 7, 8)]))
    seen = []

    def record(roles, pairs, placement, *, made_up=False):
        seen.append((pairs.lengths.tolist(), made_up, placement is not None))
        return Disagreement()

    monkeypatch.setattr(choice, "disagreement", record)
    reference = tiny("llama")
    scored = PreferenceModel(moved(reference), reference, zoo.dpo())
    assert scored(batch).losses.shape == (7,)
    made_up, real = seen
    assert made_up == ([2 * 14 - 1, 15, 8, 4], True, True), "14 tokens are the longest prompt and response"
    assert real == ([7, 16, 9, 12], False, True)
    monkeypatch.setattr(choice, "_EVERY", 3)
    for _ in range(3):
        scored.score(batch)
        with torch.no_grad():
            scored.score(batch)
    scored.eval().score(batch)
    assert seen[2:] == [([16], False, True)], "the longest pair, at the third batch of training"
