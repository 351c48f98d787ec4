"""The results as a page. What was written by hand below the tables is kept when page and picture are made anew:

python -m benchmarks.planted.report benchmarks/results/DATE-planted.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

__all__ = ["tell"]

_BY_HAND = "## What it shows"
_POLICY = ("reward", "sequence_kl", "tokens", "accuracy")
_MASKS = ("auroc_w", "ap_w", "sparsity_error_w", "auroc_v", "ap_v", "sparsity_error_v")


def tell(facts: dict[str, Any], path: Path) -> None:
    """The page, in Markdown."""
    known = path.read_text(encoding="utf-8").partition(_BY_HAND)[2] if path.exists() else ""
    versions = ", ".join(f"{library} {version}" for library, version in facts["versions"].items())
    seconds = facts["seconds"]
    lines = [
        "# Planted tokens: objectives side by side",
        "",
        f"{facts['date']}. {facts['hardware']}. {versions}. Learning rate {facts['learning_rate']:g}, batches of "
        f"{facts['batch_size']} pairs, seeds "
        f"{', '.join(map(str, facts['seeds']))}. Processor time: {seconds['each']:.1f} s a run, "
        f"{(seconds['material'] + seconds['training'] + seconds['measuring']) / 60:.0f} min in all. What the task is, "
        "and what is measured, is in `docs/planted.md`. In brackets: 95% bootstrap intervals over seeds, each of which "
        "has a language, a reference, pairs and prompts of its own, and in how many of them a figure is defined if not "
        "in all.",
        "",
        "## Over all settings",
        "",
        f"Differences from {next(iter(facts['objectives']))}, paired by setting and seed; p of a sign-change "
        "permutation test, adjusted by Holm for the objectives.",
        "",
    ]
    for measure, rows in facts["overall"].items():
        body = [[n, _interval(r["difference"], "+"), f"{r['p']:.3g}", f"{r['p_holm']:.3g}"] for n, r in rows.items()]
        lines += [*_table([measure, "difference", "p", "p, adjusted"], body), ""]
    for setting, result in facts["settings"].items():
        fields = ", ".join(f"{name} {value}" for name, value in result["task"].items() if name != "name")
        lines += [f"## {setting}", "", f"Task: {fields or 'as by default'}; epochs: {result['epochs']}.", ""]
        measures = list(facts["overall"])
        lines += _table(
            ["", *(column for measure in measures for column in (measure, "difference"))],
            [
                [name, *(_interval(each[part], sign) for each in row.values() for part, sign in _FRONTIER)]
                for name, row in result["frontiers"].items()
            ],
        )
        for metrics in (_POLICY, _MASKS):
            head = ["", "beta", *(metric.replace("_", " ") for metric in metrics)]
            lines += ["", *_table(head, _body(result["runs"], metrics))]
        lines += ["", *_examples(result["runs"]), ""]
    lines += ["## The figures", ""]
    lines += [
        f"- {name.replace('_', ' ')} ({metric['better']} is better): {metric['what']}."
        for name, metric in facts["metrics"].items()
    ]
    lines += ["", f"![frontiers]({path.with_suffix('.png').name})", "", "## The objectives", ""]
    lines += [f"- {name}: `{json.dumps(row)}`" for name, row in facts["objectives"].items()]
    path.write_text("\n".join([*lines, "", _BY_HAND]) + (known or "\n"), encoding="utf-8")


_FRONTIER = (("value", ""), ("against_first", "+"))


def _body(runs: Iterable[Mapping[str, Any]], metrics: Sequence[str]) -> list[list[str]]:
    return [
        [
            run["objective"],
            "-" if run["beta"] is None else f"{run['beta']:g}",
            *(_interval(run["metrics"].get(metric)) for metric in metrics),
        ]
        for run in runs
    ]


def _examples(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first sample of the first seed, for every objective at the middle beta."""
    lines = []
    for name in dict.fromkeys(run["objective"] for run in runs):
        of_name = [run for run in runs if run["objective"] == name]
        run = of_name[len(of_name) // 2]
        prompt, text = next(iter(run["samples"].items()))
        beta = "" if run["beta"] is None else f", beta {run['beta']:g}"
        lines.append(f"- {name}{beta}: *{prompt}* {text}")
    return lines


def _interval(of: Mapping[str, float] | None, sign: str = "") -> str:
    if of is None:
        return "-"
    mean, low, high = (f"{of[name]:{sign}.3g}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" + (f" ({of['count']:g} of {of['of']:g})" if of["count"] < of["of"] else "")


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]


def again(results: Path) -> None:
    """Make the page and the picture anew from the JSON file."""
    from benchmarks.planted.plot import draw  # here, because a page needs no matplotlib

    facts = json.loads(results.read_text(encoding="utf-8"))
    draw(facts, results.with_suffix(".png"))
    tell(facts, results.with_suffix(".md"))


if __name__ == "__main__":
    typer.run(again)
