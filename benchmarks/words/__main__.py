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
from benchmarks.words.work import OFTEN, Run, carried_out

__all__ = ["compare"]

_HERE = Path(__file__).parent
_LIBRARIES = ("prefopt", "torch", "transformers", "tokenizers")
_LEVEL = next(iter(LEVELS))

Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def compare(
    data: Annotated[Path, typer.Argument(help="Folder of nltk_{sentence_polarity,opinion_lexicon,movie_reviews}.zip.")],
    settings: Annotated[Path, typer.Option(help="YAML: what is trained, tried and reported.")] = _HERE / "words.yaml",
    held_out: Annotated[bool, typer.Option(help="Go on to the held-out pairs after the development pairs.")] = True,
    seed: Annotated[list[int] | None, typer.Option(help="Of reported runs; may be repeated. Default: 0 1 2.")] = None,
    development_seed: Annotated[int, typer.Option(help="Of development runs.")] = 100,
    only_finished: Annotated[bool, typer.Option(help="Carry out nothing; the page says what is missing.")] = False,
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

    missing: list[str] = []

    def runs(table: str, measured_on: str, seeds: Sequence[int]) -> Runs:
        found: dict[str, list[dict[str, Any]]] = {}
        for number in seeds:
            for row, fields in asked[table].items():
                training = asked["training"] | fields.get("training", {})
                run = Run(row, fields["objective"], training, number, measured_on, reference.name)
                if only_finished and not run.record(work).exists():
                    missing.append(f"{row}, seed {number}, {measured_on} pairs")
                    continue
                done = carried_out(run, reference, split.train, getattr(split, measured_on), listed, work)
                found.setdefault(row, []).append(done)
                shown = estimates([done["auroc"]["weight"][_LEVEL]])
                print(f"{table}, seed {number}, {row}: {shown['mean']:.3f}  ({done['seconds']:.0f} s)", flush=True)
        return found

    developed = runs("development", "development", [development_seed])
    if not held_out:
        return
    seeds = seed or [0, 1, 2]
    reported = runs("reported", "held_out", seeds)
    if not reported:
        raise typer.BadParameter(f"no run on held-out pairs is finished in {work}; leave out --only-finished")
    facts: dict[str, Any] = {
        "date": date,
        "hardware": hardware or f"{os.cpu_count()} {platform.machine()} cores, 1 thread",
        "versions": {library: importlib.metadata.version(library) for library in _LIBRARIES},
        "settings": asked,
        "seeds": seeds,
        "missing": missing,
        "development_seed": development_seed,
        "counts": {
            **{part: len(getattr(split, part)) for part in ("train", "development", "held_out")},
            "parameters": AutoModelForCausalLM.from_pretrained(reference).num_parameters(),
            "vocabulary": AutoConfig.from_pretrained(reference).vocab_size,
            "lexicon": len(listed),
            "split_words": next(iter(reported.values()))[0]["split_words"],
        },
        "reported": _compared(reported),
        "developed": {row: _figures(done) for row, done in developed.items()},
        "words": {row: _words(done[0], listed) for row, done in reported.items()},
    }
    results.mkdir(parents=True, exist_ok=True)
    stem = results / f"{date}-words"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tell(facts, stem.with_suffix(".md"))
    print(f"Written: {stem}.md and .json")


def _compared(reported: Runs) -> dict[str, dict[str, Any]]:
    """Of every row, and of what words can be ranked by without a mask: the reference's surprise, and how far a policy
    has moved. Each against the first row and against the surprise, pair by pair.
    """
    ranked = {row: (done, "weight") for row, done in reported.items()}
    first = next(iter(reported))
    ranked["surprisal"] = (reported[first][:1], "surprisal")
    ranked |= {f"shift of the policy, {row}": (done, "shift") for row, done in reported.items()}
    values = {name: [run["auroc"][by][_LEVEL] for run in done] for name, (done, by) in ranked.items()}
    figures = {name: _figures(reported[name]) if name in reported else _aurocs(*of) for name, of in ranked.items()}
    return {
        name: of | {"against": {other: differences(values[name], values[other]) for other in (first, "surprisal")}}
        for name, of in figures.items()
    }


def _words(run: Mapping[str, Any], listed: frozenset[str]) -> dict[str, Any]:
    ends = {end: [[*word, known(word[0], listed)] for word in run[end]] for end in ("heaviest", "lightest")}
    return {"seed": run["asked"]["seed"], "often": OFTEN, "among": run["among"], **ends}


def _figures(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a row's mask, over its seeds."""
    return _aurocs(done, "weight") | {
        "zeros": fmean(run["zeros"] for run in done),
        "accuracy": fmean(run["accuracy"] for run in done),
        "mean_weight": {kind: fmean(run["mean_weight"][kind] for run in done) for kind in ("sentiment", "other")},
        "seconds": fmean(run["seconds"] for run in done),
    }


def _aurocs(done: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any]:
    return {"auroc": {level: estimates([run["auroc"][by][level] for run in done]) for level in LEVELS}}


if __name__ == "__main__":
    typer.run(compare)
