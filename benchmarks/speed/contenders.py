"""The contenders, by name; whose loss and gradients must agree; and what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from benchmarks.speed.contender import Entry
from benchmarks.speed.floor import floor
from benchmarks.speed.liger import liger
from benchmarks.speed.naive import naive
from benchmarks.speed.ours import cached, ours
from benchmarks.speed.setting import BETA
from benchmarks.speed.trl_dpo import trl_dpo
from prefopt import zoo

__all__ = ["CONTENDERS", "GROWTH", "SAME", "TARGETS", "Target"]

CONTENDERS: Mapping[str, Entry] = MappingProxyType(
    {
        "dpo": Entry(ours(zoo.dpo(BETA)), "prefopt, `zoo.dpo()`"),
        "tdpo2": Entry(ours(zoo.tdpo2(BETA)), "prefopt, `zoo.tdpo2()`"),
        "sparsepo": Entry(ours(zoo.sparsepo(BETA, shared=False)), "prefopt, `zoo.sparsepo(shared=False)`: two masks"),
        "sparsepo, cached": Entry(
            cached(zoo.sparsepo(BETA, shared=False)), "the same in later epochs, the reference cache filled"
        ),
        "mapo": Entry(ours(zoo.mapo(BETA)), "prefopt, `zoo.mapo()`"),
        "trl": Entry(trl_dpo(precomputed=False), "TRL's DPOTrainer, float32, no checkpointing", whole_logits=7),
        "trl, precomputed": Entry(
            trl_dpo(precomputed=True),
            "the same with `precompute_ref_log_probs`: the pass that computes them is not in the step",
            whole_logits=7,
        ),
        "liger": Entry(liger, "Liger's chunked DPO, not compiled, given the response positions only"),
        "naive": Entry(naive, "SparsePO with two masks as the published code computes it", whole_logits=8),
        "floor": Entry(floor, "matrix products only: each distinct token once, heads on response tokens"),
    }
)

SAME = (
    ("dpo", "trl"),
    ("dpo", "trl, precomputed"),
    ("dpo", "liger"),
    ("sparsepo", "naive"),
    ("sparsepo", "sparsepo, cached"),
)
"""Pairs of contenders that compute the same thing."""

GROWTH = ("sparsepo", "naive", "trl", "floor")
"""Those that are followed over lengths and vocabularies."""


@final
@dataclass(frozen=True)
class Target:
    """The most that `contender` may take, as a share of what `against` takes; `shape` None is every shape."""

    contender: str
    against: str
    shape: str | None
    time: float
    memory: float | None = None


TARGETS = (
    Target("sparsepo", "naive", "192+64", 0.35, 0.25),
    Target("sparsepo", "naive", "32+224", 0.80, 0.25),
    Target("sparsepo", "trl", "192+64", 0.50, 0.50),
    Target("sparsepo", "trl", "32+224", 1.00, 0.60),
    Target("sparsepo", "liger", "192+64", 0.75),
    Target("sparsepo", "floor", None, 1.05, 1.10),
    Target("sparsepo", "dpo", None, 1.10),
    Target("sparsepo, cached", "sparsepo", None, 0.80),
)
