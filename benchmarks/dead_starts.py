"""How often a mask starts with all weights zero on some response, where no gradient may ever reach it again.

python -m benchmarks.dead_starts [OUT.md]

A small GPT-2 with random weights reads random responses; of each setting, 100 seeds of the mask, in evaluation.
"""

from __future__ import annotations

import datetime
import platform
import random
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.markdown import row, table
from prefopt import PreferenceBatch, TokenBatch
from prefopt.divergences import ForwardKL
from prefopt.objective_config import DivergenceTerm, ObjectiveConfig
from prefopt.scoring import PreferenceModel
from prefopt.weightings import SparseWeighting

SEEDS = 100
VOCABULARY, HIDDEN, LAYERS = 500, 64, 4
PAIRS, SHORTEST, LONGEST = 16, 4, 32


def tokens() -> TokenBatch:
    """What the model says of the responses, with its states at both positions."""
    torch.manual_seed(0)
    shape = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
    config = GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **shape)
    model = GPT2LMHeadModel(config).requires_grad_(False)
    divergence = DivergenceTerm(measure=ForwardKL(), weighting=SparseWeighting(position="token"))
    objective = ObjectiveConfig(weighting=SparseWeighting(), divergence=divergence)
    draw = random.Random(0)

    def texts(low: int, high: int) -> list[list[int]]:
        return [[draw.randrange(VOCABULARY) for _ in range(draw.randint(low, high))] for _ in range(PAIRS)]

    batch = PreferenceBatch.from_ids(texts(4, 8), texts(SHORTEST, LONGEST), texts(SHORTEST, LONGEST), pad_token_id=0)
    with torch.no_grad():
        return PreferenceModel(model, model, objective).score(batch)


def settings() -> Iterator[dict[str, Any]]:
    for init in get_args(SparseWeighting.model_fields["init"].annotation):
        for gate in get_args(SparseWeighting.model_fields["gate"].annotation):
            yield {"gate": gate, "init": init}
    for layers in ("last", (2, 3)):
        yield {"gate": "relu", "init": "published", "layers": layers}
    for init in ("published", "near_one"):
        yield {"gate": "relu", "init": init, "architecture": "two_layer"}


@torch.no_grad()
def line(fields: dict[str, Any], batch: TokenBatch) -> str:
    shares, means = [], []
    for position in ("predicting", "token"):
        some = every = 0
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            weighting = SparseWeighting(position=position, **fields)
            weights = weighting.build(num_layers=LAYERS, hidden_size=HIDDEN).eval()(batch)
            dead = ~weights.any(-1)
            some += bool(dead.any())
            every += bool(dead.all())
            means.append(float(weights[batch.mask].mean()))
        shares += [some, every]
    values = [str(fields.get(name, SparseWeighting.model_fields[name].default)) for name in COLUMNS]
    return row([*values, *shares, f"{sum(means) / len(means):.3f}"])


COLUMNS = ("gate", "init", "layers", "architecture")


def main(out: str | None = None) -> None:
    text = [
        "# Dead starts",
        "",
        f"{datetime.date.today()}. {platform.machine()} CPU, float32. prefopt {version('prefopt')}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}. `python -m benchmarks.dead_starts`: of {SEEDS} "
        f"seeds of the mask, how many give all-zero weights on some of {2 * PAIRS} random responses of {SHORTEST} to "
        f"{LONGEST} tokens, and on all of them, in evaluation, by the position whose states are read. The reference is "
        f"a GPT-2 with random weights, {LAYERS} layers, {HIDDEN} hidden units. The mean weight is over tokens, seeds "
        "and positions. A scale divides weights that are not all zero, so it changes no number here but the mean.",
        "",
        *table([*COLUMNS, "predicting: some", "all", "token: some", "all", "mean weight"]),
    ]
    batch = tokens()
    for fields in settings():
        text.append(line(fields, batch))
        print(text[-1], flush=True)
    if out is not None:
        Path(out).write_text("\n".join([*text, ""]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
