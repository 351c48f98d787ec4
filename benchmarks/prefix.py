"""What it saves that a pair shares a row: time and peak memory of a step, sharing always or never.

python benchmarks/prefix.py [OUT.md]

Random weights in the shape of Pythia 14M, on one CPU thread. The two ways take turns within a process, and what is
reported is the median over turns of the ratio of their CPU times. Peak memory is that of a process of its own, above
what it had before its step.
"""

from __future__ import annotations

import copy
import datetime
import platform
import random
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import prefopt.scoring.model as scoring
from prefopt import PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel

VOCABULARY, HIDDEN, LAYERS, HEADS = 50304, 128, 6, 4
PAIRS = 8
LENGTHS = ((192, 64), (96, 160), (32, 224))
OBJECTIVES = ("dpo", "tdpo2")
TURNS = 5

saves_work = scoring.saves_work


def model_of(objective: str) -> PreferenceModel:
    torch.manual_seed(0)
    reference = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * HIDDEN,
        )
    )
    return PreferenceModel(copy.deepcopy(reference), reference, zoo.build(objective))


def batch_of(prompt: int, response: int) -> PreferenceBatch:
    draw = random.Random(0)
    texts = [
        [[draw.randrange(1, VOCABULARY) for _ in range(length)] for _ in range(PAIRS)]
        for length in (prompt, response, response)
    ]
    return PreferenceBatch.from_ids(*texts, pad_token_id=0)


def step(model: PreferenceModel, batch: PreferenceBatch, shared: bool) -> float:
    """CPU seconds of a forward and backward pass."""
    scoring.saves_work = lambda *_: shared  # sharing is chosen by the work it saves; here it is measured both ways
    start = time.thread_time()
    model(batch).loss.backward()
    taken = time.thread_time() - start
    model.zero_grad()
    return taken


def resident(name: str) -> float:
    """MiB of this process's memory, as Linux tells: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def peak(objective: str, prompt: int, response: int, shared: bool) -> float:
    """MiB of a step in this process, above what was there before."""
    model, batch = model_of(objective), batch_of(prompt, response)
    small = batch_of(2, 2)
    step(model, small, shared)  # the proof, and gradients' buffers
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    step(model, batch, shared)
    return resident("VmHWM") - before


def line(objective: str, prompt: int, response: int) -> str:
    model, batch = model_of(objective), batch_of(prompt, response)
    model.score(batch)
    rule = saves_work(scoring.Layout.shared(batch), scoring.Layout.of(batch), HIDDEN)
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(TURNS):
        for shared in (False, True) if turn % 2 else (True, False):
            times[shared].append(step(model, batch, shared))
    ratio = statistics.median(one / two for one, two in zip(times[True], times[False], strict=True))
    peaks = {}
    for shared in (False, True):
        arguments = [objective, str(prompt), str(response), str(int(shared))]
        done = subprocess.run(
            [sys.executable, __file__, "peak", *arguments], capture_output=True, text=True, check=True
        )
        peaks[shared] = float(done.stdout)
    return (
        f"| {objective} | {prompt} + {response} | {min(times[False]):.2f} | {min(times[True]):.2f} | {ratio:.2f} | "
        f"{peaks[False]:.0f} | {peaks[True]:.0f} | {'one row' if rule else 'two rows'} |"
    )


def main(out: str | None = None) -> None:
    text = [
        "# Pairs that share a row",
        "",
        f"{datetime.date.today()}. {platform.machine()} CPU, one thread, float32. prefopt {version('prefopt')}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}. `python benchmarks/prefix.py`: {PAIRS} pairs, "
        f"random weights in the shape of Pythia 14M, SDPA, {TURNS} turns. Seconds are CPU seconds of the fastest "
        "step; the ratio is the median over turns, one row against two; MiB are above what the process had before.",
        "",
        "| objective | prompt + response | two rows, s | one row, s | ratio | two rows, MiB | one row, MiB | chosen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for prompt, response in LENGTHS:
        for objective in OBJECTIVES:
            text.append(line(objective, prompt, response))
            print(text[-1], flush=True)
    if out is not None:
        Path(out).write_text("\n".join([*text, ""]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["peak"]:
        objective, *numbers = sys.argv[2:]
        prompt, response, shared = map(int, numbers)
        print(peak(objective, prompt, response, bool(shared)))
    else:
        main(*sys.argv[1:])
