"""What it costs to judge a step's numbers: steps of one run that are judged and steps that are not, turn about.

python -m benchmarks.step_guard [OUT.md]

A Llama with random weights in float32, and pairs of equal lengths. A step that is not judged keeps nothing, checks
nothing and reads nothing; its gradients are clipped all the same.
"""

from __future__ import annotations

import datetime
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from benchmarks.markdown import row, table
from prefopt import zoo
from prefopt.training import PreferenceConfig, PreferenceTrainer

STEPS = 60
WARM_UP = 10
CASES = (("dpo", 64, 5, 512, 8), ("sparsepo", 64, 5, 512, 8), ("sparsepo", 256, 6, 8192, 4))
"""Objective, hidden size, layers, vocabulary, pairs."""
PROMPT, RESPONSE = 60, 40


class TurnAbout(TrainerCallback):
    """Judges every other step, and times all."""

    def __init__(self) -> None:
        self.seconds: tuple[list[float], list[float]] = ([], [])
        self.judging: list[float] = []
        self._before = self._spent = 0.0

    def attach(self, trainer: PreferenceTrainer) -> None:
        guard = trainer._guard
        self._guard = guard
        self._judging = {name: self._timed(getattr(guard, name)) for name in ("on_step_begin", "add", "judge")}
        self._idle = {"on_step_begin": lambda *_, **__: None, "add": lambda *_: None, "judge": lambda norm: norm}
        trainer.add_callback(self)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = time.perf_counter()
            value = method(*args, **kwargs)
            self._spent += time.perf_counter() - before
            return value

        return call

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now, step = time.perf_counter(), state.global_step
        if step > WARM_UP:
            self.seconds[step % 2].append(now - self._before)
            if step % 2:
                self.judging.append(self._spent)
        self._spent = 0.0
        for name, method in (self._judging if step % 2 == 0 else self._idle).items():
            setattr(self._guard, name, method)
        self._before = time.perf_counter()


def ratio(objective: str, hidden: int, layers: int, vocabulary: int, pairs: int) -> tuple[float, float, float]:
    """Milliseconds of a step that is not judged, how many times as long one takes that is, and the judging's share of
    that: medians."""
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, num_attention_heads=8, **sizes))
    words = ["<pad>", "<eos>", *(f"w{index}" for index in range(2, vocabulary))]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")
    draw = random.Random(1)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(2, vocabulary)}" for _ in range(length))

    rows = [
        {"prompt": text(PROMPT), "chosen": f" {text(RESPONSE)}", "rejected": f" {text(RESPONSE)}"}
        for _ in range(16 * pairs)
    ]
    with tempfile.TemporaryDirectory() as folder:
        args = PreferenceConfig(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=pairs,
            logging_steps=STEPS,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        config = zoo.build({"zoo": objective})
        trainer = PreferenceTrainer(model, objective=config, args=args, train_dataset=rows, processing_class=tokenizer)
        turns = TurnAbout()
        turns.attach(trainer)
        trainer.train()
    idle, judged = (statistics.median(seconds) for seconds in turns.seconds)
    return 1000 * idle, judged / idle, statistics.median(turns.judging) / judged


def main() -> None:
    lines = [
        "# What it costs to judge a step's numbers",
        "",
        f"{datetime.date.today()}. torch {version('torch')}, transformers {version('transformers')}, float32, CPU, "
        f"{torch.get_num_threads()} threads. Llama with random weights; prompts of {PROMPT} tokens, responses of "
        f"{RESPONSE}; {(STEPS - WARM_UP) // 2} steps that are judged and as many that are not, turn about in one run, "
        "medians. `python -m benchmarks.step_guard`",
        "",
        *table(
            [
                "objective",
                "hidden size",
                "layers",
                "vocabulary",
                "pairs",
                "ms, not judged",
                "judged / not",
                "of it judging",
            ]
        ),
    ]
    for case in CASES:
        milliseconds, times, share = ratio(*case)
        lines.append(row([*case, f"{milliseconds:.1f}", f"{times:.3f}", f"{share:.2%}"]))
    text = "\n".join(lines) + "\n"
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
