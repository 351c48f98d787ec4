"""What it saves that pairs share rows: time and peak memory of a step, in one row a pair or in two, and in rows that
several pairs of different lengths share.

python -m benchmarks.prefix [OUT.md]

Random weights in the shape of Pythia 14M, on one CPU thread. The ways take turns within a process, and what is
reported is the median over turns of the ratio of their CPU times. Peak memory is that of a process of its own, above
what it had before its step.
"""

from __future__ import annotations

import copy
import datetime
import math
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from benchmarks.machine import memory_mib, reset_peak_memory
from benchmarks.markdown import row, table
from prefopt import PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.rows import limits
from prefopt.scoring.rows.layout import Layout
from prefopt.scoring.rows.packing import Placement, least_work, one_per_row

VOCABULARY, HIDDEN, LAYERS, HEADS = 50304, 128, 6, 4
PAIRS = 8
LENGTHS = ((192, 64), (96, 160), (32, 224))
MIXED = (((16, 256), (8, 64)), ((16, 256), (16, 256)), ((8, 64), (16, 256)))
"""Ranges of the lengths of prompts and responses."""
OBJECTIVES = ("dpo", "tdpo2")
_BOTH = ("two rows, s", "one row, s")
COLUMNS = ("objective", "prompt + response", *_BOTH, "ratio", "two rows, MiB", "one row, MiB", "chosen")
MIXED_COLUMNS = ("prompt + response", "vocabulary", *_BOTH, "packed, s", "packed / one", "packed / two")
SMALL_VOCABULARY = 2048
TURNS = 5

saves_work = limits.saves_work
Lengths = list[tuple[int, int, int]]
Choice = Callable[[Sequence[int], int, float], Placement]
WAYS: dict[str, tuple[bool, Choice]] = {
    "two rows": (False, least_work),
    "one row": (True, lambda lengths, *_: one_per_row(len(lengths))),
    "packed": (True, least_work),
}


def model_of(objective: str, vocabulary: int = VOCABULARY) -> PreferenceModel:
    torch.manual_seed(0)
    reference = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * HIDDEN,
        )
    )
    return PreferenceModel(copy.deepcopy(reference), reference, zoo.build(objective))


def alike(prompt: int, response: int) -> Lengths:
    return [(prompt, response, response)] * PAIRS


def mixed(prompts: tuple[int, int], responses: tuple[int, int]) -> Lengths:
    """Drawn so that a length is as likely to be above the range's geometric mean as below."""
    draw = random.Random(0)

    def length(shortest: int, longest: int) -> int:
        return round(math.exp(draw.uniform(math.log(shortest), math.log(longest))))

    return [(length(*prompts), length(*responses), length(*responses)) for _ in range(PAIRS)]


def batch_of(lengths: Lengths, vocabulary: int = VOCABULARY) -> PreferenceBatch:
    draw = random.Random(0)
    texts = [[[draw.randrange(1, vocabulary) for _ in range(n)] for n in side] for side in zip(*lengths, strict=True)]
    return PreferenceBatch.from_ids(*texts, pad_token_id=0)


def step(model: PreferenceModel, batch: PreferenceBatch, way: str) -> float:
    """CPU seconds of a forward and backward pass."""
    shared, places = WAYS[way]
    # The rows are chosen by the work that they save; here they are given.
    vars(limits).update(saves_work=lambda *_: shared, least_work=places)
    start = time.thread_time()
    model(batch).loss.backward()
    taken = time.thread_time() - start
    model.zero_grad()
    return taken


def timed(model: PreferenceModel, batch: PreferenceBatch, ways: tuple[str, ...]) -> dict[str, list[float]]:
    step(model, batch, ways[0])  # the verification
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(TURNS):
        for way in ways if turn % 2 else ways[::-1]:
            times[way].append(step(model, batch, way))
    return times


def ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(one / two for one, two in zip(ours, theirs, strict=True)):.2f}"


def shape(batch: PreferenceBatch, way: str) -> str:
    if way == "two rows":
        rows = Layout.two_rows(batch)
    else:
        rows = Layout.shared(batch, WAYS[way][1](batch.lengths.tolist(), HIDDEN, math.inf))
    return f"{len(rows.input_ids)} x {rows.width}, {1 - rows.attention_mask.float().mean():.0%}"


def peak(objective: str, prompt: int, response: int, way: str) -> float:
    """MiB of a step in this process, above what was there before."""
    model = model_of(objective)
    step(model, batch_of(alike(2, 2)), way)  # the verification, and gradients' buffers
    reset_peak_memory()
    before = memory_mib("VmRSS")
    step(model, batch_of(alike(prompt, response)), way)
    return memory_mib("VmHWM") - before


def same_lengths_row(objective: str, prompt: int, response: int) -> str:
    batch = batch_of(alike(prompt, response))
    rule = saves_work(Layout.shared(batch).shape, Layout.two_rows(batch).shape, HIDDEN)
    times = timed(model_of(objective), batch, ("two rows", "one row"))
    peak_mib = []
    for way in times:
        arguments = [objective, str(prompt), str(response), way]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.prefix", "peak", *arguments], capture_output=True, text=True, check=True
        )
        peak_mib.append(f"{float(done.stdout):.0f}")
    seconds = [f"{min(taken):.2f}" for taken in times.values()]
    time_ratio = ratio(times["one row"], times["two rows"])
    chosen = "one row" if rule else "two rows"
    return row([objective, f"{prompt} + {response}", *seconds, time_ratio, *peak_mib, chosen])


def mixed_row(prompts: tuple[int, int], responses: tuple[int, int], vocabulary: int) -> str:
    batch = batch_of(mixed(prompts, responses), vocabulary)
    times = timed(model_of("dpo", vocabulary), batch, tuple(WAYS))
    names = [f"{prompts[0]}-{prompts[1]} + {responses[0]}-{responses[1]}", str(vocabulary)]
    cells = [f"{min(taken):.2f} ({shape(batch, way)})" for way, taken in times.items()]
    ratios = [ratio(times["packed"], times[way]) for way in ("one row", "two rows")]
    return row([*names, *cells, *ratios])


def main(out: str | None = None) -> None:
    text = [
        "# Pairs that share a row",
        "",
        f"{datetime.date.today()}. {platform.machine()} CPU, one thread, float32. prefopt {version('prefopt')}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}. `python -m benchmarks.prefix`: {PAIRS} pairs, "
        f"random weights in the shape of Pythia 14M, SDPA, {TURNS} turns. Seconds are CPU seconds of the fastest "
        "step; a ratio is the median over turns; MiB are above what the process had before.",
        "",
        *table(COLUMNS),
    ]

    def add(line: str) -> None:
        text.append(line)
        print(line, flush=True)

    for prompt, response in LENGTHS:
        for objective in OBJECTIVES:
            add(same_lengths_row(objective, prompt, response))
    text += [
        "",
        "Pairs of different lengths, DPO. In brackets: rows x positions, and how much of them is padding.",
        "",
        *table(MIXED_COLUMNS),
    ]
    for prompts, responses in MIXED:
        for vocabulary in (VOCABULARY, SMALL_VOCABULARY):
            add(mixed_row(prompts, responses, vocabulary))
    if out is not None:
        Path(out).write_text("\n".join([*text, ""]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["peak"]:
        objective, prompt, response, way = sys.argv[2:]
        print(peak(objective, int(prompt), int(response), way))
    else:
        main(*sys.argv[1:])
