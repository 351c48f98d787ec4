"""What a demo run found, as one record: results.json holds it, and the page and the table are made of it alone."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from prefopt.comparison.statistics import Interval
from prefopt.demo.config import DemoConfig

__all__ = ["Completion", "DemoResults", "Measured", "Response", "TokenWeight", "WeighedPair"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Response(_Record):
    """A held-out response, token by token: its text, the weights w and v (None without a divergence term), and whether
    the token belongs to a sentiment word; with its trained reward."""

    pieces: list[str]
    weights: list[float]
    divergence_weights: list[float] | None
    sentiment: list[bool]
    reward: float


class WeighedPair(_Record):
    """A held-out pair as a trained objective sees it."""

    prompt: str
    chosen: Response
    rejected: Response


class TokenWeight(_Record):
    """The mean of w over the occurrences of a token in held-out pairs; sign is that of the word, +1, -1 or 0."""

    text: str
    weight: float
    count: int
    sign: int


class Completion(_Record):
    """A model's first completion of a held-out prompt, and its score."""

    text: str
    score: float


class Measured(_Record):
    """A model, measured. What is not defined for it, such as the divergence of the reference from itself, is None.

    reward           mean score of samples on held-out prompts; the interval is a bootstrap over prompts
    sequence_kl      KL(policy || reference) of a sample, in nats: exact at each token, summed over the sample
    length           mean tokens of a sample
    accuracy         share of held-out pairs whose chosen response has the higher trained reward
    weight_mean, weight_sparsity                        of w over the tokens of held-out pairs: mean, share of zeros
    divergence_weight_mean, divergence_weight_sparsity  of v
    auroc            of w for telling tokens of sentiment words from other tokens; 0.5 knows nothing
    curves           by metric: (step, value)
    heaviest, pairs  of learned weights: the tokens with the largest mean w, and a few pairs in full
    """

    name: str
    reward: Interval
    length: float
    completions: list[Completion]
    sequence_kl: Interval | None = None
    accuracy: float | None = None
    weight_mean: float | None = None
    weight_sparsity: float | None = None
    divergence_weight_mean: float | None = None
    divergence_weight_sparsity: float | None = None
    auroc: float | None = None
    objective: dict[str, object] | None = None
    curves: dict[str, list[tuple[int, float]]] = {}
    heaviest: list[TokenWeight] = []
    pairs: list[WeighedPair] = []


class DemoResults(_Record):
    """The whole run. `models` holds the reference first; prompts are those of its completions; seconds are by stage."""

    config: DemoConfig
    command: str
    versions: dict[str, str]
    seconds: dict[str, float]
    train_pairs: int
    held_out_pairs: int
    prompts: list[str]
    models: list[Measured]
