"""One run: train a policy and its mask, and ask which words of other pairs the mask weighs most."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from benchmarks.words.scoring import aurocs, known, words
from prefopt import zoo
from prefopt.data import EncodingConfig, prepare, rows_of
from prefopt.inspection.layers import Layer
from prefopt.inspection.weigh import weigh
from prefopt.tasks.quiet import quiet
from prefopt.training import PreferenceConfig, PreferenceTrainer, SavedRun

__all__ = ["MEASURED", "OFTEN", "Run", "carried_out"]

MEASURED = {
    "weight": Layer("weight", "weight", "the mask's w", lambda output: output.weights),
    "surprisal": Layer("surprisal", "surprisal", "-log pi_ref", lambda output: -output.tokens.ref_logps),
    "shift": Layer(
        "shift", "shift", "|log pi - log pi_ref|", lambda output: (output.tokens.logps - output.tokens.ref_logps).abs()
    ),
}
"""What words are ranked by: the mask, and two things that tell words apart without any mask."""

_BATCH = 16
OFTEN, _SHOWN = 5, 20


@dataclass(frozen=True)
class Run:
    """A row of a table of objectives, on one seed: its objective and the training arguments that are its own."""

    row: str
    objective: dict[str, Any]
    training: dict[str, Any]
    seed: int
    measured_on: str
    reference: str

    @property
    def key(self) -> str:
        """Of all that the run depends on but the data."""
        fields = {name: value for name, value in asdict(self).items() if name != "row"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def record(self, work: Path) -> Path:
        """Where what came of the run is kept."""
        return work / "runs" / f"{self.key}.json"


def carried_out(
    run: Run,
    reference: Path,
    train: Sequence[Mapping[str, str]],
    measured: Sequence[Mapping[str, str]],
    lexicon: frozenset[str],
    work: Path,
) -> dict[str, Any]:
    """What came of the run: by what words are ranked and by level, the AUROC of each measured pair that has one.

    Read from `work` where the run was carried out before.
    """
    record = run.record(work)
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return found
    torch.set_num_threads(1)
    folder = work / "training" / run.key
    start = time.process_time()
    with quiet():
        saved, log = _trained(run, reference, train, folder)
        seconds = time.process_time() - start
        facts = {"asked": asdict(run), "seconds": seconds, "log": log} | _measured(saved, measured, lexicon)
    shutil.rmtree(folder, ignore_errors=True)
    record.parent.mkdir(parents=True, exist_ok=True)
    draft = record.with_suffix(".part")
    draft.write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(record)
    return facts


def _trained(
    run: Run, reference: Path, train: Sequence[Mapping[str, str]], folder: Path
) -> tuple[SavedRun, list[dict[str, Any]]]:
    tokenizer = AutoTokenizer.from_pretrained(reference)
    trainer = PreferenceTrainer(
        AutoModelForCausalLM.from_pretrained(reference, dtype="float32"),
        AutoModelForCausalLM.from_pretrained(reference, dtype="float32"),
        objective=zoo.build(run.objective),
        args=PreferenceConfig(
            output_dir=str(folder),
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=run.seed,
            **run.training,
        ),
        train_dataset=list(train),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model = trainer.model.eval()
    return SavedRun(folder, model, tokenizer, reference=str(reference), data=None), trainer.state.log_history


def _measured(run: SavedRun, pairs: Sequence[Mapping[str, str]], lexicon: frozenset[str]) -> dict[str, Any]:
    rows, _ = prepare(rows_of(pairs, name="measured"), run.tokenizer, EncodingConfig(), description="measured")
    aurocs_of: dict[str, dict[str, list[float | None]]] = {name: defaultdict(list) for name in MEASURED}
    by_word: dict[str, list[float]] = defaultdict(list)
    right, zeros, split_words = [], [], []
    for pair in weigh(run, rows, list(MEASURED.values()), batch_size=_BATCH):
        # Without the end-of-text token, which is no word of anybody's.
        lengths = [len(one.ids) - (one.ids[-1] == run.tokenizer.eos_token_id) for _, one in pair.sides]
        texts = [one.pieces[:length] for (_, one), length in zip(pair.sides, lengths, strict=True)]
        right.append(pair.chosen.reward > pair.rejected.reward)
        for name in MEASURED:
            numbers = [one.numbers[name][:length] for (_, one), length in zip(pair.sides, lengths, strict=True)]
            for level, value in aurocs(list(zip(texts, numbers, strict=True)), lexicon).items():
                aurocs_of[name][level].append(value)
        for (_, one), pieces in zip(pair.sides, texts, strict=True):
            zeros += [weight == 0 for weight in one.numbers["weight"]]
            for word in words(pieces):
                by_word[word.text].append(max(one.numbers["weight"][at] for at in word.tokens))
                split_words.append(len(word.tokens) > 1)
    means = {word: fmean(weights) for word, weights in by_word.items() if len(weights) >= OFTEN}
    order = sorted(means, key=lambda word: (-means[word], word))
    of_kind = {
        kind: fmean(weight for word, weights in by_word.items() if known(word, lexicon) == flag for weight in weights)
        for kind, flag in (("sentiment", True), ("other", False))
    }
    return {
        "auroc": aurocs_of,
        "accuracy": fmean(right),
        "zeros": fmean(zeros),
        "mean_weight": of_kind,
        "split_words": fmean(split_words),
        "among": len(order),
        "heaviest": [[word, means[word], len(by_word[word])] for word in order[:_SHOWN]],
        "lightest": [[word, means[word], len(by_word[word])] for word in order[::-1][:_SHOWN]],
    }
