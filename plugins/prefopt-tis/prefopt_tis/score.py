"""What two models, or one behind two prompts, say of the tokens of responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prefopt import DivergenceTerm, ExactDivergence, ObjectiveConfig, PreferenceBatch
from prefopt.scoring import PreferenceModel
from prefopt_tis.encode import Question

__all__ = ["Contrast", "Numbers", "Scorer", "contrasting", "scoring"]

Numbers = tuple[list[float], list[float]]
"""Of one row, for the chosen response and the rejected one: a number for each token of the whole response."""


def scoring(model: torch.nn.Module) -> PreferenceModel:
    """The model as one that is asked for the log-probabilities of responses and nothing else."""
    return PreferenceModel(model.requires_grad_(False), objective=ObjectiveConfig(reference_free=True))


@dataclass(frozen=True)
class Scorer:
    """x = log(pi+ / pi-) of every token: pi+ is `positive` behind the positive prompt, pi- is `negative` behind the
    other; or sigmoid(x) - 0.5, where `sigmoid` is true.

    The two may be one model.
    """

    positive: PreferenceModel
    negative: PreferenceModel
    pad_token_id: int
    sigmoid: bool = False

    @torch.no_grad()
    def __call__(self, questions: Sequence[Question]) -> list[Numbers]:
        """The numbers of each, with 0 for tokens that training cuts off. Raises FloatingPointError where a log-ratio is
        not finite."""
        positive, negative = (self._logps(questions, side) for side in (0, 1))
        numbers = _of_questions(questions, positive[0] - negative[0], positive[1], "a log-ratio")
        return [(_centred(chosen), _centred(rejected)) for chosen, rejected in numbers] if self.sigmoid else numbers

    def _logps(self, questions: Sequence[Question], side: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens and their mask, both [N, T]."""
        model = (self.positive, self.negative)[side]
        tokens = model.score(_batch(model, questions, side, self.pad_token_id))
        width = int(tokens.mask.sum(-1).max())  # without the room of what is read before the responses
        return tokens.logps[:, :width].float(), tokens.mask[:, :width]


class LogNormaliser(ExactDivergence):
    """D = log sum_v pi_v^(1 + b) / pi_ref,v^b, b = strength: b times the Renyi divergence of order 1 + b of the policy
    from the reference."""

    name: Literal["log_normaliser"] = "log_normaliser"
    strength: float

    def __call__(self, logps: Tensor, ref_logps: Tensor) -> Tensor:
        """logps, ref_logps [..., V] -> [...]."""
        powers = (1 + self.strength) * logps - self.strength * ref_logps
        return torch.where(logps == -torch.inf, -torch.inf, powers).logsumexp(-1)


def contrasting(positive: torch.nn.Module, negative: torch.nn.Module, strength: float) -> PreferenceModel:
    """Both models as one that is asked for log-probabilities and the normaliser of their contrast."""
    term = DivergenceTerm(measure=LogNormaliser(strength=strength))
    return PreferenceModel(positive.requires_grad_(False), negative, objective=ObjectiveConfig(divergence=term))


@dataclass(frozen=True)
class Contrast:
    """s_t of every token: the probability of y_t that is proportional to pi+^(1 + b) / pi-^b, pi+ the policy and pi-
    the reference of `model`, b the strength."""

    model: PreferenceModel
    strength: float
    pad_token_id: int

    @torch.no_grad()
    def __call__(self, questions: Sequence[Question]) -> list[Numbers]:
        """The likelihoods of each, with 0 for tokens that training cuts off. Raises FloatingPointError where one is not
        finite."""
        tokens = self.model.score(_batch(self.model, questions, 0, self.pad_token_id))
        assert tokens.divergence is not None
        powers = (1 + self.strength) * tokens.logps - self.strength * tokens.ref_logps
        # Of a token that has all of the probability, rounding may make a little more than one.
        likelihoods = (powers - tokens.divergence).exp().clamp(max=1)
        return _of_questions(questions, likelihoods, tokens.mask, "a likelihood")


def _centred(log_ratios: Sequence[float]) -> list[float]:
    """sigmoid(x) - 0.5, which is tanh(x / 2) / 2 without the loss of digits near 0."""
    return [_rounded(math.tanh(x / 2) / 2) for x in log_ratios]


def _batch(model: PreferenceModel, questions: Sequence[Question], side: int, pad_token_id: int) -> PreferenceBatch:
    # What a prompt has of its own the models only read, as they do turns of others within a response.
    asked = [(question.prompts[side], question) for question in questions]
    batch = PreferenceBatch.from_ids(
        [prompts.shared for prompts, _ in asked],
        [prompts.chosen + question.chosen for prompts, question in asked],
        [prompts.rejected + question.rejected for prompts, question in asked],
        pad_token_id=pad_token_id,
        chosen_masked=[range(len(prompts.chosen)) for prompts, _ in asked],
        rejected_masked=[range(len(prompts.rejected)) for prompts, _ in asked],
    )
    return batch.to(next(model.parameters()).device)


def _of_questions(questions: Sequence[Question], values: Tensor, mask: Tensor, what: str) -> list[Numbers]:
    """values, mask [N, T] as numbers for every token of the whole responses."""
    numbers = torch.where(mask, values, 0).double()
    if not numbers.isfinite().all():
        raise FloatingPointError(f"{what} that is not finite; load the models with --dtype float32")
    rows = [row[kept].tolist() for row, kept in zip(numbers.cpu(), mask.cpu(), strict=True)]
    sides = zip(questions, rows[: len(questions)], rows[len(questions) :], strict=True)
    return [(_whole(chosen, q.chosen_size), _whole(rejected, q.rejected_size)) for q, chosen, rejected in sides]


def _whole(numbers: Sequence[float], size: int) -> list[float]:
    return [*map(_rounded, numbers), *[0.0] * (size - len(numbers))]


def _rounded(number: float) -> float:
    # Seven digits are all that float32 holds.
    return float(f"{number:.7g}")
