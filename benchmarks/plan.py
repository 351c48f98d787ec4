"""How near the plan of a step comes to what the step takes: predicted and measured memory.

python -m benchmarks.plan [OUT.md]

A Llama with random weights in float32. What is measured is the highest resident memory during one forward and backward
pass, over that of the same process after a small one: weights and gradients are there by then.
"""

from __future__ import annotations

import copy
import datetime
import gc
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.machine import memory_mib, reset_peak_memory
from benchmarks.markdown import row, table
from prefopt import PreferenceBatch, zoo
from prefopt.scoring import PreferenceModel
from prefopt.scoring.step_cost import plan_step

VOCABULARY, HIDDEN, LAYERS = 50_000, 256, 6
CASES = (
    ("dpo", 192, 64, 4),
    ("tdpo2", 192, 64, 4),
    ("sparsepo", 192, 64, 4),
    ("sparsepo", 32, 224, 4),
    ("dpo", 32, 224, 8),
)


def batch_of(prompt: int, response: int, pairs: int) -> PreferenceBatch:
    draw = torch.Generator().manual_seed(1)

    def ids(length: int) -> list[list[int]]:
        return torch.randint(VOCABULARY, (pairs, length), generator=draw).tolist()

    return PreferenceBatch.from_ids(ids(prompt), ids(response), ids(response), pad_token_id=0)


def measure(objective: str, prompt: int, response: int, pairs: int) -> None:
    """Print predicted and measured MiB; one process, one case."""
    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 688, "num_hidden_layers": LAYERS, "num_attention_heads": 8}
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))
    model = PreferenceModel(policy, copy.deepcopy(policy), zoo.ZOO[objective]())
    batch = batch_of(prompt, response, pairs)
    predicted = plan_step(model, batch).bytes
    model(batch_of(1, 1, 1)).loss.backward()
    gc.collect()
    before = memory_mib("VmRSS")
    reset_peak_memory()
    model(batch).loss.backward()
    print(predicted / 2**20, memory_mib("VmHWM") - before)


def main() -> None:
    lines = [
        "# Predicted and measured memory of a step",
        "",
        f"{datetime.date.today()}. torch {version('torch')}, transformers {version('transformers')}, float32, CPU. "
        f"Llama with random weights: hidden size {HIDDEN}, {LAYERS} layers, vocabulary {VOCABULARY:,}. "
        "`python -m benchmarks.plan`",
        "",
        *table(["objective", "prompt + response", "pairs", "predicted MiB", "measured MiB", "ratio"]),
    ]
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.plan", "--one", *map(str, case)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        predicted, measured = map(float, done.stdout.split())
        objective, prompt, response, pairs = case
        figures = [f"{predicted:.0f}", f"{measured:.0f}", f"{predicted / measured:.2f}"]
        lines.append(row([objective, f"{prompt} + {response}", pairs, *figures]))
    text = "\n".join(lines) + "\n"
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
