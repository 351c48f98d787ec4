"""Where the numbers of a batch first stop being finite, from the embeddings to the gradients, response by response."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from prefopt.objective import ObjectiveOutput
from prefopt.scoring.forward import backbone, causal_lm
from prefopt.scoring.lm_head.head import Head
from prefopt.scoring.model import PreferenceModel
from prefopt.scoring.rows.layout import Layout
from prefopt.tokens import PreferenceBatch


@final
@dataclass(frozen=True)
class Location:
    """A tensor that is not finite and the first of its tokens that is not.

    part      "prompt" or "response", in which the token is at `position`; "" of a tensor without tokens
    """

    tensor: str
    part: str = ""
    position: int = 0
    token_id: int | None = None


@dataclass
class _Records:
    """What hooks see: (name, bool [R, S]) of every hidden state, and of its gradient, in the order of computation; and
    the last hidden states [R, S, H] of each role."""

    forward: list[tuple[str, Tensor]] = field(default_factory=list)
    backward: list[tuple[str, Tensor]] = field(default_factory=list)
    final: dict[str, Tensor] = field(default_factory=dict)


def trace_batch(
    model: PreferenceModel, batch: PreferenceBatch, *, plain_forward: bool, share: float = 1.0
) -> list[Location | None]:
    """The first tensor of each of the N responses that is not finite, forward and backward; None where all are.

    Each response has a row of its own. The gradients of `share` times the loss are added to those that are there.

    plain_forward  whether models are called in full, as `PreferenceModel.uses_plain_forward` said in training
    """
    model._choice.uses_plain_forward = plain_forward
    layout = Layout.two_rows(batch)
    with _recording(model) as records:
        output = model._output(layout, batch)
        (output.loss * share).backward()  # type: ignore[no-untyped-call]
    prompts = batch.prompt_mask.sum(-1).tolist()
    locations: list[Location | None] = []
    stages = [
        *(_in_rows(layout, name, bad, prompts) for name, bad in records.forward),
        *([] if plain_forward else [_in_tokens(output, name, bad) for name, bad in _logits(model, layout, records)]),
        *_objective_stages(output),
        *(_in_rows(layout, f"gradient of {name}", bad, prompts) for name, bad in records.backward),
    ]
    for response in range(2 * batch.pairs):
        locations.append(next((stage[response] for stage in stages if response in stage), None))
    return locations


def trace_gradients(model: PreferenceModel, batch: PreferenceBatch) -> list[Location | None]:
    """The first parameter, in the order of backward, in which the gradient of each of the B pairs alone is not finite.
    Drops the gradients."""
    locations: list[Location | None] = []
    for pair in range(batch.pairs):
        model.zero_grad()
        fields = {name: value[pair : pair + 1] for name, value in batch.as_mapping().items()}
        alone = PreferenceBatch.from_mapping(fields)
        model._output(Layout.two_rows(alone), alone).loss.backward()  # type: ignore[no-untyped-call]
        gradients = [(name, weight.grad) for name, weight in model.named_parameters() if weight.grad is not None]
        broken = [name for name, gradient in reversed(gradients) if not bool(gradient.isfinite().all())]
        locations.append(Location(f"gradient of {broken[0]}") if broken else None)
    model.zero_grad()
    return locations


@contextmanager
def _recording(model: PreferenceModel) -> Iterator[_Records]:
    """Hooks on embeddings, layers and backbones of both models; a reference runs without gradient."""
    records = _Records()
    with ExitStack() as hooks:
        for lm in {id(causal_lm(lm)): causal_lm(lm) for lm in (model.policy, model.reference or model.policy)}.values():
            body = backbone(lm)
            layers = _layers(body, lm.config.get_text_config().num_hidden_layers)
            names = {lm.get_input_embeddings(): "embeddings", body: "last hidden states"}
            names |= {layer: f"layer {number} of {len(layers)}" for number, layer in enumerate(layers, start=1)}
            for module, name in names.items():
                hook = module.register_forward_hook(partial(_record, records, name))
                hooks.callback(hook.remove)
        yield records


def _record(records: _Records, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    role = "policy" if torch.is_grad_enabled() else "reference"
    states = getattr(output, "last_hidden_state", output)
    states = states[0] if isinstance(states, tuple) else states
    if not isinstance(states, Tensor) or states.ndim != 3:
        return
    records.forward.append((f"{role} {name}", ~states.detach().isfinite().all(-1)))
    if name == "last hidden states":
        records.final[role] = states.detach()
    if states.requires_grad:

        def record_gradient(gradient: Tensor) -> None:
            records.backward.append((f"{role} {name}", ~gradient.isfinite().all(-1)))

        states.register_hook(record_gradient)  # type: ignore[no-untyped-call]


def _layers(body: nn.Module, number: int) -> list[nn.Module]:
    """The stack of layers; empty where the model has it in another form than one list."""
    stacks = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == number]
    return list(stacks[0]) if stacks else []


@torch.no_grad()
def _logits(model: PreferenceModel, layout: Layout, records: _Records) -> Iterator[tuple[str, Tensor]]:
    """(name, bool [N, T]) of the logits that predict each response token: NaN or +infinity, as -infinity excludes."""
    heads = {
        "reference": lambda: model.reference_scorer.head(model.policy),
        "policy": lambda: Head.from_model(causal_lm(model.policy)),
    }
    for role, states in records.final.items():
        hidden = layout.gather(states[:, -layout.width :], layout.query_positions)
        bad = [(logits.isnan() | logits.isposinf()).any(-1) for logits in heads[role]().logit_chunks(hidden)]
        yield f"{role} logits", layout.scatter(torch.cat(bad))


def _objective_stages(output: ObjectiveOutput) -> Iterator[dict[int, Location]]:
    tokens = output.tokens
    log_ratios = tokens.logps - tokens.ref_logps
    by_token = {"reference logps": tokens.ref_logps, "policy logps": tokens.logps, "log-ratios": log_ratios}
    by_token |= {"divergence": tokens.divergence, "weights": output.weights}  # type: ignore[dict-item]
    by_token |= {"divergence weights": output.divergence_weights}  # type: ignore[dict-item]
    for name, values in by_token.items():
        if values is not None:
            yield _in_tokens(output, name, ~values.isfinite())
    for name, numbers in {"rewards": output.rewards, "losses": output.losses.repeat(2)}.items():
        yield {response: Location(name) for response in (~numbers.isfinite()).nonzero()[:, 0].tolist()}


def _in_tokens(output: ObjectiveOutput, name: str, bad: Tensor) -> dict[int, Location]:
    """Response -> the first token [N, T] that is bad."""
    places = (bad & output.tokens.mask).nonzero().tolist()
    token_ids = output.tokens.token_ids
    return {r: Location(name, "response", step, int(token_ids[r, step])) for r, step in reversed(places)}


def _in_rows(layout: Layout, name: str, bad: Tensor, prompts: list[int]) -> dict[int, Location]:
    """Response -> the first position [R, S] of its row that is bad, of a model's row that an adapter may begin."""
    locations = {}
    places = (bad[:, -layout.width :] & layout.attention_mask.bool()).nonzero().tolist()
    for response, position in reversed(places):
        prompt = prompts[response % len(prompts)]
        part, step = ("prompt", position) if position < prompt else ("response", position - prompt)
        locations[response] = Location(name, part, step, int(layout.input_ids[response, position]))
    return locations
