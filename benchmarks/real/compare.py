"""Trains every row of a comparison on the same data and writes what came of it.

python -m benchmarks.real.compare benchmarks/real/stories.yaml model.name=... --name stories ...
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.real.evaluation import by_prompt, estimate, written
from benchmarks.real.masks import found_words
from benchmarks.real.report import draw, tell
from benchmarks.real.scorers import load
from benchmarks.real.training import trained
from prefopt.training import RunFile

__all__ = ["compare"]

_HERE = Path(__file__).parent
_LIBRARIES = ("prefopt", "torch", "transformers", "scikit-learn", "vaderSentiment")


def compare(
    run_file: Annotated[Path, typer.Argument(help="A run file; every row is an override of it.")],
    overrides: Annotated[list[str], typer.Argument(help="Overrides for every row: model.name, data.train, ...")],
    name: Annotated[str, typer.Option(help="Of the results.")],
    reviews: Annotated[Path, typer.Option(help="Zip of labelled film reviews, for the second scorer.")],
    model: Annotated[str, typer.Option(help="In words: the model.")],
    labels: Annotated[str, typer.Option(help="In words: what decided which response was chosen.")],
    rows: Annotated[list[Path] | None, typer.Option(help="YAML of rows, in place of rows.yaml.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for the trained policies.")] = Path("runs/real"),
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = _HERE.parent / "results",
    samples: Annotated[int, typer.Option(help="Samples of each held-out prompt.")] = 8,
    tokens: Annotated[int, typer.Option(help="Most tokens of a sample.")] = 64,
    end_token: Annotated[str | None, typer.Option(help="What the model ends with, if not its EOS token.")] = None,
    date: Annotated[str, typer.Option(help="Of the results.")] = datetime.date.today().isoformat(),
    hardware: Annotated[str | None, typer.Option(help="In words.")] = None,
) -> None:
    """Train the rows that are not trained yet, evaluate all, and write DATE-real-NAME.{md,json,png}."""
    settings: dict[str, list[str]] = {}
    for path in rows or [_HERE / "rows.yaml"]:
        settings |= yaml.safe_load(path.read_text(encoding="utf-8"))
    base = RunFile.load(run_file, overrides)
    assert base.data.eval is not None, "data.eval is needed"
    pairs = [json.loads(line) for line in Path(base.data.eval).read_text(encoding="utf-8").splitlines()]
    prompts = sorted({pair["prompt"] for pair in pairs})
    folders = {row: work / name / "".join(c if c.isalnum() else "-" for c in row) for row in settings}
    runs = {row: trained(run_file, [*overrides, *settings[row]], folders[row]) for row in settings}

    reference = AutoModelForCausalLM.from_pretrained(base.model.name, **base.model.init).eval()
    tokenizer = AutoTokenizer.from_pretrained(base.model.tokenizer or base.model.name)
    own_end = reference.generation_config.eos_token_id
    end = own_end if end_token is None else tokenizer.convert_tokens_to_ids(end_token)
    scorers = load(reviews)
    said = {}
    for row, folder in {"reference": None, **folders}.items():
        policy = reference
        if folder is not None:
            policy = AutoModelForCausalLM.from_pretrained(folder, **base.model.init).eval()
        said[row] = written(policy, reference, tokenizer, prompts, scorers, samples=samples, tokens=tokens, end=end)
        print(row, {figure: round(fmean(of.values()), 4) for figure, of in said[row].figures.items()})

    first = next(iter(settings))
    facts: dict[str, Any] = {
        "name": name,
        "date": date,
        "versions": {library: importlib.metadata.version(library) for library in _LIBRARIES},
        "hardware": hardware or f"{os.cpu_count()} {platform.machine()} cores, {torch.get_num_threads()} threads",
        "run_file": run_file.name,
        "model": model,
        "labels": labels,
        "scorers": list(scorers),
        "prompts": len(prompts),
        "samples": samples,
        "tokens": tokens,
        "first": first,
        "rows": {},
    }
    for row, (figures, examples) in said.items():
        facts["rows"][row] = {
            "overrides": settings.get(row, []),
            "figures": {figure: estimate(of.values()) for figure, of in figures.items()},
            "against_first": {
                figure: estimate(of[prompt] - said[first].figures[figure][prompt] for prompt in of)
                for figure, of in figures.items()
            },
            "examples": examples,
        }
    for row, run in runs.items():
        right = by_prompt([p["prompt"] for p in run["held_out"]], [float(p["right"]) for p in run["held_out"]])
        kept = {field: value for field, value in run.items() if field not in ("held_out", "key")}
        found = found_words(folders[row], reference, tokenizer, base.data.eval, base.data.max_length)
        facts["rows"][row] |= kept | {
            "accuracy": estimate(right.values()),
            "auroc": {which: estimate(of.values()) for which, of in found.items()},
        }

    results.mkdir(parents=True, exist_ok=True)
    stem = results / f"{date}-real-{name}"
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(facts, stem.with_suffix(".png"))
    tell(facts, stem.with_suffix(".md"))
    print(f"Written: {stem}.md, .json and .png")


if __name__ == "__main__":
    typer.run(compare)
