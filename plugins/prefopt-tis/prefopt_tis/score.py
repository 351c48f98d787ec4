"""What two models, or one behind two prompts, say of the tokens of responses."""

from __future__ import annotations

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
    """log(pi+ / pi-) of every token: pi+ is `positive` behind the positive prompt, pi- is `negative` behind the other.

    The two may be one model.
    """

    positive: PreferenceModel
    negative: PreferenceModel
    pad_token_id: int

    @torch.no_grad()
    def __call__(self, questions: Sequence[Question]) -> list[Numbers]:
        """The log-ratios of each, with 0 for tokens that training cuts off. Raises FloatingPointError where one is not
        finite."""
        positive, negative = (self._logps(questions, side) for side in (0, 1))
        return _of_questions(questions, positive[0] - negative[0], positive[1], "a log-ratio")

    def _logps(self, questions: Sequence[Question], side: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens and their mask, both [N, T]."""
        model = (self.positive, self.negative)[side]
        tokens = model.score(_batch(model, questions, side, self.pad_token_id))
        return tokens.logps.float(), tokens.mask


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


def _batch(model: PreferenceModel, questions: Sequence[Question], side: int, pad_token_id: int) -> PreferenceBatch:
    batch = PreferenceBatch.from_ids(
        [question.prompts[side] for question in questions],
        [question.chosen for question in questions],
        [question.rejected for question in questions],
        pad_token_id=pad_token_id,
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
    # Seven digits are all that float32 holds.
    return [*(float(f"{number:.7g}") for number in numbers), *[0.0] * (size - len(numbers))]
