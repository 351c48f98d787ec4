"""Learned masks beyond the published one: gates, scales, layers, starts and the penalty for open tokens."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from prefopt import Objective, ObjectiveConfig, TokenBatch, zoo
from prefopt.component import Signal, weights_and_penalty
from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm
from prefopt.regularizers import MaskL1
from prefopt.weightings import SparseWeighting
from prefopt.weightings.sparse import SparseMask
from prefopt.weightings.sparse.config import SCALES
from prefopt.weightings.sparse.gates import GATES, Gate
from prefopt.weightings.sparse.initial import INITIALISERS
from tests.batches import random_case

CHARGEABLE = ("binary", "hard_concrete")
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)


def built(seed: int = 0, **fields: object) -> SparseMask:
    torch.manual_seed(seed)
    return SparseWeighting(**fields).build(num_layers=3, hidden_size=5)


def gated(name: str, scores: list[float], mask: Tensor, share: float = 0.4) -> tuple[Tensor, Tensor]:
    """The weights of the scores [n] in evaluation, and the gradient of their sum."""
    leaf = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    weights = GATES[name](share).eval()(leaf, mask)
    (gradient,) = torch.autograd.grad(weights.sum(), leaf)
    return weights.detach(), gradient


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("gate", "weight", "slope"),
    [
        ("relu", lambda s: max(s, 0), lambda s: float(s > 0)),
        ("softplus", lambda s: math.log1p(math.exp(s)), sigmoid),
        ("sigmoid", sigmoid, lambda s: sigmoid(s) * sigmoid(-s)),
        (
            "hard_concrete",
            lambda s: min(1, max(0, 1.2 * sigmoid(s) - 0.1)),
            lambda s: 1.2 * sigmoid(s) * sigmoid(-s) if 0 < 1.2 * sigmoid(s) - 0.1 < 1 else 0,
        ),
        ("binary", lambda s: float(s > 0), lambda s: sigmoid(s) * sigmoid(-s)),
    ],
)
def test_gates_by_hand(gate: str, weight, slope) -> None:
    scores = [-4.0, -0.5, 0.25, 1.5, 4.0]
    weights, gradient = gated(gate, scores, MASK[:1])
    assert weights.tolist() == pytest.approx([weight(s) for s in scores], abs=1e-12)
    assert gradient.tolist() == pytest.approx([slope(s) for s in scores], abs=1e-12)


def test_top_k_keeps_as_many_as_its_share_and_of_ties_the_earlier() -> None:
    weights, gradient = gated("top_k", [0.0, 2.0, 1.0, 1.0, -1.0, 5.0, 7.0], MASK, share=0.4)
    assert weights.tolist() == [0, 1, 1, 0, 0, 0, 1]  # 2 of 5, and 1 of 2 (0.8, and never none)
    slopes = [sigmoid(s) * sigmoid(-s) for s in (-1, 1, 0, 0, -2, -2, 0)]  # away from the last score that is in
    assert gradient.tolist() == pytest.approx(slopes)
    for share, length, number in ((0.07, 100, 7), (0.2, 5, 1), (0.21, 5, 2), (1.0, 3, 3), (0.01, 3, 1)):
        row = torch.ones(1, length, dtype=torch.bool)
        assert gated("top_k", [1.0] * length, row, share)[0].tolist() == [1] * number + [0] * (length - number)


def test_hard_concrete_draws_in_training_as_its_probabilities_say() -> None:
    """Over many draws the share that is not zero is the probability of it, and the ends are reached exactly."""
    torch.manual_seed(0)
    gate, mask = GATES["hard_concrete"](0.2), torch.ones(1, 40_000, dtype=torch.bool)
    for score in (-3.0, 0.0, 2.0):
        scores = torch.full((40_000,), score, requires_grad=True)
        weights = gate.train()(scores, mask)
        openness = float(gate.openness(scores).detach()[0])
        assert openness == pytest.approx(sigmoid(score - 2 / 3 * math.log(0.1 / 1.1)), rel=1e-5)
        assert float((weights > 0).float().mean()) == pytest.approx(openness, abs=0.01)
        assert {0.0, 1.0} <= set(weights.tolist())
        (gradient,) = torch.autograd.grad(weights.sum(), scores)
        assert gradient.isfinite().all()
        assert torch.equal(gate.eval()(scores, mask), gate(scores, mask))


@pytest.mark.parametrize("name", GATES)
def test_every_gate_starts_near_one_with_a_gradient(name: str) -> None:
    case = random_case(3, dtype=torch.float32)
    mask = built(gate=name, init="near_one").eval()
    weights = mask(case.tokens())
    kept = weights[case.mask].detach()
    assert float(kept.max()) == pytest.approx(1, abs=0.13)
    assert kept.any()
    weights.square().sum().backward()
    assert mask.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(set(GATES) - {"relu", "top_k"}))
def test_signed_scores_close_a_gate_under_any_mixture_of_layers(name: str) -> None:
    """Without relu on the layers' scores, a bias below zero in every layer brings the weights down to nothing."""
    mask = built(gate=name, init="near_one").eval()
    with torch.no_grad():
        mask.bias.fill_(-8)
    assert mask(random_case(3, dtype=torch.float32).tokens()).max() < 1e-3


def test_the_mean_is_one_in_every_response() -> None:
    case = random_case(4)
    mask = built(4, gate="softplus", scale="mean_one").double()
    torch.nn.init.normal_(mask.weight)
    free = built(4, gate="softplus").double()
    free.load_state_dict(mask.state_dict())
    weights, unscaled = mask(case.tokens()), free(case.tokens())
    for row, raw, kept in zip(weights, unscaled, case.mask, strict=True):
        torch.testing.assert_close(row[kept], raw[kept] / raw[kept].mean())
        assert not row[~kept].any()


def test_a_response_whose_weights_are_all_zero_stays_so() -> None:
    """It is no NaN, and a straight-through gradient still reaches it."""
    leaf = torch.tensor([[0.0, 0, 0, 0, 0], [3, 1, 0, 0, 0]], requires_grad=True)
    weights = SCALES["mean_one"](leaf, TokenBatch(leaf, leaf, MASK, MASK.long()))
    assert weights[0].tolist() == [0] * 5
    assert weights[1].tolist() == pytest.approx([1.5, 0.5, 0, 0, 0])
    (gradient,) = torch.autograd.grad(weights[:, :2].sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient[0].tolist() == [1, 1, 0, 0, 0]
    dead = built(init="near_one", scale="mean_one", gate="binary")
    with torch.no_grad():
        dead.bias.fill_(-1)
    weights = dead(random_case(4, dtype=torch.float32).tokens())
    assert not weights.any()
    weights.sum().backward()
    assert (dead.bias.grad > 0).all()


def test_mean_one_keeps_beta() -> None:
    """A mask of mean one, times anything, gives the same rewards; a free one does not."""
    case = random_case(5)
    rewards = {}
    for scale in ("free", "mean_one"):
        config = ObjectiveConfig(weighting=SparseWeighting(init="near_one", scale=scale))
        objective = Objective(config, num_layers=3, hidden_size=5).double()
        with torch.no_grad():
            objective.weighting.weight.normal_(std=0.1)
            before = objective(case.tokens()).rewards
            objective.weighting.mixer.mul_(3)
            rewards[scale] = objective(case.tokens()).rewards / before
    torch.testing.assert_close(rewards["free"], torch.full((6,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(rewards["mean_one"], torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(("layers", "read"), [("all", (0, 1, 2)), ("last", (2,)), ((1, 3), (0, 2)), ((2,), (1,))])
def test_layers_that_are_read(layers: object, read: tuple[int, ...]) -> None:
    case = random_case(6, dtype=torch.float32)
    mask = built(layers=layers, init="near_one")
    torch.nn.init.normal_(mask.weight)
    weights = mask(case.tokens())
    assert mask.weight.shape == (len(read), 5)
    assert (mask.mixer is None) == (layers == "last")
    for layer in range(3):
        states = case.states.clone()
        states[layer] = states[layer].flip(-1)
        assert torch.equal(mask(case.but(states=states).tokens()), weights) == (layer not in read)


def test_layers_that_are_not_there_are_an_error_before_training() -> None:
    with pytest.raises(ValueError, match="there is no layer 7; the reference has 3 layers, numbered from 1"):
        built(layers=(1, 7))
    for layers in ((0, 1), (), "first"):
        with pytest.raises(ValidationError, match="layers"):
            SparseWeighting(layers=layers)
    with pytest.raises(ValidationError, match="layers: each once"):
        SparseWeighting(layers=(2, 2))


def test_two_layers_by_hand() -> None:
    case = random_case(7, lengths=(2, 1), dtype=torch.float64)
    mask = built(7, architecture="two_layer", hidden_width=4, gate="sigmoid", init="near_one").double()
    with torch.no_grad():
        for parameter in mask.parameters():
            parameter.normal_(std=0.5)
    weights = mask(case.tokens())
    for row, length in enumerate(case.lengths):
        for t in range(length):
            score = torch.zeros((), dtype=torch.float64)
            for layer in range(3):
                h = case.states[layer, row, t]
                x = (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt() * mask.norm.weight + mask.norm.bias
                z = mask.hidden.weight[layer] @ x + mask.hidden.bias[layer]
                a = mask.weight[layer] @ (z * (1 + torch.erf(z / 2**0.5)) / 2) + mask.bias[layer]
                score = score + mask.mixer[layer] * a
            torch.testing.assert_close(weights[row, t], 1 / (1 + torch.exp(-score)))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"share": 0.5}, "share is read only with gate top_k, and gate is relu; leave share at 0.2"),
        ({"l0": 0.1}, "l0 is read only with gate hard_concrete or binary, and gate is relu"),
        ({"l0": 0.1, "gate": "top_k"}, "l0 is read only"),
        ({"hidden_width": 10}, "hidden_width is read only with architecture two_layer"),
        ({"layers": "last", "position": "embedding"}, "layers is read only with position predicting or token"),
    ],
)
def test_what_nobody_would_read_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SparseWeighting(**fields)


def test_the_tables_hold_what_the_fields_allow() -> None:
    for field, table in (("gate", GATES), ("scale", SCALES), ("init", INITIALISERS)):
        assert SparseWeighting.model_fields[field].annotation.__args__ == tuple(table)
    for name, gate in GATES.items():
        openness = gate(0.5).openness(torch.zeros(3))
        assert (openness is not None) == (name in CHARGEABLE)
        assert isinstance(gate(0.5), Gate)


@pytest.mark.parametrize("gate", CHARGEABLE)
@pytest.mark.parametrize("shared", [True, False])
def test_an_objective_charges_each_mask_for_its_open_tokens(gate: str, shared: bool) -> None:
    """Both responses of a pair, the divergence's own mask as well, a shared one once."""
    case = random_case(8)
    tokens = case.tokens()
    free, priced = (SparseWeighting(gate=gate, l0=l0, init="near_one") for l0 in (0.0, 0.25))
    losses = {}
    for mask in (free, priced):
        term = DivergenceTerm(measure=ForwardKL(), weighting=None if shared else mask)
        objective = Objective(ObjectiveConfig(weighting=mask, divergence=term), num_layers=3, hidden_size=5).double()
        losses[mask.l0] = objective.eval()(tokens).losses
    chance = 1.0 if gate == "binary" else sigmoid(2 - 2 / 3 * math.log(0.1 / 1.1))
    lengths = case.mask.sum(-1).view(2, 3).sum(0)
    penalty = 0.25 * chance * lengths * (1 if shared else 2)
    torch.testing.assert_close(losses[0.25] - losses[0.0], penalty.double())


@pytest.mark.parametrize("gate", CHARGEABLE)
def test_the_charge_alone_closes_tokens_that_are_open_or_shut(gate: str) -> None:
    tokens = random_case(9, dtype=torch.float32).tokens()
    mask = built(gate=gate, l0=1.0, init="near_one").eval()
    _, penalty = weights_and_penalty(mask, tokens)
    penalty.sum().backward()
    assert (mask.bias.grad > 0).all()
    with torch.no_grad():
        mask.bias.fill_(-3)
    assert not mask(tokens).any()
    mask.zero_grad()
    weights_and_penalty(mask, tokens)[1].sum().backward()
    assert (mask.bias.grad > 0).all(), "the support can still change"


def test_the_objective_of_the_paper_is_untouched() -> None:
    """The published setting is the default of every field, and has no penalty."""
    assert zoo.sparsepo().weighting == SparseWeighting(
        position="predicting", layers="all", architecture="linear", gate="relu", init="published", scale="free"
    )
    mask = built()
    assert [name for name, _ in mask.named_parameters()] == ["weight", "bias", "mixer", "norm.weight", "norm.bias"]
    assert weights_and_penalty(mask, random_case(dtype=torch.float32).tokens())[1] is None
    assert SparseWeighting().requires == {Signal.REF_HIDDEN_STATES}


TOP_K = {"gate": "top_k", "share": 0.1}


def test_the_row_is_adjusted_in_a_run_file() -> None:
    config = zoo.build({"zoo": "sparsepo_token", "beta": 0.5, "l1": 0.01, "floor": 0.0, "weighting": TOP_K})
    assert config.weighting == SparseWeighting(
        position="embedding", architecture="two_layer", gate="top_k", init="near_one", share=0.1
    )
    assert config.regularizers == (MaskL1(reward=0.005),)
    with pytest.raises(ValueError, match="floor is read only with gate relu, and gate is top_k; leave floor at 0"):
        zoo.build({"zoo": "sparsepo_token", "weighting": TOP_K})
    with pytest.raises(ValueError, match="layers is read only with position predicting or token"):
        zoo.build({"zoo": "sparsepo_token", "weighting": {"layers": "last"}})


def test_the_row_with_weights_of_one_is_tdpo2() -> None:
    """Which is where near_one starts it, and where it stays while the mask does not learn."""
    objective = Objective(zoo.sparsepo_token(beta=0.3, alpha=0.7, l1=0), num_layers=3, hidden_size=5).double()
    tdpo2 = Objective(zoo.tdpo2(beta=0.3, alpha=0.7), num_layers=3, hidden_size=5)
    case = random_case(11)
    gradient, expected = (torch.autograd.grad(o(case.tokens()).loss, case.logits) for o in (objective, tdpo2))
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(objective(case.tokens()).losses, tdpo2(case.tokens()).losses)


def test_noise_moves_no_loss_at_the_reference() -> None:
    """Where the policy is the reference, noise moves no reward: the loss is ln 2 and the penalty, as at step 0."""
    tokens: TokenBatch = random_case(10).tokens()
    config = ObjectiveConfig(weighting=SparseWeighting(gate="hard_concrete", l0=0.01, init="near_one"))
    objective = Objective(config, num_layers=3, hidden_size=5).double().train()
    one, two = objective.at_reference(tokens).loss, objective.at_reference(tokens).loss
    assert torch.equal(one, two)
    assert one.item() > math.log(2)
