"""Trains masks on labelled sentences and measures whether they find the words of a sentiment lexicon.

python -m benchmarks.words --help
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.words.material import lexicon, make_reference, pairs
from benchmarks.words.report import differences, estimates, tell
from benchmarks.words.scoring import LEVELS, known
from benchmarks.words.work import MEASURED, OFTEN, Run, carried_out

__all__ = ["compare"]

_HERE = Path(__file__).parent
_LIBRARIES = ("prefopt", "torch", "transformers", "tokenizers")
_FIRST_LEVEL = next(iter(LEVELS))


def compare(
    data: Annotated[Path, typer.Argument(help="Folder of nltk_{sentence_polarity,opinion_lexicon,movie_reviews}.zip.")],
    settings: Annotated[Path, typer.Option(help="YAML: what is trained, tried and reported.")] = _HERE / "words.yaml",
    held_out: Annotated[bool, typer.Option(help="Go on to the held-out pairs after the development pairs.")] = True,
    seed: Annotated[list[int] | None, typer.Option(help="Of reported runs; may be repeated. Default: 0 1 2.")] = None,
    development_seed: Annotated[int, typer.Option(help="Of development runs.")] = 100,
    work: Annotated[Path, typer.Option(help="For the reference and the finished runs.")] = Path("runs/words"),
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = _HERE.parent / "results",
    date: Annotated[str, typer.Option(help="Of the results.")] = datetime.date.today().isoformat(),
    hardware: Annotated[str | None, typer.Option(help="In words.")] = None,
) -> None:
    """Carry out the runs that are not finished yet, then write DATE-words.{md,json}."""
    asked: dict[str, Any] = yaml.safe_load(settings.read_text(encoding="utf-8"))
    split, listed = pairs(data), lexicon(data)
    reference = work / f"reference-{asked['reference_steps']}"
    if not reference.exists():
        make_reference(data, split, reference, steps=asked["reference_steps"])

    def runs(table: str, measured_on: str, seeds: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for number in seeds:
            for row, fields in asked[table].items():
                training = asked["training"] | fields.get("training", {})
                run = Run(row, fields["objective"], training, number, measured_on, reference.name)
                done = carried_out(run, reference, split.train, getattr(split, measured_on), listed, work)
                found.setdefault(row, []).append(done)
                shown = estimates([done["auroc"]["weight"][_FIRST_LEVEL]])
                print(f"{table}, seed {number}, {row}: {shown['mean']:.3f}  ({done['seconds']:.0f} s)", flush=True)
        return found

    developed = runs("development", "development", [development_seed])
    if not held_out:
        return
    seeds = seed or [0, 1, 2]
    reported = runs("reported", "held_out", seeds)
    first = next(iter(reported.values()))
    figures = {row: _figures(done) for row, done in reported.items()} | _without_mask(reported)
    for of in figures.values():
        levels = {other: figures[other]["pairs"] for other in (next(iter(reported)), "surprisal")}
        of["against"] = {other: differences(of["pairs"], values) for other, values in levels.items()}
    for of in figures.values():
        del of["pairs"]
    facts: dict[str, Any] = {
        "date": date,
        "hardware": hardware or f"{os.cpu_count()} {platform.machine()} cores, 1 thread",
        "versions": {library: importlib.metadata.version(library) for library in _LIBRARIES},
        "settings": asked,
        "seeds": seeds,
        "development_seed": development_seed,
        "counts": {
            **{part: len(getattr(split, part)) for part in ("train", "development", "held_out")},
            "parameters": AutoModelForCausalLM.from_pretrained(reference).num_parameters(),
            "vocabulary": AutoConfig.from_pretrained(reference).vocab_size,
            "lexicon": len(listed),
            "split_words": first[0]["split_words"],
        },
        "reported": figures,
        "developed": {row: _figures(done) for row, done in developed.items()},
        "words": {
            row: {
                "seed": seeds[0],
                "often": OFTEN,
                "among": done[0]["among"],
                **{end: [[*word, known(word[0], listed)] for word in done[0][end]] for end in ("heaviest", "lightest")},
            }
            for row, done in reported.items()
        },
    }
    for of in facts["developed"].values():
        del of["pairs"]
    results.mkdir(parents=True, exist_ok=True)
    stem = results / f"{date}-words"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tell(facts, stem.with_suffix(".md"))
    print(f"Written: {stem}.md and .json")


def _figures(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a row's mask, over its seeds."""
    return _ranked(done, "weight") | {
        "zeros": fmean(run["zeros"] for run in done),
        "accuracy": fmean(run["accuracy"] for run in done),
        "mean_weight": {kind: fmean(run["mean_weight"][kind] for run in done) for kind in ("sentiment", "other")},
        "seconds": fmean(run["seconds"] for run in done),
    }


def _without_mask(reported: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What words can be ranked by without a mask: the reference's surprise, and how far each policy has moved."""
    some = next(iter(reported.values()))
    shifts = {f"{MEASURED['shift'].meaning}, {row}": _ranked(done, "shift") for row, done in reported.items()}
    return {"surprisal": _ranked(some[:1], "surprisal")} | shifts


def _ranked(done: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    values = {level: [run["auroc"][by][level] for run in done] for level in LEVELS}
    return {"auroc": {level: estimates(of) for level, of in values.items()}, "pairs": values[_FIRST_LEVEL]}


if __name__ == "__main__":
    typer.run(compare)
