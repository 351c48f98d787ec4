"""A comparison without training: the folder of a suite whose records are made up, of every kind that a report shows."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefopt.comparison.controls import controls, masked
from prefopt.comparison.run import Run
from prefopt.comparison.run_log import RUNS, RunLog
from prefopt.comparison.suite import SUITE, Suite

SUITE_OF_MASKS: dict[str, Any] = {
    "task": {"name": "planted", "pairs": 16, "held_out": 6, "prompts": 24},
    "objectives": {
        "dpo": "dpo",
        "tdpo1": "tdpo1",
        "sparsepo": {"zoo": "sparsepo", "shared": True},
        "two masks": {"zoo": "sparsepo", "shared": False},
    },
    "sweeps": {"objective.beta": [0.1, 0.3, 1.0]},
    "seeds": [0, 1, 2],
}
_WORTH = {"dpo": 3.0, "tdpo1": 3.0, "sparsepo": 3.3, "two masks": 4.2}
_WORDS = "the quiet river ran past an old mill and no one saw it go".split()


def made(folder: Path, *, fail: str | None = None, **changes: Any) -> Suite:
    """Write suite.yaml and runs.jsonl; `fail` names an objective whose runs of the last seed fail."""
    suite = Suite.model_validate(SUITE_OF_MASKS | changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUITE).write_text(suite.to_yaml(), encoding="utf-8")
    log = RunLog(folder / RUNS)
    for run in suite.runs():
        log.add(_record(run, failed=run.name == fail and run.seed == suite.seeds[-1]))
    for run in list(controls(suite, log.records)):
        log.add(_record(run, failed=False))
    return suite


def _record(run: Run, *, failed: bool) -> dict[str, Any]:
    record = {
        "key": run.key,
        "name": run.name,
        "setting": dict(run.setting),
        "seed": run.seed,
        "configuration": run.configuration,
        "versions": {"python": "3.11"},
        "components": {},
        "error": "RuntimeError: out of <luck> & memory" if failed else None,
        "traceback": "Traceback ...\nRuntimeError: out of <luck> & memory" if failed else None,
        "peak_memory_mib": None if failed else 512.5,
        "seconds": {}
        if failed
        else {"material": 1.0, "training": 60.0, "held_out": 1.5, "sampling": 3.0, "judging": 1.0},
    }
    parts = ("values", "samples", "curves", "profiles")
    return record | ({**{part: {} for part in parts}, "heat_maps": []} if failed else dict(_measured(run)))


def _measured(run: Run) -> Iterator[tuple[str, Any]]:
    draw = random.Random(f"{run.name} {run.setting} {run.seed}")
    objective = run.control or run.name
    beta = float(run.setting.get("objective.beta", math.inf))
    mask = 0.2 + 0.3 * beta if run.objective is not None and masked(run.objective) else 1.0
    kl = 0.0 if run.objective is None else 4 / beta**0.7 * draw.uniform(0.9, 1.1)
    worth = _WORTH["dpo"] if run.control or run.objective is None else _WORTH.get(objective, 3.5)
    items = {f"word {n} of prompt": 0.3 * math.sin(n) for n in range(24)}
    has_v = run.objective is not None and run.objective.divergence is not None
    v = mask * (0.5 if objective == "two masks" else 1.0)
    pairs = range(6)

    def by_pair(mean: float, spread: float = 0.02) -> dict[str, float]:
        return {f"pair {n}": mean if mean in (0.0, 1.0) else mean + draw.gauss(0, spread) for n in pairs}

    yield (
        "values",
        {
            "reward": {n: worth * (1 - math.exp(-kl / 6)) + at + draw.gauss(0, 0.2) for n, at in items.items()},
            "sequence_kl": {n: kl and kl * draw.uniform(0.8, 1.2) for n in items},
            "tokens": {n: 20 + draw.gauss(0, 2) for n in items},
            "accuracy": {f"pair {n}": float(draw.random() < 0.5 + 0.04 * kl) for n in pairs},
            "mean_w": by_pair(mask),
            "sparsity_w": by_pair(0.0 if mask == 1 else 1 - mask),
        }
        | ({"mean_v": by_pair(v), "sparsity_v": by_pair(0.0 if v == 1 else 1 - v)} if has_v else {}),
    )
    text = " ".join(draw.choice(_WORDS) for _ in range(20))
    yield "samples", {f"Prompt {n}: go on </script>": [f"{text} {n} <b>bold</b>", "another"] for n in range(3)}
    trained = run.objective is not None
    steps = [(step, math.exp(-step / 40)) for step in range(10, 101, 10)] if trained else []
    yield (
        "curves",
        {
            "loss": [(step, 0.3 + 0.4 * left + draw.gauss(0, 0.01)) for step, left in steps],
            "rewards/margins": [(step, 2 * (1 - left) * beta + draw.gauss(0, 0.02)) for step, left in steps],
            "weights/mean": [(step, mask) for step, _ in steps],
            "divergence_weights/mean": [(step, v) for step, _ in steps] if has_v else [],
        },
    )
    yield (
        "profiles",
        {
            f"divergence/{side}": [kl * more * math.exp(-t / 12) / 10 for t in range(24 + run.seed)]
            for side, more in (("chosen", 0.8), ("rejected", 1.2))
        },
    )
    sides = [_sides(random.Random(f"{run.seed} {n}"), draw, mask, v if has_v else None) for n in range(4)]
    yield "heat_maps", [{"prompt": f"Tell me a story {n}", **pair} for n, pair in enumerate(sides)]


def _sides(words: random.Random, draw: random.Random, w: float, v: float | None) -> dict[str, Any]:
    def side() -> dict[str, Any]:
        tokens = [" " + words.choice(_WORDS) for _ in range(22)] + [" <script>alert(1)</script>"]

        def weights(mean: float) -> list[float]:
            return [1.0 if mean == 1 else draw.choice([0.0, draw.uniform(0, 2 * mean)]) for _ in tokens]

        return {
            "tokens": tokens,
            "marked": [index % 5 == 0 for index in range(len(tokens))],
            "w": weights(w),
            "v": None if v is None else weights(v),
            "divergence": [draw.expovariate(8) for _ in tokens],
            "log_ratio": [draw.gauss(0, 0.4) for _ in tokens],
        }

    return {"chosen": side(), "rejected": side()}
