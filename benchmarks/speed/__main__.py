"""Compares a training step of the contenders, or profiles that of one.

python -m benchmarks.speed --quick
python -m benchmarks.speed --device cuda
python -m benchmarks.speed --profile sparsepo --shape 32+224
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import LlamaForCausalLM

from benchmarks.machine import hardware, versions
from benchmarks.speed.contenders import CONTENDERS, GROWTH, SAME, TARGETS
from benchmarks.speed.measure import TOLERANCES, compare, hire
from benchmarks.speed.profiling import costs
from benchmarks.speed.ratios import against_targets
from benchmarks.speed.report import tell
from benchmarks.speed.setting import LENGTHS, Setting

__all__ = ["speed"]

_LENGTHS = (64, 128, 256, 512, 1024)
_VOCABULARIES = (8_000, 32_000, 75_000, 150_000)
_QUICK_LENGTHS = (64, 256)
_QUICK_VOCABULARIES = (8_000, 32_000)

_DEFAULT = Setting(*LENGTHS["128+128"])


def speed(
    out: Annotated[Path, typer.Option(help="Folder for DATE-speed.{md,json,png}.")] = Path("runs/speed"),
    quick: Annotated[bool, typer.Option(help="Two rounds, one pair, short growth.")] = False,
    shape: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(LENGTHS)}; all unless given.")] = None,
    contender: Annotated[list[str] | None, typer.Option(help="All unless given.")] = None,
    profile: Annotated[str | None, typer.Option(help="Print where this contender's step goes; no comparison.")] = None,
    rounds: Annotated[int, typer.Option(help="Steps of each contender that count.")] = 5,
    growth_rounds: Annotated[int, typer.Option(help="The same for growth; 0 leaves it out.")] = 1,
    pairs: Annotated[int, typer.Option(help="Of a batch.")] = _DEFAULT.pairs,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = _DEFAULT.hidden,
    layers: Annotated[int, typer.Option(help="Layers.")] = _DEFAULT.layers,
    vocabulary: Annotated[int, typer.Option(help="Token ids.")] = _DEFAULT.vocabulary,
    memory_limit: Annotated[float, typer.Option(help="GiB; what would need more is not run, and said so.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, or cuda where there is a card.")] = _DEFAULT.device,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; by default as is usual there.")] = None,
    date: Annotated[str, typer.Option(help="Of the results.")] = datetime.date.today().isoformat(),
) -> None:
    """Compare a step of every contender, in turn; or profile one."""
    names = _names(contender or CONTENDERS, CONTENDERS)
    dtype = dtype or ("bfloat16" if device == "cuda" else "float32")
    _names([device], ("cpu", "cuda"))
    _names([dtype], TOLERANCES)
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks.speed: --device cuda: torch sees no CUDA device here; --device cpu is measured")
    sizes = {"hidden": hidden, "layers": layers, "vocabulary": vocabulary}
    base = replace(_DEFAULT, pairs=1 if quick else pairs, device=device, dtype=dtype, **sizes)
    settings = {
        name: replace(base, prompt=LENGTHS[name][0], response=LENGTHS[name][1])
        for name in _names(shape or LENGTHS, LENGTHS)
    }
    if profile is not None:
        (profiled,) = _names([profile], CONTENDERS)
        for name, setting in settings.items():
            print(f"{profiled}, {name}: {costs(CONTENDERS[profiled], setting)}")
        return
    facts: dict[str, Any] = {
        "date": date,
        "command": " ".join(["python -m benchmarks.speed", *_without_paths(sys.argv[1:])]),
        "hardware": hardware() if device == "cpu" else f"{torch.cuda.get_device_name()}, {hardware()}",
        "versions": versions(),
        "model": {
            "hidden": hidden,
            "layers": layers,
            "dtype": dtype,
            "parameters": sum(parameter.numel() for parameter in LlamaForCausalLM(base.config).parameters()),
        },
        "contenders": {name: CONTENDERS[name].words for name in names},
        "shapes": {},
        "growth": {},
    }
    stem = out / f"{date}-speed"
    for name, setting in settings.items():
        result = _compared(names, setting, rounds=2 if quick else rounds, same=SAME, memory_limit=memory_limit)
        facts["shapes"][name] = result
        _say(name, result)
        _write(facts, stem)
    followed = [name for name in GROWTH if name in names]
    along = {
        "response length": ("response", _QUICK_LENGTHS if quick else _LENGTHS),
        "vocabulary": ("vocabulary", _QUICK_VOCABULARIES if quick else _VOCABULARIES),
    }
    for axis, (field, values) in along.items() if growth_rounds and followed else ():
        grown = [replace(base, **({"pairs": 1, field: value})) for value in values]
        facts["growth"][axis] = [
            {"at": value} | _compared(followed, setting, rounds=growth_rounds, memory_limit=memory_limit)
            for value, setting in zip(values, grown, strict=True)
        ]
        _write(facts, stem)
    print(f"Written: {stem}.md, .json and .png")


def _compared(names: Iterable[str], setting: Setting, **options: Any) -> dict[str, Any]:
    """`compare` in new processes: what one keeps of an earlier setting would be taken for loaded."""
    with ExitStack() as stack:
        return compare(hire(stack, names), CONTENDERS, setting, **options)


def _names(given: Iterable[str], table: Collection[str]) -> list[str]:
    names = list(given)
    if unknown := [name for name in names if name not in table]:
        raise typer.BadParameter(f"no {unknown[0]!r} here, but {', '.join(table)}")
    return names


def _write(facts: dict[str, Any], stem: Path) -> None:
    """What there is so far: a run that is stopped has not been for nothing."""
    from benchmarks.speed.plot import draw  # here, so that the contenders' processes do not load matplotlib

    facts["ratios"] = against_targets(facts["shapes"], TARGETS)
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    draw(facts, stem.with_suffix(".png"))
    tell(facts, stem.with_suffix(".md"))


def _say(shape: str, result: dict[str, Any]) -> None:
    """The equality that the comparison rests on, while it runs."""
    for agreement in result["agreements"]:
        verdict = "agree" if agreement["agree"] else "DISAGREE"
        print(
            f"{shape}: {agreement['one']} and {agreement['other']} {verdict}: losses {agreement['losses'][0]:.7f} and "
            f"{agreement['losses'][1]:.7f}, gradients apart by {agreement['gradient_difference']:.1e} of their norm",
            flush=True,
        )
    for name, reason in result["left_out"].items():
        print(f"{shape}: {name} not run: {reason}", flush=True)


def _without_paths(arguments: Iterable[str]) -> list[str]:
    """As they were given, but for the folder of the results."""
    return ["FOLDER" if "/" in argument else argument for argument in arguments]


if __name__ == "__main__":
    typer.run(speed)
