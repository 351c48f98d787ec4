"""Whether the recommended mask holds, with its floor and without: on conversations, on words and on planted tokens.

PREFOPT_SHARED=... PYTHONPATH=benchmarks/words python -m benchmarks.mask_health OUT.md [MATERIAL ...]

A run trains a policy under `sparsepo_token`; its mask is judged on held-out pairs. PREFOPT_SHARED names a folder with
`data` and `models/stories260K` (see `benchmarks/suites/README.md`). Runs are kept in OUT.jsonl, and not repeated.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import logging
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback

from benchmarks.dead_starts import HIDDEN, LAYERS, tokens
from benchmarks.dead_starts import SEEDS as STARTS
from benchmarks.machine import hardware, versions
from benchmarks.markdown import table
from prefopt import zoo
from prefopt.data import read_rows
from prefopt.data.quiet import quiet
from prefopt.mask_health import MaskHealth
from prefopt.metrics import MetricSums, objective_metrics
from prefopt.scoring import PreferenceModel
from prefopt.tasks.base import HELD_OUT, TRAIN, Material, write_jsonl
from prefopt.tasks.held_out import held_out
from prefopt.tasks.planted import PlantedTask
from prefopt.training import PreferenceConfig, PreferenceTrainer
from prefopt.weightings import SparseWeighting

SHARED = Path(os.environ.get("PREFOPT_SHARED", "../shared"))
FLOORS = (0.0, 0.3)
FIRST_SEED = 40
"""Of the seeds 0, 1, 100 and 101 the floor was chosen, and on other held-out pairs."""

RECOMMENDED = {"position": "token", "architecture": "two_layer", "init": "near_one", "floor": 0.3}
FAULTS = ("dead", "collapsed", "wordless")
COMMON = ("accuracy", "mean_w", "sparsity_w")
HEAD = ("material", "pairs", "steps", "floor", "seeds", *FAULTS, "effective beta", "zeros", "accuracy", "AUROC of w")


@dataclass(frozen=True)
class Data:
    """Pairs of one kind: how many to train on and for how many steps, the longest in tokens, and beta; `adapter` trains
    LoRA. `auroc` is the metric of a task that knows which tokens matter, `seeds` how many runs there are."""

    pairs: int
    steps: int
    longest: int = 1024
    beta: float = 0.1
    adapter: bool = False
    batch: int = 8
    auroc: str | None = None
    seeds: int = 5
    training: dict[str, Any] = field(default_factory=dict)


DATA = {
    "harmless 40": Data(40, 12, 192, adapter=True),
    "harmless 400": Data(400, 50, 192, adapter=True),
    "chat 200": Data(200, 25, 192, adapter=True),
    "words": Data(4531, 300, auroc="auroc_largest_w", seeds=3, training={"train_sampling_strategy": "group_by_length"}),
    "planted": Data(2048, 128, batch=16, auroc="auroc_w"),
}


def harmless() -> list[dict[str, Any]]:
    """Human preferences between two last turns of a conversation; those without a word are left out."""
    with gzip.open(SHARED / "data" / "hh_harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    sides = ("chosen", "rejected")
    return [row for row in rows if all(row[side].rpartition("Assistant:")[2].strip() for side in sides)]


def chat() -> list[dict[str, Any]]:
    """Conversations of several turns whose last answer a model preferred, as transcripts: the model has no template."""
    rows = json.loads((SHARED / "data" / "lf_dpo_en_demo.json").read_text(encoding="utf-8"))
    names = {"system": "System", "human": "Human", "gpt": "Assistant"}
    return [
        {
            "prompt": "".join(f"{names[turn['from']]}: {turn['value']}\n\n" for turn in row["conversations"])
            + "Assistant:",
            **{side: f" {row[side]['value']}" for side in ("chosen", "rejected")},
        }
        for row in rows
    ]


def material(name: str, folder: Path, seed: int) -> Material:
    """Files of the pairs: of conversations 100 are held out, the same for all seeds, and the rest is drawn from."""
    kind, data = name.split()[0], DATA[name]
    if kind == "planted":
        return PlantedTask().prepare(folder, seed)
    if kind == "words":
        return words_task().prepare(folder, 0)
    rows = {"harmless": harmless, "chat": chat}[kind]()
    random.Random(0).shuffle(rows)
    kept, rest = rows[100:200], rows[:100] + rows[200:]
    random.Random(seed).shuffle(rest)
    path = folder / f"{name}-{seed}"
    path.mkdir(parents=True, exist_ok=True)
    write_jsonl(path / HELD_OUT, kept)
    write_jsonl(path / TRAIN, rest[: data.pairs])
    return Material(path, str(SHARED / "models" / "stories260K"), seed)


def words_task() -> Any:
    from prefopt_words import WordsTask

    return WordsTask(data=str(SHARED / "data"), held_out=300)


def run(name: str, floor: float, seed: int, folder: Path) -> dict[str, Any]:
    """Figures of one trained mask, on held-out pairs: the metrics in COMMON, its faults, and the task's AUROC."""
    data, pairs = DATA[name], material(name, folder, seed)
    args = PreferenceConfig(
        str(folder / "run"),
        max_steps=data.steps,
        per_device_train_batch_size=data.batch,
        learning_rate=1e-3,
        mask_learning_rate=5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_length=data.longest,
        seed=seed,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **data.training,
    )
    adapter = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM") if data.adapter else None
    with quiet():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(pairs.model)
        trainer = PreferenceTrainer(
            pairs.model,
            objective=zoo.build({"zoo": "sparsepo_token", "beta": data.beta, "weighting": {"floor": floor}}),
            args=args,
            train_dataset=read_rows(pairs.train),
            processing_class=tokenizer,
            peft_config=adapter,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        model: PreferenceModel = trainer.model.eval()
        reference = AutoModelForCausalLM.from_pretrained(pairs.model)
        measured = held_out(model, reference, tokenizer, pairs, args.encoding, batch_size=16)
        figures: dict[str, Any] = {metric: fmean(measured.values[metric].values()) for metric in COMMON}
        figures["faults"] = list(measured.mask_faults)
        if data.auroc is not None:
            task = PlantedTask() if name == "planted" else words_task()
            values = task.evaluate(model, reference, tokenizer, pairs).values[data.auroc]
            figures["auroc"] = fmean(values.values())
    return figures


def line(name: str, floor: float, runs: list[dict[str, Any]]) -> list[object]:
    """A row of the table: means over seeds, the smallest and the largest in brackets."""
    data = DATA[name]

    def span(values: list[float]) -> str:
        return f"{fmean(values):.3g} [{min(values):.3g}, {max(values):.3g}]"

    faults = [sum(fault in figures["faults"] for figures in runs) for fault in FAULTS]
    strength = span([data.beta * figures["mean_w"] for figures in runs])
    rest = [span([figures[metric] for figures in runs]) for metric in ("sparsity_w", "accuracy")]
    auroc = "-" if data.auroc is None else span([figures["auroc"] for figures in runs])
    return [name.split()[0], data.pairs, data.steps, floor, len(runs), *faults, strength, *rest, auroc]


@torch.no_grad()
def starts() -> Iterator[list[object]]:
    """Of the seeds of a mask's start: those dead on every response, dead on some, dead or collapsed; the mean weight.

    The responses are those of `dead_starts`, whose states are at the token's own position for the recommended mask.
    """
    batch = tokens()
    nothing = torch.zeros(len(batch.mask))
    for name, weighting in (("sparsepo", SparseWeighting()), ("sparsepo_token", SparseWeighting(**RECOMMENDED))):
        healths = []
        for seed in range(STARTS):
            torch.manual_seed(seed)
            w = weighting.build(num_layers=LAYERS, hidden_size=HIDDEN).eval()(batch)
            sums = MetricSums()
            sums.add(objective_metrics(0.1, batch, nothing, None, w, None))
            healths.append(MaskHealth.from_metrics(sums.means()))
        dead = [sum(health.all_zero >= share for health in healths) for share in (1.0, 1e-9)]
        failing = sum(bool(health.faults(beta=0.1)) for health in healths)
        yield [name, *dead, failing, f"{fmean(health.mean for health in healths):.3f}"]


def main() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("materials", nargs="*", default=list(DATA))
    options = parser.parse_args()
    file = options.out.with_suffix(".jsonl")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    records = {(record["material"], record["floor"], record["seed"]): record for record in map(json.loads, lines)}
    body = []
    with tempfile.TemporaryDirectory() as temporary, file.open("a", encoding="utf-8") as records_file:
        for name, floor in product(options.materials, FLOORS):
            keys = [(name, floor, seed) for seed in range(FIRST_SEED, FIRST_SEED + DATA[name].seeds)]
            for key in keys:
                if key not in records:
                    names = dict(zip(("material", "floor", "seed"), key, strict=True))
                    records[key] = names | run(*key, Path(temporary))
                    records_file.write(json.dumps(records[key]) + "\n")
                    records_file.flush()
            body.append(line(name, floor, [records[key] for key in keys]))
    libraries = ", ".join(f"{library} {version}" for library, version in versions().items())
    text = [
        "# Masks with a floor and without",
        "",
        f"{datetime.date.today()}. {hardware()}. {libraries}. `python -m benchmarks.mask_health`.",
        "",
        *table(HEAD, body),
        "",
        *table(("start", "dead on every response", "on some", "dead or collapsed", "mean weight"), starts()),
    ]
    options.out.write_text("\n".join([*text, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
