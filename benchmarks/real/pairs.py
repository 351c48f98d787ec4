"""Makes preference pairs: from a model's own samples, or from rated completions of prompts.

    python -m benchmarks.real.pairs from-samples MODEL OUT
    python -m benchmarks.real.pairs from-rated RATED.jsonl MODEL OUT

OUT then holds train.jsonl and heldout.jsonl, split by prompt, and `tokenizer`, the model's without an end-of-text
token: these responses are cut at a length, so none may be given an ending. A sample that did end says so in its text.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.real.sampling import generate
from benchmarks.real.scorers import vader

__all__ = ["Rated", "from_rated", "from_samples", "pair_up", "story_prompts"]

app = typer.Typer(no_args_is_help=True, help="Make preference pairs.")

_NAMES = ("Lily", "Tom", "Ben", "Mia", "Tim", "Sue", "Max", "Anna", "Sam", "Lucy")
_THINGS = ("box", "dog", "ball", "cat", "tree", "bird", "car", "hat", "cake", "frog", "doll", "book")
_OPENINGS = (
    "One day, {name} saw a {thing}.",
    "{name} had a {thing}.",
    "Once upon a time, {name} found a {thing}.",
    "{name} wanted a {thing}.",
    "{name} lost a {thing}.",
    "One day, {name} went to the park with a {thing}.",
    "{name} looked at the big {thing}.",
    "Once upon a time, there was a {thing} and {name} was sad.",
)
_PROMPTS_AT_ONCE = 8


class Rated(NamedTuple):
    """A response and its score."""

    text: str
    score: float


Pair = dict[str, str | float]


def story_prompts(count: int, seed: int) -> list[str]:
    """Different openings of a children's story, the same for the same seed."""
    every = [
        opening.format(name=name, thing=thing) for opening, name, thing in itertools.product(_OPENINGS, _NAMES, _THINGS)
    ]
    return random.Random(seed).sample(every, count)


def pair_up(prompt: str, responses: Sequence[Rated], *, min_gap: float, most: int) -> list[Pair]:
    """Best against worst, second best against second worst, and so on, at most `most` pairs, while the scores are
    `min_gap` apart. No response is in two pairs."""
    ordered = sorted(responses, key=lambda rated: rated.score, reverse=True)
    matched = [(ordered[i], ordered[-1 - i]) for i in range(min(most, len(ordered) // 2))]
    return [
        {
            "prompt": prompt,
            "chosen": better.text,
            "rejected": worse.text,
            "chosen_score": better.score,
            "rejected_score": worse.score,
        }
        for better, worse in matched
        if better.score - worse.score >= min_gap and better.text != worse.text
    ]


def write_split(
    rated: Mapping[str, Sequence[Rated]], out: Path, *, held_out: float, min_gap: float, most: int, seed: int
) -> None:
    """Pair up within each prompt and write the two files; a share `held_out` of the prompts is kept from training."""
    prompts = sorted(rated)
    random.Random(seed).shuffle(prompts)
    cut = round(len(prompts) * held_out)
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("heldout", prompts[:cut]), ("train", prompts[cut:])):
        pairs = [pair for prompt in part for pair in pair_up(prompt, rated[prompt], min_gap=min_gap, most=most)]
        random.Random(seed).shuffle(pairs)
        with (out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        used = len({pair["prompt"] for pair in pairs})
        print(f"{name}: {len(pairs)} pairs of {used} prompts ({len(part) - used} prompts gave none)")


def _save_endless(tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.eos_token = None
    tokenizer.save_pretrained(out / "tokenizer")


HeldOut = Annotated[float, typer.Option(help="Share of the prompts kept from training.")]
MinGap = Annotated[float, typer.Option(help="Least difference of a pair's scores.")]
Most = Annotated[int, typer.Option(help="Most pairs of one prompt.")]
Seed = Annotated[int, typer.Option()]


@app.command()
def from_samples(
    model: Annotated[str, typer.Argument(help="A causal LM by name or folder.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pairs.")],
    prompts: Annotated[Path | None, typer.Option(help="Prompts, one a line. Without it, openings of stories.")] = None,
    count: Annotated[int, typer.Option(help="How many openings of stories.")] = 240,
    samples: Annotated[int, typer.Option(help="Samples of each prompt.")] = 12,
    tokens: Annotated[int, typer.Option(help="Most tokens of a sample.")] = 64,
    end_token: Annotated[str | None, typer.Option(help="What the model ends with, if not its EOS token.")] = None,
    held_out: HeldOut = 0.25,
    min_gap: MinGap = 0.4,
    most: Most = 4,
    seed: Seed = 0,
) -> None:
    """Sample from a model, score the samples with VADER, and pair them within each prompt."""
    policy = AutoModelForCausalLM.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    end = end_token or tokenizer.eos_token
    end_id = tokenizer.convert_tokens_to_ids(end)
    openings = prompts.read_text(encoding="utf-8").splitlines() if prompts else story_prompts(count, seed)
    score = vader()
    torch.manual_seed(seed)
    rated: dict[str, list[Rated]] = {prompt: [] for prompt in openings}
    for start in range(0, len(openings), _PROMPTS_AT_ONCE):
        asked = [prompt for prompt in openings[start : start + _PROMPTS_AT_ONCE] for _ in range(samples)]
        batch = generate(policy, tokenizer, asked, tokens=tokens, end=end_id)
        for prompt, ids in zip(asked, batch.rows(), strict=True):
            ended = ids[-1] == end_id
            # Decoded with its prompt, so that the space between the two is not lost.
            both = tokenizer(prompt)["input_ids"] + ids[: -1 if ended else None]
            full = tokenizer.decode(both, skip_special_tokens=True)
            text = full[len(prompt) :]
            if full.startswith(prompt) and text.strip():
                rated[prompt].append(Rated(text + (end if ended else ""), score([text])[0]))
    write_split(rated, out, held_out=held_out, min_gap=min_gap, most=most, seed=seed)
    _save_endless(tokenizer, out)


@app.command()
def from_rated(
    rated_file: Annotated[Path, typer.Argument(help="JSONL with prompt, text and reward.")],
    model: Annotated[str, typer.Argument(help="The model to train, for its tokenizer.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pairs.")],
    words: Annotated[int, typer.Option(help="Responses are cut after so many words.")] = 22,
    held_out: HeldOut = 0.2,
    min_gap: MinGap = 1.0,
    most: Most = 4,
    seed: Seed = 0,
) -> None:
    """Pair rated completions within each prompt, the higher reward chosen."""
    rated: dict[str, list[Rated]] = {}
    for line in rated_file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = " ".join(row["text"].replace("<br />", " ").split()[:words])
        if text:
            joint = "" if text[0] in ".,;:!?'" else " "
            rated.setdefault(row["prompt"], []).append(Rated(joint + text, row["reward"]))
    write_split(rated, out, held_out=held_out, min_gap=min_gap, most=most, seed=seed)
    _save_endless(AutoTokenizer.from_pretrained(model), out)


if __name__ == "__main__":
    app()
