"""What two models, or one behind two prompts, say of the tokens of responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefopt import ObjectiveConfig, PreferenceBatch
from prefopt.scoring import PreferenceModel
from prefopt_tis.encode import Question

__all__ = ["LogRatios", "Scorer", "scoring"]

LogRatios = tuple[list[float], list[float]]
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
    def __call__(self, questions: Sequence[Question]) -> list[LogRatios]:
        """The log-ratios of each, with 0 for tokens that training cuts off. Raises FloatingPointError where one is not
        finite."""
        positive, negative = (self._logps(questions, side) for side in (0, 1))
        mask = positive[1]
        log_ratios = torch.where(mask, positive[0] - negative[0], 0).double()
        if not log_ratios.isfinite().all():
            raise FloatingPointError("a log-ratio that is not finite; load the models with --dtype float32")
        rows = [row[kept].tolist() for row, kept in zip(log_ratios.cpu(), mask.cpu(), strict=True)]
        sizes = [(question.chosen_size, question.rejected_size) for question in questions]
        sides = zip(rows[: len(questions)], rows[len(questions) :], strict=True)
        return [
            (_whole(chosen, whole[0]), _whole(rejected, whole[1]))
            for (chosen, rejected), whole in zip(sides, sizes, strict=True)
        ]

    def _logps(self, questions: Sequence[Question], side: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens and their mask, both [N, T]."""
        model = (self.positive, self.negative)[side]
        batch = PreferenceBatch.from_ids(
            [question.prompts[side] for question in questions],
            [question.chosen for question in questions],
            [question.rejected for question in questions],
            pad_token_id=self.pad_token_id,
        )
        tokens = model.score(batch.to(next(model.parameters()).device))
        return tokens.logps.float(), tokens.mask


def _whole(numbers: Sequence[float], size: int) -> list[float]:
    # Seven digits are all that float32 holds.
    return [*(float(f"{number:.7g}") for number in numbers), *[0.0] * (size - len(numbers))]
