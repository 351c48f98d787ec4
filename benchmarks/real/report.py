"""The results as a page and a picture. What was written by hand below the tables is kept when they are made anew:

python -m benchmarks.real.report benchmarks/results/DATE-real-NAME.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import typer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["draw", "tell"]

_BY_HAND = "## What it shows"


def draw(facts: dict[str, Any], path: Path) -> None:
    """Loss, margin and accuracy of the training batches against the step, and score against distance."""
    figure, axes = plt.subplots(1, 4, figsize=(19, 4.4), layout="constrained")
    colours = {row: plt.get_cmap("tab20")(index) for index, row in enumerate(facts["rows"])}
    curves = (("loss", "loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "pair accuracy"))
    for axis, (metric, label) in zip(axes, curves, strict=False):
        for row, run in _trained(facts).items():
            points = [(entry["step"], entry[metric]) for entry in run["log"] if metric in entry]
            axis.plot(*zip(*points, strict=True), color=colours[row])
        axis.set(xlabel="step", title=f"{label}, training batches")
    scorer = facts["scorers"][0]
    for row, run in facts["rows"].items():
        x, y = run["figures"]["sequence KL"], run["figures"][scorer]
        xerr, yerr = ([[of["mean"] - of["low"]], [of["high"] - of["mean"]]] for of in (x, y))
        axes[3].errorbar(x["mean"], y["mean"], xerr=xerr, yerr=yerr, fmt="o", label=row, color=colours[row])
    axes[3].set(xlabel="sequence KL(policy || reference), nats", title=f"{scorer} of samples, held-out prompts")
    figure.legend(loc="outside right upper", fontsize=9)
    figure.suptitle(f"{facts['model']}, {facts['date']}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def tell(facts: dict[str, Any], path: Path) -> None:
    """The page, in Markdown."""
    runs = _trained(facts)
    some = runs[facts["first"]]
    training = some["training"]
    heldout = some["data"]["eval"]["kept"]
    known = path.read_text(encoding="utf-8").partition(_BY_HAND)[2] if path.exists() else ""
    versions = ", ".join(f"{library} {version}" for library, version in facts["versions"].items())
    steps, batch = training["max_steps"], training["per_device_train_batch_size"]
    lines = [
        f"# {facts['model']}: objectives side by side",
        "",
        f"{facts['date']}. {facts['hardware']}. {versions}. Run file `benchmarks/real/{facts['run_file']}`: "
        f"{steps} steps of {batch} pairs, learning rate {training['learning_rate']:g}, seed {training['seed']}, beta "
        f"{some['objective']['beta']:g}.",
        "",
        f"{some['data']['train']['kept']} training pairs; {heldout} held-out pairs of {facts['prompts']} prompts, none "
        f"of which is trained on. Which response was chosen was decided by {facts['labels']}.",
        "",
        "## Held-out prompts: what the policies write",
        "",
        f"{facts['samples']} samples of each of {facts['prompts']} prompts, at temperature 1 and from the whole "
        f"distribution, up to {facts['tokens']} tokens. Scorers: {' and '.join(facts['scorers'])}. Sequence KL is "
        "KL(policy || reference), exact over the vocabulary at every position, summed over the response, on the "
        "policy's own samples, in nats. In brackets: 95% bootstrap intervals over prompts.",
        "",
    ]
    figures = [*facts["scorers"], "sequence KL", "tokens", "distinct words"]
    lines += _table(
        ["", *figures],
        [[row, *(_interval(run["figures"][figure]) for figure in figures)] for row, run in facts["rows"].items()],
    )
    others = [row for row in facts["rows"] if row != facts["first"]]
    lines += ["", f"Difference from {facts['first']}, prompt by prompt:", ""]
    lines += _table(
        ["", *figures[:3]],
        [[row, *(_interval(facts["rows"][row]["against_first"][f], "+") for f in figures[:3])] for row in others],
    )
    lines += ["", "## Held-out pairs, cost and masks", ""]
    lines += [
        "Accuracy: the share of held-out pairs whose chosen response has the higher reward under the objective's own "
        "reward; by prompt: each prompt counts once. Seconds and memory are of training.",
        "",
    ]
    lines += _table(
        ["", "accuracy", "by prompt", "margin", "loss", "train s", "peak MiB"],
        [[row, *_pair_figures(run)] for row, run in runs.items()],
    )
    lines += [
        "",
        "Weights on the same pairs: w weighs the log-ratios, v the divergence; sparsity is the share of weights that "
        "are exactly 0. AUROC: whether tokens of words that VADER's list holds have the larger weights (0.5 is a mask "
        "that knows nothing); within a prompt, then the mean and its interval over prompts.",
        "",
    ]
    lines += _table(
        ["", "mean w", "sparsity w", "AUROC w", "mean v", "sparsity v", "AUROC v"],
        [[row, *_mask_figures(run)] for row, run in runs.items()],
    )
    lines += ["", f"![learning curves]({path.with_suffix('.png').name})", "", "## Overrides of the rows", ""]
    lines += [f"- {row}: " + ", ".join(f"`{override}`" for override in run["overrides"]) for row, run in runs.items()]
    path.write_text("\n".join([*lines, "", _BY_HAND]) + (known or "\n"), encoding="utf-8")


def _trained(facts: dict[str, Any]) -> dict[str, Any]:
    return {row: run for row, run in facts["rows"].items() if "log" in run}


def _pair_figures(run: dict[str, Any]) -> list[str]:
    evaluation = run["evaluation"]
    return [
        f"{evaluation['eval_rewards/accuracies']:.3f}",
        _interval(run["accuracy"]),
        f"{evaluation['eval_rewards/margins']:.3g}",
        f"{evaluation['eval_loss']:.3f}",
        f"{run['seconds']:.0f}",
        "-" if run["peak_rss_mib"] is None else f"{run['peak_rss_mib']:.0f}",
    ]


def _mask_figures(run: dict[str, Any]) -> list[str]:
    cells = []
    for which, metric in (("w", "weights"), ("v", "divergence_weights")):
        for name in ("mean", "sparsity"):
            value = run["evaluation"].get(f"eval_{metric}/{name}")
            cells.append("-" if value is None else f"{value:.3g}")
        cells.append(_interval(run["auroc"][which]) if which in run["auroc"] else "-")
    return cells


def _interval(of: Mapping[str, float], sign: str = "") -> str:
    mean, low, high = (f"{of[name]:{sign}.3g}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]


def again(results: Path) -> None:
    """Make the page and the picture anew from the JSON file."""
    facts = json.loads(results.read_text(encoding="utf-8"))
    draw(facts, results.with_suffix(".png"))
    tell(facts, results.with_suffix(".md"))


if __name__ == "__main__":
    typer.run(again)
